# SPDX-License-Identifier: Apache-2.0
"""The safety filter on every command, and the checks on the measured arm. No ROS in here."""

from __future__ import annotations

import enum
import math

import numpy as np

from smfp_control.faults import Fault, FaultKind
from smfp_control.path_guard import CRUISE_TICKS, PathGuard, Verdict
from smfp_core.reference import Reference, ReferenceLimits, VelocityBounds
from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray

# Counting tolerance, rad/s: two ways of computing one bound differ by rounding alone.
_ROUNDING = 1e-9
# After braking before something, no joint becomes faster for this long. Without it a command that
# pushes on would have the arm brake and accelerate in turn, every other tick.
_CAUTION_S = 0.05
# The second attempt at a speed below the limit stays this far below it, for rounding.
_SPEED_SHARE = 0.999


class Intervention(enum.IntFlag):
    """What the filter had to change; several may apply to one command."""

    NONE = 0
    NON_FINITE = enum.auto()
    POSITION = enum.auto()
    VELOCITY = enum.auto()
    ACCELERATION = enum.auto()
    TOOL_SPEED = enum.auto()
    WORKSPACE = enum.auto()
    COLLISION = enum.auto()


KINDS = tuple(kind for kind in Intervention if kind is not Intervention.NONE)


_BLOCKED = {
    Verdict.COLLISION: Intervention.COLLISION,
    Verdict.WORKSPACE: Intervention.WORKSPACE,
}


