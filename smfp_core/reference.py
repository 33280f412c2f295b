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

from dataclasses import dataclass

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


@dataclass
class Reference:
    """Commanded joint position (rad) and velocity (rad/s), float64 [n]; updated in place."""

    position: FloatArray
    velocity: FloatArray

    @classmethod
    def at_rest(cls, position: ArrayLike) -> Reference:
        """A reference that stands still at ``position`` [n], rad."""
        start = np.array(position, np.float64)
        return cls(start, np.zeros_like(start))


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

    From an admissible state the interval is never empty. From one that is not (the arm was
    started beyond a limit), the bounds meet at the velocity nearest to admissible that the
    acceleration limit allows: acceleration is never exceeded, and motion back inside is allowed.
    """
    step = limits.acceleration * dt
    slowest = reference.velocity - step
    fastest = reference.velocity + step
    upper = velocity_towards(
        limits, limits.position_max - reference.position, limits.acceleration, dt
    )
    lower = -velocity_towards(
        limits, reference.position - limits.position_min, limits.acceleration, dt
    )
    return (
        np.minimum(np.maximum(lower, slowest), fastest),
        np.maximum(np.minimum(upper, fastest), slowest),
    )


def advance_reference(
    limits: ReferenceLimits, reference: Reference, velocity: FloatArray, dt: float
) -> None:
    """Advance ``reference`` in place by one tick towards ``velocity`` [n], rad/s."""
    low, high = admissible_velocity(limits, reference, dt)
    # As np.clip, whose Python layers cost more than the arithmetic at a handful of joints.
    np.minimum(np.maximum(velocity, low), high, out=reference.velocity)
    reference.position += reference.velocity * dt


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
    velocity = np.minimum(np.maximum(action, -1.0), 1.0) * limits.velocity
    advance_reference(limits, reference, velocity, spec.control_period_s)
