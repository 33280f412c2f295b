# SPDX-License-Identifier: Apache-2.0
"""The safety filter on every command, and the checks on the measured arm. No ROS in here."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence

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
# Share of the greatest change of velocity in a tick from which one counts as that, for rounding.
_SATURATED = 0.999


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
    JERK = enum.auto()


KINDS = tuple(kind for kind in Intervention if kind is not Intervention.NONE)


# Plain numbers: an operation on an IntFlag takes as long as the arithmetic of six joints.
(
    _NON_FINITE,
    _POSITION,
    _VELOCITY,
    _ACCELERATION,
    _TOOL_SPEED,
    _WORKSPACE,
    _COLLISION,
    _JERK,
) = map(int, KINDS)
Values = list[float] | FloatArray
_combination = functools.cache(Intervention)
_FREE, _TOO_FAST = Verdict.FREE, Verdict.TOOL_SPEED


class SafetyFilter:
    """Bounds every command. Works on plain floats, as ``VelocityBounds`` does and for its reason.

    The bounds are those of ``smfp_core.reference``, to the bit, so that a reference integrated
    there under the same or tighter limits passes untouched.

    With a guard the command also keeps clear of the arm itself and its surroundings, and within
    a speed limit of the tool: what the guard refuses is replaced by braking at full acceleration,
    or, for the speed, by less of it in the direction that is wanted. See ``PathGuard`` for why
    that works.

    Args:
        limits: of the robot, [n].
        dt: control period, s.
        guard: for the same acceleration and period; None: limits of the joints alone.
        jerk_limit: rad/s^3, of every joint; 0: none. Every other promise comes before it: the
            bounds from which the arm can always stop, and what the guard has to do. See
            ``_smooth``.
    """

    def __init__(
        self,
        limits: ReferenceLimits,
        dt: float,
        guard: PathGuard | None = None,
        jerk_limit: float = 0.0,
    ) -> None:
        self._bounds = VelocityBounds(limits, dt)
        self._dt = dt
        self._fastest: list[float] = limits.velocity.tolist()
        self._step: list[float] = (limits.acceleration * dt).tolist()
        self._guard = guard
        self._jerk_limit = jerk_limit
        # Change of velocity in the last tick, rad/s.
        self._change = [0.0] * len(self._step)
        self._caution, self._caution_ticks = 0, max(1, round(_CAUTION_S / dt))
        self._blocked_by = 0
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
        self._change = [0.0] * len(self._change)
        if self._guard is not None:
            self._guard.begin(position)

    def apply(
        self,
        command: Reference,
        desired_velocity: Values,
        heading: Values | None = None,
        urgent: bool = False,
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
            urgent: a stop for safety: not softened by the limit of the jerk.

        Returns:
            What had to be changed, ``Intervention.NONE`` for a command that passed untouched.
        """
        position, present = command.position.tolist(), command.velocity.tolist()
        desired = _plain(desired_velocity)
        low, high = self._bounds.at(position, present)
        kinds = 0
        # NaN fails every comparison, and so becomes a bound here, which the next lines mend.
        velocity = _clip(desired, low, high)
        if velocity != desired:
            wanted = [x if math.isfinite(x) else 0.0 for x in desired]
            velocity = _clip(wanted, low, high)
            kinds = self._classify(present, desired, wanted, low, high)
        towards = desired if heading is None else _plain(heading)
        if self._jerk_limit and not urgent and not kinds & _NON_FINITE:
            smooth = _clip(self._smooth(present, desired, towards), low, high)
            if any(abs(x - v) > _ROUNDING for x, v in zip(smooth, velocity, strict=True)):
                kinds |= _JERK
            velocity = smooth
        if self._guard is not None:
            velocity, more = self._keep_clear(
                self._guard, command, present, velocity, towards, low, high
            )
            kinds |= more
        if self._jerk_limit:
            self._change = [new - old for new, old in zip(velocity, present, strict=True)]
        command.velocity[:] = velocity
        command.position[:] = [q + v * self._dt for q, v in zip(position, velocity, strict=True)]
        return _combination(kinds)

    def forget(self) -> None:
        """Trust nothing measured before; for use after ``apply`` raised."""
        self._cruise = 0
        if self._guard is not None:
            self._guard.forget()

    def _smooth(
        self, present: list[float], desired: list[float], heading: list[float]
    ) -> list[float]:
        """Velocities on the way to ``desired`` under the limit of the jerk.

        In a tick the velocity changes by c, and c by no more than u = jerk * dt^2. Letting c
        shrink by u a tick adds at most (c - u/2)^2 / (2u) after this tick, which with the c of
        this one is (c + u/2)^2 / (2u). So a change of at most sqrt(2 u e) - u/2 can be let shrink
        before a target that is e away, and one of at most u needs no shrinking. By induction the
        velocity limit, within which every target lies, is never overshot, though a target that
        was changed on the way may be.
        """
        u = self._jerk_limit * self._dt * self._dt
        smooth = []
        rows = zip(present, desired, heading, self._change, self._fastest, self._step, strict=True)
        for v, wanted, target, change, limit, step in rows:
            # A desired velocity that is a whole step away is on its way to the heading.
            if abs(wanted - v) < _SATURATED * step or (wanted - v) * (target - v) <= 0.0:
                target = wanted
            left = min(max(target, -limit), limit) - v
            most = max(math.sqrt(2.0 * u * abs(left)) - u / 2.0, min(abs(left), u))
            wish = math.copysign(min(most, step), left)
            smooth.append(v + min(max(wish, change - u), change + u))
        return smooth

    def _keep_clear(
        self,
        guard: PathGuard,
        command: Reference,
        present: list[float],
        wanted: list[float],
        heading: list[float],
        low: list[float],
        high: list[float],
    ) -> tuple[list[float], int]:
        """``wanted`` if the guard accepts it, else a velocity that it accepts, or braking."""
        brake = [
            least if least > 0.0 else greatest if greatest < 0.0 else 0.0
            for least, greatest in zip(low, high, strict=True)
        ]
        if wanted == brake:
            self._cruise = 0
            guard.commit(wanted, accepted=False)
            return wanted, 0
        kinds = 0
        if self._caution:
            self._caution -= 1
            # No joint becomes faster than it is, nor turns round.
            slower = _towards_rest(wanted, present)
            if slower != wanted:
                wanted, kinds = slower, self._blocked_by
        # The velocity stays as it is if every joint is to be as fast or faster.
        cruising = bool(self._cruise) and _towards_rest(wanted, present) == present
        if cruising:
            self._cruise -= 1
            wanted = present
            kinds |= _TOOL_SPEED
        elif self._slowed:
            followed = self._follow(wanted, heading, low, high)
            if followed != wanted:
                wanted = followed
                kinds |= _TOOL_SPEED
        verdict = guard.judge(command, wanted, cruising)
        if verdict is _TOO_FAST:
            kinds |= _TOOL_SPEED
            self._slowed = True
            share = _SPEED_SHARE * guard.speed_limit_m_s / guard.speed_m_s
            slower = [share * v for v in wanted]
            wanted = _clip(slower, low, high)
            verdict = guard.judge(command, wanted, wanted == slower)
        accepted = verdict is _FREE
        if accepted:
            if self._slowed and not cruising:
                self._cruise = CRUISE_TICKS - 1
        else:
            if verdict is not _TOO_FAST:
                self._blocked_by = _WORKSPACE if verdict is Verdict.WORKSPACE else _COLLISION
                self._caution = self._caution_ticks
                kinds |= self._blocked_by
            self._cruise = 0
            wanted = brake
        guard.commit(wanted, accepted)
        return wanted, kinds

    def _follow(
        self, wanted: list[float], heading: list[float], low: list[float], high: list[float]
    ) -> list[float]:
        """Turn ``wanted`` into the direction of ``heading``, at the pace that it has.

        Bounded by its acceleration, each joint gains the same each tick; scaled down every time,
        the motion would end up with all joints equally fast.
        """
        sizes = [abs(speed) for speed in heading]
        pace, size = max([abs(speed) for speed in wanted]), max(sizes)
        # The sum, unlike the maximum, is finite only if every value is.
        if not (pace < size and math.isfinite(sum(sizes))):
            self._slowed = False
            return wanted
        share = pace / size
        return _clip([share * speed for speed in heading], low, high)

    def _classify(
        self,
        present: list[float],
        desired: list[float],
        wanted: list[float],
        low: list[float],
        high: list[float],
    ) -> int:
        """Why ``wanted``, which is ``desired`` where that is finite, is not within its bounds."""
        kinds = 0
        if wanted != desired:
            kinds |= _NON_FINITE
        rows = zip(present, wanted, low, high, self._fastest, self._step, strict=True)
        for v, x, least, greatest, limit, step in rows:
            above, below = x > greatest + _ROUNDING, x < least - _ROUNDING
            if not (above or below):
                continue
            if abs(x) > limit + _ROUNDING:
                kinds |= _VELOCITY
            if x > v + step + _ROUNDING or x < v - step - _ROUNDING:
                kinds |= _ACCELERATION
            # Bounds tighter than these two explain come from the room left for braking.
            if above and greatest < min(limit, v + step) - _ROUNDING:
                kinds |= _POSITION
            if below and least > max(-limit, v - step) + _ROUNDING:
                kinds |= _POSITION
        return kinds