class SafetyFilter:
    """Bounds every command. Arithmetic on preallocated arrays: a tick allocates next to nothing.

    The bounds are those of ``smfp_core.reference.admissible_velocity``, to the bit, so that a
    reference integrated there under the same or tighter limits passes untouched.

    With a guard the command also keeps clear of the arm itself and its surroundings, and within
    a speed limit of the tool: what the guard refuses is replaced by braking at full acceleration,
    or, for the speed, by less of it in the direction that is wanted. See ``PathGuard`` for why
    that works.

    Args:
        limits: of the robot, [n].
        dt: control period, s.
        guard: for the same acceleration and period; None: limits of the joints alone.
    """

    def __init__(self, limits: ReferenceLimits, dt: float, guard: PathGuard | None = None) -> None:
        n = len(limits.velocity)
        self._limits = limits
        self._bounds = VelocityBounds(limits, dt)
        self._low, self._high, self._step = self._bounds.low, self._bounds.high, self._bounds.step
        self._other = np.empty(n)
        self._change = np.empty(n)
        self._untouched = np.empty(n, np.bool_)
        self._guard = guard
        self._brake = np.empty(n)
        self._caution, self._caution_ticks = 0, max(1, round(_CAUTION_S / dt))
        self._blocked_by = Intervention.NONE
        # Held to the speed limit; and ticks left for which the velocity may stay as it is.
        self._slowed, self._cruise = False, 0

    @property
    def reason(self) -> str:
        """What was last in the way of a command; empty if nothing was yet."""
        return self._guard.reason if self._guard is not None else ""

    def refusal(self, position: FloatArray) -> str | None:
        """Why the arm may not start from ``position`` [n], rad; None if it may."""
        return self._guard.refusal(position) if self._guard is not None else None

    def begin(self, position: FloatArray) -> None:
        """Start at rest at ``position`` [n], rad, where ``refusal`` found nothing in the way."""
        self._caution, self._slowed, self._cruise = 0, False, 0
        if self._guard is not None:
            self._guard.begin(position)

    def apply(
        self,
        command: Reference,
        desired_velocity: FloatArray,
        heading: FloatArray | None = None,
    ) -> Intervention:
        """Advance ``command`` in place by one tick, as near to the desired one as limits allow.

        Whatever comes in (NaN, infinities, jumps), the result keeps to the limits in position,
        velocity and acceleration, and from it the arm can always brake within them. A command
        that starts beyond a position limit is led back, never further out.

        Args:
            command: the last command sent, finite; becomes the next one.
            desired_velocity: rad/s [n]; where not finite, the arm is braked.
            heading: velocity [n], finite, that the desired one is on its way to as fast as the
                acceleration allows: its direction is kept where the tool has to be slower. By
                default that of ``desired_velocity``.

        Returns:
            What had to be changed, ``Intervention.NONE`` for a command that passed untouched.
        """
        self._bounds.update(command.position, command.velocity)
        low, high, velocity = self._low, self._high, command.velocity
        # NaN passes minimum and maximum, and then fails the comparison.
        np.maximum(desired_velocity, low, out=self._change)
        np.minimum(self._change, high, out=self._change)
        np.subtract(self._change, desired_velocity, out=self._other)
        np.abs(self._other, out=self._other)
        np.less_equal(self._other, _ROUNDING, out=self._untouched)
        kinds = Intervention.NONE
        if np.count_nonzero(self._untouched) != len(low):
            finite = np.isfinite(desired_velocity)
            wanted = np.where(finite, desired_velocity, 0.0)
            if not finite.all():
                kinds |= Intervention.NON_FINITE
            kinds |= self._classify(command, wanted)
            np.minimum(np.maximum(wanted, low), high, out=self._change)
        if self._guard is not None:
            kinds |= self._keep_clear(
                self._guard, command, desired_velocity if heading is None else heading
            )
        velocity[:] = self._change
        np.multiply(self._change, self._bounds.periods, self._change)
        np.add(command.position, self._change, command.position)
        return kinds

    def forget(self) -> None:
        """Trust nothing measured before; for use after ``apply`` raised."""
        self._cruise = 0
        if self._guard is not None:
            self._guard.forget()

    def _keep_clear(
        self, guard: PathGuard, command: Reference, heading: FloatArray
    ) -> Intervention:
        """Replace the velocity in ``_change`` by one that the guard accepts, or by braking."""
        wanted, brake = self._change, self._brake
        np.minimum(self._high, 0.0, out=brake)
        np.maximum(brake, self._low, out=brake)
        if not np.count_nonzero(wanted != brake):
            self._cruise = 0
            guard.commit(wanted, accepted=False)
            return Intervention.NONE
        kinds = Intervention.NONE
        if self._caution:
            self._caution -= 1
            kinds = self._hold_back(command.velocity)
        cruising = bool(self._cruise) and self._keep_pace(command.velocity)
        if cruising:
            self._cruise -= 1
            kinds |= Intervention.TOOL_SPEED
        elif self._slowed:
            kinds |= self._follow(heading)
        verdict = guard.judge(command, wanted, cruising)
        if verdict is Verdict.TOOL_SPEED:
            kinds |= Intervention.TOOL_SPEED
            self._slowed = True
            slower = self._other
            np.multiply(wanted, _SPEED_SHARE * guard.speed_limit_m_s / guard.speed_m_s, out=slower)
            np.maximum(slower, self._low, out=wanted)
            np.minimum(wanted, self._high, out=wanted)
            verdict = guard.judge(command, wanted, not np.count_nonzero(wanted != slower))
        if verdict in _BLOCKED:
            self._blocked_by = _BLOCKED[verdict]
            self._caution = self._caution_ticks
            kinds |= self._blocked_by
        if verdict is not Verdict.FREE:
            self._cruise = 0
            wanted[:] = brake
        elif self._slowed and not cruising:
            self._cruise = CRUISE_TICKS - 1
        guard.commit(wanted, accepted=verdict is Verdict.FREE)
        return kinds

    def _follow(self, heading: FloatArray) -> Intervention:
        """Turn ``_change`` into the direction of ``heading``, at the pace that it has.

        Bounded by its acceleration, each joint gains the same each tick; scaled down every time,
        the motion would end up with all joints equally fast.
        """
        wanted = self._change
        sizes = [abs(speed) for speed in heading.tolist()]
        pace, size = max(map(abs, wanted.tolist())), max(sizes)
        # The sum, unlike the maximum, is finite only if every value is.
        if not (pace < size and math.isfinite(sum(sizes))):
            self._slowed = False
            return Intervention.NONE
        np.multiply(heading, pace / size, out=self._other)
        np.maximum(self._other, self._low, out=self._other)
        np.minimum(self._other, self._high, out=self._other)
        if not np.count_nonzero(self._other != wanted):
            return Intervention.NONE
        wanted[:] = self._other
        return Intervention.TOOL_SPEED

    def _hold_back(self, velocity: FloatArray) -> Intervention:
        """Let no joint in ``_change`` become faster than it is, nor turn round."""
        self._bound_by(velocity)
        if not np.count_nonzero(self._other != self._change):
            return Intervention.NONE
        self._change[:] = self._other
        return self._blocked_by

    def _keep_pace(self, velocity: FloatArray) -> bool:
        """Keep the velocity as it is if every joint in ``_change`` is to be as fast or faster."""
        self._bound_by(velocity)
        if np.count_nonzero(self._other != velocity):
            return False
        self._change[:] = velocity
        return True

    def _bound_by(self, velocity: FloatArray) -> None:
        """Write ``_change`` to ``_other``, cut to the range between rest and ``velocity``."""
        np.minimum(velocity, 0.0, out=self._other)
        np.maximum(self._change, self._other, out=self._other)
        np.minimum(self._other, np.maximum(velocity, 0.0), out=self._other)

    def _classify(self, command: Reference, desired: FloatArray) -> Intervention:
        limits, low, high, step = self._limits, self._low, self._high, self._step
        kinds = Intervention.NONE
        above, below = desired > high + _ROUNDING, desired < low - _ROUNDING
        if ((above | below) & (np.abs(desired) > limits.velocity + _ROUNDING)).any():
            kinds |= Intervention.VELOCITY
        fastest, slowest = command.velocity + step, command.velocity - step
        sudden = (desired > fastest + _ROUNDING) | (desired < slowest - _ROUNDING)
        if ((above | below) & sudden).any():
            kinds |= Intervention.ACCELERATION
        # Bounds tighter than these two explain come from the room left for braking.
        upper = np.minimum(limits.velocity, fastest)
        lower = np.maximum(-limits.velocity, slowest)
        braking = (above & (high < upper - _ROUNDING)) | (below & (low > lower + _ROUNDING))
        return kinds | Intervention.POSITION if braking.any() else kinds


