# SPDX-License-Identifier: Apache-2.0
"""Accepts a command only if the arm could brake from it without touching anything. No ROS in here.

**Invariant.** The reference always stands at a pose, with a velocity, from which braking every
joint at its full acceleration keeps every guarded distance at or above its margin at each tick,
and every guarded point at or below the speed limit.

**Why it holds.** It holds at the start, which is at rest. A candidate for the next tick is
accepted only if the braking path that begins with it fulfils it. If it does not, the caller
brakes; and the state after one tick of braking lies on the braking path that was verified
before, of which the rest is its own braking path (each joint loses ``acceleration * dt`` a tick
until it stands, whatever the others do). So there is always a verified way to stop.

**How a path is verified cheaply.** ``ClearanceModel.levers`` bound what a motion of the joints can
take off each distance. ``_slack`` holds, for every row, a lower bound of the distance less the
margin. Every 20 ms a survey asks of each row whether anything that the acceleration limit allows
for the next 20 ms, and braking after that, could use up its slack. Rows of which it could are
measured; those that remain in doubt are near, and are watched every tick, the others not at all
until the next survey. In the open this leaves next to nothing to do in nine ticks of ten.

A near row that runs short is measured anew at the candidate's pose; if that does not settle it,
along the braking path: from a slack s, at speeds that can cost c m/s, the arm may go on for s / c
seconds before the next look.

**Between ticks** the reference goes no further than one tick's motion: a row can lose at most half
of that on the way from one verified pose to the next. Near anything, ticks that could cost more
than the margin are refused. So the reference touches nothing between ticks either.

**Speed of points.** While the joints brake, each at its own pace, a point can become faster for a
moment: two joints that cancelled each other stop at different times. The velocity of a point is
the Jacobian times the joint velocities, which are linear in time between the moments at which
single joints come to rest; a norm is convex, so its greatest value lies at such a moment. What the
Jacobian itself changes over the path is bounded by the levers again (``_bend``). A candidate that
is refused with the bound B passes when scaled by limit / B: the velocities of the whole path scale
with it, and the distances that it goes shrink at least as much. The bound allows for
``CRUISE_TICKS`` ticks at the same velocity before the braking: these need no new one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smfp_core.reference import Reference
from smfp_core.specs import FloatArray
from smfp_sim.clearance import ClearanceModel

# Looks along one braking path, which bounds the cost of a tick. A path that needs more is refused.
_MOST_LOOKS = 5
# Rows measured in one survey, for the same reason. Those left over are watched as near ones.
_MOST_MEASURED = 16
# One period of policies at 50 Hz: longer surveys look further ahead and leave more rows in doubt.
_SURVEY_PERIOD_S = 0.02
# A Jacobian that is off by less motion than this is not computed anew where it costs some speed:
# at 0.25 m/s that is about 3 per cent.
_DRIFT_RAD = 0.003
# Ticks for which a velocity, once accepted, may be kept without judging its speed again.
CRUISE_TICKS = 5
# Share of the limit below which an older Jacobian is worth a try.
_EASY_SHARE = 0.9


class Verdict(enum.Enum):
    """What stands against a command."""

    FREE = enum.auto()
    COLLISION = enum.auto()
    WORKSPACE = enum.auto()
    TOOL_SPEED = enum.auto()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tick at one velocity, and what braking after it would be; plain floats, [n] each.

    Attributes:
        position: after the tick, rad.
        velocity, speed: in the tick, rad/s.
        step, brake: motion in the tick, and in all ticks after it, rad.
    """

    position: list[float]
    velocity: Sequence[float]
    speed: list[float]
    step: list[float]
    brake: list[float]

    @classmethod
    def of(
        cls, state: Reference, velocity: Sequence[float], step_speed: list[float], dt: float
    ) -> Candidate:
        """The tick from ``state`` at ``velocity``, where braking takes ``step_speed`` a tick."""
        speed = [abs(v) for v in velocity]
        return cls(
            [q + v * dt for q, v in zip(state.position.tolist(), velocity, strict=True)],
            velocity,
            speed,
            [v * dt for v in speed],
            _braking(speed, step_speed, dt),
        )

    @property
    def whole(self) -> list[float]:
        """Motion to the end."""
        return [step + brake for step, brake in zip(self.step, self.brake, strict=True)]

    @property
    def signs(self) -> FloatArray:
        """The velocities, [n, 1], for their signs."""
        return np.array(self.velocity)[:, None]

    def after(self, ticks: int, step_speed: list[float], dt: float) -> Candidate:
        """The same so many ticks of braking later."""
        speed = [max(v - ticks * s, 0.0) for v, s in zip(self.speed, step_speed, strict=True)]
        brake = _braking(speed, step_speed, dt)
        position = [
            q + math.copysign(all_of_it - rest, v)
            for q, v, all_of_it, rest in zip(
                self.position, self.velocity, self.brake, brake, strict=True
            )
        ]
        return Candidate(position, self.velocity, speed, [v * dt for v in speed], brake)


