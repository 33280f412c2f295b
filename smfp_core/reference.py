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
    """Least and greatest velocity of the next tick, computed on arrays made once.

    At a handful of joints the cost of an array operation is the call, and that of temporaries and
    broadcasting more than the call: so everything is written into arrays of one shape. Belongs to
    one thread.

    Args:
        limits: of the reference, [n].
        dt: control period, s.

    Attributes:
        low, high: float64 [n], rad/s, as ``update`` left them.
        step: what the velocity may change by in one tick, float64 [n], rad/s.
        periods: ``dt`` for each joint, float64 [n].
        motion: scratch of whoever uses the bounds, float64 [n].
    """

    def __init__(self, limits: ReferenceLimits, dt: float) -> None:
        self.limits, self.dt = limits, dt
        self.step = limits.acceleration * dt
        n = len(self.step)
        self.periods = np.full(n, dt)
        self.motion = np.empty(n)
        self.low, self.high = np.empty(n), np.empty(n)
        self._slowest, self._fastest = np.empty(n), np.empty(n)
        # Rows: towards the upper limit, towards the lower one.
        self._speed = np.empty((2, n))
        self._upper, self._lower = self._speed
        self._zero = np.zeros((2, n))
        self._steps = np.array([self.step, self.step])
        self._steps_squared = self._steps * self._steps
        self._twice_acceleration = 2.0 * np.array([limits.acceleration, limits.acceleration])
        self._greatest = np.array([limits.velocity, limits.velocity])

    def update(self, position: FloatArray, velocity: FloatArray) -> None:
        """Find the bounds for a reference at ``position`` (rad) and ``velocity`` (rad/s), [n].

        From an admissible state the interval is never empty. From one that is not (the arm was
        started beyond a limit), the bounds meet at the velocity nearest to admissible that the
        acceleration limit allows: acceleration is never exceeded, and motion back is allowed.
        """
        limits, speed = self.limits, self._speed
        upper, lower, slowest, fastest = self._upper, self._lower, self._slowest, self._fastest
        # The greatest speed v from which braking ends within the room to the limit solves
        # v**2 / (2*a) + v*dt = room.
        np.subtract(limits.position_max, position, upper)
        np.subtract(position, limits.position_min, lower)
        np.maximum(speed, self._zero, speed)
        np.multiply(speed, self._twice_acceleration, speed)
        np.add(speed, self._steps_squared, speed)
        np.sqrt(speed, speed)
        np.subtract(speed, self._steps, speed)
        np.minimum(speed, self._greatest, speed)
        np.negative(lower, lower)
        np.subtract(velocity, self.step, slowest)
        np.add(velocity, self.step, fastest)
        np.maximum(lower, slowest, self.low)
        np.minimum(self.low, fastest, self.low)
        np.minimum(upper, fastest, self.high)
        np.maximum(self.high, slowest, self.high)


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
        """Bounds of this reference's next tick; kept with it, as whoever advances it owns both."""
        bounds = self._bounds
        if bounds is None or bounds.limits is not limits or bounds.dt != dt:
            bounds = self._bounds = VelocityBounds(limits, dt)
        bounds.update(self.position, self.velocity)
        return bounds


def velocity_towards(
    limits: ReferenceLimits, room: FloatArray, acceleration: FloatArray, dt: float
) -> FloatArray:
    """Greatest speed [n] (rad/s) from which braking ends within ``room`` [n] (rad).

    Solves ``v**2 / (2*a) + v*dt = room`` for v; zero where there is no room.
    """
    step = acceleration * dt
    speed = np.sqrt(step * step + 2.0 * acceleration * np.maximum(room, 0.0)) - step
    return np.minimum(speed, limits.velocity)


def admissible_velocity(
    limits: ReferenceLimits, reference: Reference, dt: float
) -> tuple[FloatArray, FloatArray]:
    """Least and greatest velocity [n] (rad/s) that the reference may take at the next tick.

    See ``VelocityBounds.update``; what is returned is overwritten by the next call.
    """
    bounds = reference.bounds(limits, dt)
    return bounds.low, bounds.high


def advance_reference(
    limits: ReferenceLimits, reference: Reference, velocity: FloatArray, dt: float
) -> None:
    """Advance ``reference`` in place by one tick towards ``velocity`` [n], rad/s."""
    bounds = reference.bounds(limits, dt)
    new = reference.velocity
    np.maximum(velocity, bounds.low, new)
    np.minimum(new, bounds.high, new)
    np.multiply(new, bounds.periods, bounds.motion)
    np.add(reference.position, bounds.motion, reference.position)


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
