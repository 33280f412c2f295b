# SPDX-License-Identifier: Apache-2.0
"""The joint reference: the integral of the policy's joint velocity under the arm's limits.

Position and velocity of the reference obey, at every control tick of length ``dt``:

    position' = position + velocity' * dt
    |velocity' - velocity| <= acceleration * dt
    position stays within [min, max], and so does the path of braking at full acceleration.

The braking path of a reference that moves at v and slows by a*dt a tick is at most
``v**2 / (2*a) + v*dt`` long. Bounding that by the room left to the limit keeps every later tick
able to stop in time: if v satisfies the bound, so does v - a*dt from the next position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smfp_core.specs import ActionSpec, FloatArray


@dataclass(frozen=True)
class ReferenceLimits:
    """Bounds on the reference, float64 arrays [n] in joint order (rad, rad/s, rad/s^2)."""

    position_min: FloatArray
    position_max: FloatArray
    velocity: FloatArray
    acceleration: FloatArray

    @classmethod
    def of(cls, spec: ActionSpec) -> ReferenceLimits:
        """Limits under which actions of ``spec`` are integrated."""
        return cls(
            np.asarray(spec.position_min_rad, np.float64),
            np.asarray(spec.position_max_rad, np.float64),
            np.asarray(spec.scale_rad_s, np.float64),
            np.asarray(spec.acceleration_rad_s2, np.float64),
        )


class VelocityBounds:
    """Least and greatest velocity of the next tick, joint by joint.

    Plain floats: for a handful of joints that takes a third of the time of array operations, of
    which each costs its call. The arithmetic is the same, to the bit.

    Args:
        limits: of the reference, [n].
        dt: control period, s.
    """

    def __init__(self, limits: ReferenceLimits, dt: float) -> None:
        self.limits, self.dt = limits, dt
        step = limits.acceleration * dt
        # From this far inside the range any speed can be braked; the rest is for rounding.
        braking = limits.velocity * (limits.velocity + 2.0 * step) / (2.0 * limits.acceleration)
        braking *= 1.0 + 1e-9
        self._joints = list(
            zip(
                limits.velocity.tolist(),
                step.tolist(),
                (limits.position_min + braking).tolist(),
                (limits.position_max - braking).tolist(),
                limits.position_min.tolist(),
                limits.position_max.tolist(),
                (2.0 * limits.acceleration).tolist(),
                (step * step).tolist(),
                strict=True,
            )
        )

    def at(self, position: list[float], velocity: list[float]) -> tuple[list[float], list[float]]:
        """Least and greatest velocity (rad/s) after ``position`` (rad) and ``velocity``, [n] each.

        From an admissible state the interval is never empty. From one that is not (the arm was
        started beyond a limit), the bounds meet at the velocity nearest to admissible that the
        acceleration limit allows: acceleration is never exceeded, and motion back is allowed.
        """
        least: list[float] = []
        greatest: list[float] = []
        # Conditional expressions: a call of min or max costs as much as all the rest of a joint.
        for q, v, joint in zip(position, velocity, self._joints, strict=True):
            upper, step, inner_min, inner_max, q_min, q_max, twice_acceleration, squared = joint
            lower = -upper
            if not inner_min < q < inner_max:
                # The greatest speed v from which braking ends within the room to the limit solves
                # v**2 / (2*a) + v*dt = room.
                ahead, back = max(q_max - q, 0.0), max(q - q_min, 0.0)
                upper = min(math.sqrt(ahead * twice_acceleration + squared) - step, upper)
                lower = max(step - math.sqrt(back * twice_acceleration + squared), lower)
            slowest, fastest = v - step, v + step
            if slowest > lower:
                lower = slowest
            if slowest > upper:
                upper = slowest
            least.append(lower if lower < fastest else fastest)
            greatest.append(upper if upper < fastest else fastest)
        return least, greatest

    def towards(
        self, position: list[float], velocity: list[float], wanted: list[float]
    ) -> list[float]:
        """The velocity of the next tick, as near to ``wanted`` as it may be, [n] each."""
        low, high = self.at(position, velocity)
        return [
            least if x < least else greatest if x > greatest else x
            for x, least, greatest in zip(wanted, low, high, strict=True)
        ]


@dataclass
class Reference:
    """Commanded joint position (rad) and velocity (rad/s), float64 [n]; updated in place."""

    position: FloatArray
    velocity: FloatArray
    _bounds: VelocityBounds | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def at_rest(cls, position: ArrayLike) -> Reference:
        """A reference that stands still at ``position`` [n], rad."""
        start = np.array(position, np.float64)
        return cls(start, np.zeros_like(start))

    def bounds(self, limits: ReferenceLimits, dt: float) -> VelocityBounds:
        """Bounds of this reference's next tick; kept with it, as making them takes time."""
        bounds = self._bounds
        if bounds is None or bounds.limits is not limits or bounds.dt != dt:
            bounds = self._bounds = VelocityBounds(limits, dt)
        return bounds


def advance_reference(
    limits: ReferenceLimits, reference: Reference, velocity: FloatArray, dt: float
) -> None:
    """Advance ``reference`` in place by one tick towards ``velocity`` [n], rad/s."""
    position, present = reference.position.tolist(), reference.velocity.tolist()
    new = reference.bounds(limits, dt).towards(position, present, velocity.tolist())
    reference.velocity[:] = new
    reference.position[:] = [q + v * dt for q, v in zip(position, new, strict=True)]


def action_to_command(
    spec: ActionSpec,
    limits: ReferenceLimits,
    action: NDArray[np.floating],
    reference: Reference,
) -> None:
    """Advance ``reference`` in place by one control tick under ``action``.

    Called once a control period, ``spec.ticks_per_action`` times with the same action: the
    reference is the integral of the policy's velocity, so commands between two policy samples
    need no interpolation and add no lag.

    Args:
        spec: meaning of the action.
        limits: ``ReferenceLimits.of(spec)``, made once.
        action: finite values [n]; clipped to [-1, 1].
        reference: the reference, [n] joints.
    """
    # Not clipped here: the bounds of the next tick, which are nowhere wider, do it.
    advance_reference(limits, reference, action * limits.velocity, spec.control_period_s)