def _plain(values: Values) -> list[float]:
    return values if isinstance(values, list) else values.tolist()


def _clip(values: list[float], low: list[float], high: list[float]) -> list[float]:
    """Each of ``values`` within its bounds; the upper one for what is no number."""
    return [
        x if least <= x <= greatest else least if x < least else greatest
        for x, least, greatest in zip(values, low, high, strict=True)
    ]


def _towards_rest(wanted: list[float], present: list[float]) -> list[float]:
    """Each of ``wanted``, cut to the range between rest and ``present``."""
    return [
        (0.0 if x < 0.0 else x if x < v else v)
        if v > 0.0
        else (0.0 if x > 0.0 else x if x > v else v)
        for x, v in zip(wanted, present, strict=True)
    ]


class StateMonitor:
    """Checks that the measured arm is where and as fast as it can be.

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
        self._names = robot.joint_names
        self._low = [joint.position_rad[0] for joint in robot.joints]
        self._high = [joint.position_rad[1] for joint in robot.joints]
        self._velocity = [
            joint.velocity_rad_s * (1.0 + velocity_tolerance) for joint in robot.joints
        ]
        self._tracking_error = tracking_error_rad
        self._jump = jump_rad
        self._bounds = list(zip(self._low, self._high, self._velocity, strict=True))

    def check(
        self,
        position: Sequence[float],
        velocity: Sequence[float],
        commanded: Sequence[float] | None,
    ) -> Fault | None:
        """Measured position and velocity [n], and the commanded position if there is one."""
        commanded = position if commanded is None else commanded
        rows = zip(position, velocity, commanded, self._bounds, strict=True)
        far = self._tracking_error
        # Comparisons that NaN fails, too.
        for at, speed, command, (low, high, fastest) in rows:
            if not (low <= at <= high and -fastest <= speed <= fastest):
                break
            if not -far <= command - at <= far:
                break
        else:
            return None
        return self._name(np.array(position), np.array(velocity), np.array(commanded))

    def _name(self, position: FloatArray, velocity: FloatArray, commanded: FloatArray) -> Fault:
        """What is wrong: a position before a velocity, a velocity before a distance."""
        distance = np.abs(commanded - position)
        within = np.array(
            [
                (position >= self._low) & (position <= self._high),
                np.abs(velocity) <= self._velocity,
                distance <= self._tracking_error,
            ]
        )
        row, i = map(int, np.argwhere(~within)[0])
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
            f"{name} is {distance[i]:.3f} rad from its command (limit "
            f"{self._tracking_error:g}): does the controller take the commands, is the arm free? "
            "Deactivate, reset and activate to start again from where it is",
        )

    def check_jump(
        self, before: Sequence[float], after: Sequence[float], elapsed_s: float
    ) -> Fault | None:
        """Two successive positions [n] (rad) that lie ``elapsed_s`` apart."""
        jump = self._jump
        # Nearly always so, and quick to see.
        for one, other in zip(before, after, strict=True):
            if not -jump <= other - one <= jump:
                break
        else:
            return None
        difference = np.abs(np.subtract(after, before))
        bound = jump + np.array(self._velocity) * elapsed_s
        if (difference <= bound).all():
            return None
        i = int(np.argmax(difference - bound))
        return Fault(
            FaultKind.STATE_JUMP,
            f"{self._names[i]} jumped by {difference[i]:.3f} rad in {elapsed_s * 1e3:.1f} ms"
            " between two joint states: two publishers, or a driver that restarted?",
        )