def _braking(speed: list[float], step_speed: list[float], dt: float) -> list[float]:
    """What braking from ``speed`` [n] moves each joint in the ticks after this one, rad."""
    way = []
    for v, step in zip(speed, step_speed, strict=True):
        # v - step, v - 2 step, ... while positive; their number is that of whole steps.
        count = math.floor(v / step)
        way.append(count * dt * (v - 0.5 * (count + 1.0) * step))
    return way


class PathGuard:
    """Judges candidates for the next tick. Belongs to one thread.

    Args:
        clearance: of the robot; used by this object alone.
        acceleration: rad/s^2 [n], at which the arm brakes.
        dt: control period, s.
        margin_m: least distance between geoms; positive.
        tool_speed_m_s: greatest speed of the guarded points (tool, elbow); 0: no limit.
        collisions: whether pairs of geoms are watched.

    Attributes:
        blocked_row: row of the last refusal for lack of distance; -1 before the first.
        speed_m_s: bound on the speed of the guarded points along the last path judged by it.
        looks: how often distances or Jacobians were measured, for the record of costs.
    """

    def __init__(
        self,
        clearance: ClearanceModel,
        acceleration: FloatArray,
        dt: float,
        margin_m: float = 0.01,
        tool_speed_m_s: float = 0.0,
        collisions: bool = True,
    ) -> None:
        if margin_m <= 0.0:
            raise ValueError("margin_m: must be positive")
        self._clearance, self._dt = clearance, dt
        self._acceleration = np.array(acceleration, np.float64)
        self.speed_limit_m_s = tool_speed_m_s
        # By how much a joint's speed can change in a tick, and in the time between two surveys.
        self._step_speed: list[float] = (self._acceleration * dt).tolist()
        rows = [r for r in range(len(clearance.levers)) if collisions or not clearance.is_pair(r)]
        self._rows = rows
        self._levers = np.ascontiguousarray(clearance.levers[rows])
        pairs = np.array([clearance.is_pair(row) for row in rows], np.bool_)
        self._is_pair = pairs
        self._wanted_margin: FloatArray = np.where(pairs, margin_m, 0.0)
        self._margin: FloatArray = self._wanted_margin.copy()
        n = len(self._acceleration)
        self._survey_ticks = max(1, round(_SURVEY_PERIOD_S / dt))
        self._gain = [self._survey_ticks * step for step in self._step_speed]
        self._until_survey = 0
        # At ``_anchor`` the slack of a row is at least this; for near rows ``_near_slack`` is.
        self._slack = np.zeros(len(rows))
        self._anchor = [0.0] * n
        self._near: NDArray[np.intp] = np.zeros(0, np.intp)
        self._near_levers: FloatArray = np.zeros((0, n))
        self._near_slack: FloatArray = np.zeros(0)
        self._measured: list[tuple[int, float]] = []
        self._relaxed = False
        points = len(clearance.points)
        self._point_levers: list[list[float]] = clearance.point_levers.tolist()
        self._jacobians = np.zeros((points, 3, n))
        self._flat = self._jacobians.reshape(3 * points, n)
        # Joint motion since the pose of the Jacobians.
        self._drift = [math.inf] * n
        deeper = np.maximum.outer(clearance.depth, clearance.depth) == clearance.depth
        # [point, i, j]: change of column i of the Jacobian per radian of joint j; the lever of the
        # deeper of the two, and zero where either does not carry the point.
        carries = clearance.point_levers > 0.0
        self._bend = np.where(
            deeper, clearance.point_levers[:, None, :], clearance.point_levers[:, :, None]
        ) * (carries[:, None, :] & carries[:, :, None])
        self._bend = self._bend.reshape(points * n, n)
        # Columns: now, and the moments at which single joints come to rest.
        self._moments = np.zeros(n + 1)
        self._velocities = np.zeros((n, n + 1))
        self._flow = np.zeros((3 * points, n + 1))
        self._sum_axes = np.kron(np.eye(points), np.ones((1, 3)))
        self.blocked_row = -1
        self.speed_m_s = math.inf
        self.looks = 0

    @property
    def reason(self) -> str:
        """What was in the way at the last refusal for lack of distance; empty before."""
        if self.blocked_row < 0:
            return ""
        return self._clearance.label(self._rows[self.blocked_row])

    def refusal(self, position: FloatArray) -> str | None:
        """Why the arm may not start from ``position`` [n], rad; None if it may."""
        self._clearance.set_pose(position)
        for index, row in enumerate(self._rows):
            distance = self._clearance.distance(row)
            if distance <= 0.0 and self._is_pair[index]:
                return f"collision: {self._clearance.label(row)} touch in the robot's model"
            if distance < 0.0:
                return f"workspace: {-distance:.3f} m beyond {self._clearance.label(row)}"
        return None

    def begin(self, position: FloatArray) -> None:
        """Start at rest at ``position`` [n] (rad), which ``refusal`` found nothing against.

        A pair that is nearer than the margin may stay so, but must keep half of what it has; the
        margin applies to it from when it is kept again.
        """
        self._clearance.set_pose(position)
        distance = np.array([self._clearance.distance(row) for row in self._rows])
        half = np.maximum(distance, 0.0) / 2
        self._margin = np.where(self._is_pair, np.minimum(self._wanted_margin, half), 0.0)
        self._relaxed = bool((self._margin < self._wanted_margin).any())
        np.subtract(distance, self._margin, out=self._slack)
        self._anchor = position.tolist()
        self._near = self._near[:0]
        self._near_slack = self._near_slack[:0]
        self._until_survey = 0
        self._drift = [math.inf] * len(self._drift)
        self.speed_m_s = math.inf
        self.blocked_row = -1

    def forget(self) -> None:
        """Trust nothing measured before, after ticks that were not committed."""
        self._slack[:] = -np.inf
        self._near = self._near[:0]
        self._near_slack = self._near_slack[:0]
        self._until_survey = 0
        self._drift = [math.inf] * len(self._drift)
        self.speed_m_s = math.inf

    def judge(
        self, state: Reference, velocity: Sequence[float], slow_enough: bool = False
    ) -> Verdict:
        """Whether the arm may move at ``velocity`` [n] (rad/s) in the coming tick.

        ``state`` is where the last ``commit`` (or ``begin``) left it, and ``velocity`` is within
        the acceleration limit from there. Nothing moves by this; the caller decides, and commits.
        ``slow_enough``: it is a candidate refused for its speed, scaled by limit / ``speed_m_s``,
        or the velocity of the last tick, whose speed was judged in the ``CRUISE_TICKS`` last ones.
        """
        if self._until_survey <= 0:
            self._survey(state)
        self._measured.clear()
        limit = self.speed_limit_m_s
        if slow_enough or not limit:
            limit = 0.0
            if not len(self._near):
                return Verdict.FREE
        if limit and self._creeps(velocity):
            limit = 0.0
            if not len(self._near):
                return Verdict.FREE
        candidate = Candidate.of(state, velocity, self._step_speed, self._dt)
        if len(self._near):
            blocked = self._check_near(candidate)
            if blocked >= 0:
                self.blocked_row = blocked
                return Verdict.COLLISION if self._is_pair[blocked] else Verdict.WORKSPACE
        if limit and not self._slow_enough(candidate):
            return Verdict.TOOL_SPEED
        return Verdict.FREE

    def commit(self, velocity: Sequence[float], accepted: bool) -> None:
        """The arm moves at ``velocity`` [n] for one tick: the judged one, or braked instead."""
        self._until_survey -= 1
        near = len(self._near)
        if not near and not self.speed_limit_m_s:
            return
        motion = [abs(v) * self._dt for v in velocity]
        self._drift = [d + m for d, m in zip(self._drift, motion, strict=True)]
        if near:
            self._near_slack -= self._near_levers.dot(motion)
            if accepted:
                for index, slack in self._measured:
                    self._near_slack[index] = slack

    def _survey(self, state: Reference) -> None:
        """Find the rows that could run out of slack before the next survey."""
        slack, near, ticks = self._slack, self._near, self._survey_ticks
        position, speed = state.position.tolist(), [abs(v) for v in state.velocity.tolist()]
        moved = [abs(q - before) for q, before in zip(position, self._anchor, strict=True)]
        # Braking in steps is shorter than braking evenly, so this covers it.
        ahead = [
            self._dt * (ticks * v + 0.5 * (ticks + 1) * gain) + (v + gain) ** 2 / (2.0 * most)
            for v, gain, most in zip(speed, self._gain, self._acceleration.tolist(), strict=True)
        ]
        spent, cost = np.dot([moved, ahead], self._levers.T)
        slack -= spent
        if len(near):
            slack[near] = self._near_slack
        self._anchor = position
        short = (cost > slack).nonzero()[0]
        if len(short):
            if len(short) > _MOST_MEASURED:
                short = short[np.argsort(slack[short] - cost[short])[:_MOST_MEASURED]]
            self._clearance.set_pose(state.position)
            self.looks += 1
            for row in short.tolist():
                slack[row] = self._clearance.distance(self._rows[row]) - self._margin[row]
        if self._relaxed:
            extra = self._wanted_margin - self._margin
            kept = (slack - cost >= extra) & (extra > 0.0)
            slack[kept] -= extra[kept]
            self._margin[kept] = self._wanted_margin[kept]
            self._relaxed = bool((self._margin < self._wanted_margin).any())
        self._near = (cost > slack).nonzero()[0] if len(short) else self._near[:0]
        self._near_slack = slack[self._near]
        self._near_levers = self._levers[self._near]
        # Policies sample when motion begins, and then as often: not on the same ticks.
        self._until_survey = ticks if any(speed) else (ticks + 2) // 3

    def _check_near(self, candidate: Candidate) -> int:
        """The row in the way of the candidate or its braking path; -1 if none.

        Leaves what was measured at the candidate in ``_measured``.
        """
        levers, clearance = self._near_levers, self._clearance
        index = (levers.dot(candidate.whole) > self._near_slack).nonzero()[0]
        if not len(index):
            return -1
        rows = self._near[index]
        levers = levers[index]
        margin = self._margin[rows]
        # A tick that could cost more than the margin might touch something on its way; points
        # cannot leave a box between two places inside.
        over = (levers.dot(candidate.step) > margin) & self._is_pair[rows]
        pose: FloatArray = np.array(candidate.position)
        tick, speed, brake = 0, candidate.speed, candidate.brake
        for look in range(_MOST_LOOKS):
            clearance.set_pose(pose)
            self.looks += 1
            slack: FloatArray = (
                np.array([clearance.distance(self._rows[row]) for row in rows]) - margin
            )
            if look == 0:
                self._measured.extend(zip(index.tolist(), slack.tolist(), strict=True))
                if over.any():
                    return int(rows[np.argmax(over)])
            worst = int(np.argmin(slack))
            if slack[worst] < 0.0:
                return int(rows[worst])
            unsettled = levers.dot(brake) > slack
            if not np.count_nonzero(unsettled):
                return -1
            rows, levers = rows[unsettled], levers[unsettled]
            slack, margin = slack[unsettled], margin[unsettled]
            ticks = slack / (levers.dot(speed) * self._dt)
            nearest = int(np.argmin(ticks))
            if ticks[nearest] < 1.0:
                return int(rows[nearest])
            tick += int(ticks[nearest])
            rest = candidate.after(tick, self._step_speed, self._dt)
            pose, speed, brake = np.array(rest.position), rest.speed, rest.brake
        return int(rows[0])

    def _creeps(self, velocity: Sequence[float]) -> bool:
        """Whether no pose at all would make the guarded points too fast at ``velocity``."""
        limit = self.speed_limit_m_s
        return all(
            sum([abs(lever * v) for lever, v in zip(levers, velocity, strict=True)]) <= limit
            for levers in self._point_levers
        )

    def _slow_enough(self, candidate: Candidate) -> bool:
        limit = self.speed_limit_m_s
        fresh = max(self._drift) <= _DRIFT_RAD
        # An old Jacobian is tried where it may do: not at the limit, where it would be refused.
        if fresh or self.speed_m_s < _EASY_SHARE * limit:
            self.speed_m_s = self._speed_bound(candidate)
            if fresh or self.speed_m_s <= limit:
                return self.speed_m_s <= limit
        self._clearance.set_pose(candidate.position)
        self._clearance.point_jacobians(self._jacobians)
        self.looks += 1
        self._drift = candidate.step
        self.speed_m_s = self._speed_bound(candidate)
        return self.speed_m_s <= limit

    def _speed_bound(self, candidate: Candidate) -> float:
        """Upper bound on the speed of the guarded points from now until the arm has braked."""
        speed = np.array(candidate.speed)
        np.divide(speed, self._acceleration, out=self._moments[1:])
        left = np.multiply.outer(self._acceleration, self._moments, out=self._velocities)
        np.subtract(speed[:, None], left, out=left)
        np.maximum(left, 0.0, out=left)
        np.copysign(left, candidate.signs, out=left)
        flow = np.dot(self._flat, left, out=self._flow)
        flow *= flow
        squares = self._sum_axes.dot(flow)
        motion = [
            CRUISE_TICKS * step + brake + drift
            for step, brake, drift in zip(candidate.step, candidate.brake, self._drift, strict=True)
        ]
        bent = self._bend.dot(motion).reshape(-1, len(speed)).dot(speed)
        return math.sqrt(max(squares.ravel().tolist())) + max(bent.tolist())