class StateMonitor:
    """Checks that the measured arm is where and as fast as it can be. No allocation when it is.

    Args:
        robot: gives names and hard limits (data sheet, without the margin of commands).
        velocity_tolerance: part of the velocity limit that a measurement may exceed it by.
        tracking_error_rad: greatest distance between commanded and measured position.
        jump_rad: what two successive states may differ by beyond motion at the velocity limit.
    """

    def __init__(
        self,
        robot: RobotConfig,
        velocity_tolerance: float,
        tracking_error_rad: float,
        jump_rad: float,
    ) -> None:
        n = len(robot.joints)
        self._names = robot.joint_names
        self._low = np.array([joint.position_rad[0] for joint in robot.joints])
        self._high = np.array([joint.position_rad[1] for joint in robot.joints])
        self._centre = (self._low + self._high) / 2.0
        self._velocity = np.array([joint.velocity_rad_s for joint in robot.joints])
        self._velocity *= 1.0 + velocity_tolerance
        self._tracking_error = tracking_error_rad
        self._jump = jump_rad
        # Rows: position from the middle of its range, velocity, command from position.
        self._values = np.empty((3, n))
        self._bounds = np.array(
            [
                (self._high - self._low) / 2.0,
                self._velocity,
                np.full(n, tracking_error_rad),
            ]
        )
        self._within = np.empty((3, n), np.bool_)
        self._difference = np.empty(n)

    def check(
        self, position: FloatArray, velocity: FloatArray, commanded: FloatArray | None
    ) -> Fault | None:
        """Measured position and velocity [n], and the commanded position if there is one."""
        values = self._values
        np.subtract(position, self._centre, out=values[0])
        values[1] = velocity
        np.subtract(position if commanded is None else commanded, position, out=values[2])
        np.abs(values, out=values)
        np.less_equal(values, self._bounds, out=self._within)
        if np.count_nonzero(self._within) == values.size:
            return None
        row, i = map(int, np.argwhere(~self._within)[0])
        name = self._names[i]
        if row == 0:
            return Fault(
                FaultKind.POSITION_LIMIT,
                f"{name} is at {position[i]:.4f} rad, outside its limits [{self._low[i]:.4f}, "
                f"{self._high[i]:.4f}]: move it back with the robot's pendant",
            )
        if row == 1:
            return Fault(
                FaultKind.VELOCITY_LIMIT,
                f"{name} moves at {velocity[i]:.3f} rad/s, above {self._velocity[i]:.3f} rad/s",
            )
        return Fault(
            FaultKind.TRACKING_ERROR,
            f"{name} is {values[2, i]:.3f} rad from its command (limit "
            f"{self._tracking_error:g}): does the controller take the commands, is the arm free? "
            "Deactivate, reset and activate to start again from where it is",
        )

    def check_jump(self, before: FloatArray, after: FloatArray, elapsed_s: float) -> Fault | None:
        """Two successive positions [n] (rad) that lie ``elapsed_s`` apart."""
        difference = self._difference
        np.subtract(after, before, out=difference)
        np.abs(difference, out=difference)
        # Nearly always so, and quick to see.
        if max(difference.tolist()) <= self._jump:
            return None
        bound = self._jump + self._velocity * elapsed_s
        if (difference <= bound).all():
            return None
        i = int(np.argmax(difference - bound))
        return Fault(
            FaultKind.STATE_JUMP,
            f"{self._names[i]} jumped by {difference[i]:.3f} rad in {elapsed_s * 1e3:.1f} ms"
            " between two joint states: two publishers, or a driver that restarted?",
        )
