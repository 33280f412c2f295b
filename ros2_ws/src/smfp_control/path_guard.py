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
margin at the present pose; each tick takes off what it can have cost at most. As long as the slack
exceeds what one tick and the braking path can cost, nothing needs to be measured. A row that runs
short is measured anew at the candidate's pose; if that does not settle it, along the path: from a
slack s, at speeds that can cost c m/s, the arm may go on for s / c seconds before the next look.

**Between ticks** the reference goes no further than one tick's motion: a row can lose at most half
of that on the way from one verified pose to the next. Near anything, ticks that could cost more
than the margin are refused. So the reference touches nothing between ticks either.

**Speed of points.** While the joints brake, each at its own pace, a point can become faster for a
moment: two joints that cancelled each other stop at different times. The velocity of a point is
the Jacobian times the joint velocities, which are linear in time between the moments at which
single joints come to rest; a norm is convex, so its greatest value lies at such a moment. What the
Jacobian itself changes over the path is bounded by the levers again (``_bend``).
"""

from __future__ import annotations

import enum
import math

import numpy as np
from numpy.typing import NDArray

from smfp_core.specs import FloatArray
from smfp_sim.clearance import ClearanceModel

# Looks along one braking path, which bounds the cost of a tick. A path that needs more is refused.
_MOST_LOOKS = 8


class Verdict(enum.Enum):
    """What stands against a command."""

    FREE = enum.auto()
    COLLISION = enum.auto()
    WORKSPACE = enum.auto()
    TOOL_SPEED = enum.auto()


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
        speed_m_s: bound on the speed of the guarded points along the last path that was refused
            for it.
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
        self._step_speed = self._acceleration * dt
        rows = [r for r in range(len(clearance.levers)) if collisions or not clearance.is_pair(r)]
        self._rows = rows
        self._levers = np.ascontiguousarray(clearance.levers[rows])
        pairs = np.array([clearance.is_pair(row) for row in rows], np.bool_)
        self._is_pair = pairs
        self._wanted_margin = np.where(pairs, margin_m, 0.0)
        self._margin = self._wanted_margin.copy()
        # Most that one tick may cost a row near its margin; a convex box needs no such bound.
        self._most_per_tick = np.where(pairs, margin_m, np.inf)
        n = len(self._acceleration)
        self._slack = np.zeros(len(rows))
        # Columns: what one tick moves each joint, and what braking after it does.
        self._motion = np.zeros((n, 2))
        self._cost = np.zeros((len(rows), 2))
        self._total = np.zeros(len(rows))
        self._speed, self._whole = np.zeros(n), np.zeros(n)
        self._short = np.zeros(len(rows), np.bool_)
        self._measured: list[tuple[int, float]] = []
        self._position = np.zeros(n)
        self._relaxed = False
        points = len(clearance.points)
        self._point_levers = clearance.point_levers
        self._jacobians = np.zeros((points, 3, n))
        self._flat = self._jacobians.reshape(3 * points, n)
        # Joint motion since the pose of the Jacobians.
        self._drift = np.full(n, np.inf)
        deeper = np.maximum.outer(clearance.depth, clearance.depth) == clearance.depth
        # [point, i, j]: change of column i of the Jacobian per radian of joint j; the lever of the
        # deeper of the two, and zero where either does not carry the point.
        carries = self._point_levers > 0.0
        self._bend = np.where(
            deeper, self._point_levers[:, None, :], self._point_levers[:, :, None]
        ) * (carries[:, None, :] & carries[:, :, None])
        self._moments = np.zeros(n + 1)
        self.blocked_row = -1
        self.speed_m_s = 0.0
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
        relaxed = np.minimum(self._wanted_margin, np.maximum(distance, 0.0) / 2)
        np.copyto(self._margin, np.where(self._is_pair, relaxed, 0.0))
        self._relaxed = bool((self._margin < self._wanted_margin).any())
        np.subtract(distance, self._margin, out=self._slack)
        np.minimum(self._wanted_margin, self._margin, out=self._most_per_tick)
        self._most_per_tick[~self._is_pair] = np.inf
        self._drift[:] = np.inf
        self.blocked_row = -1

    def judge(self, position: FloatArray, velocity: FloatArray) -> Verdict:
        """Whether the arm at ``position`` [n] may move at ``velocity`` [n] in the coming tick.

        ``position`` is where the last ``commit`` (or ``begin``) left it; ``velocity`` is within
        the acceleration limit. Nothing moves by this; the caller decides, and commits.
        """
        np.abs(velocity, out=self._speed)
        self._measured.clear()
        if not self._speed.any():
            return Verdict.FREE
        step, brake = self._motion[:, 0], self._motion[:, 1]
        np.multiply(self._speed, self._dt, out=step)
        self._braking_distance(self._speed, out=brake)
        np.matmul(self._levers, self._motion, out=self._cost)
        np.add(self._cost[:, 0], self._cost[:, 1], out=self._total)
        np.greater(self._total, self._slack, out=self._short)
        at_candidate = False
        if np.count_nonzero(self._short):
            np.multiply(velocity, self._dt, out=self._position)
            self._position += position
            at_candidate = True
            blocked = self._look_along(np.flatnonzero(self._short), velocity)
            if blocked >= 0:
                self.blocked_row = blocked
                return Verdict.COLLISION if self._is_pair[blocked] else Verdict.WORKSPACE
        if self.speed_limit_m_s > 0.0 and not self._slow_enough(position, velocity, at_candidate):
            return Verdict.TOOL_SPEED
        return Verdict.FREE

    def commit(self, velocity: FloatArray, accepted: bool) -> None:
        """The arm moves at ``velocity`` [n] for one tick: the judged one, or braked instead."""
        np.abs(velocity, out=self._speed)
        np.multiply(self._speed, self._dt, out=self._whole)
        self._drift += self._whole
        self._slack -= self._levers @ self._whole
        if not accepted:
            return
        for row, slack in self._measured:
            self._slack[row] = slack
        if self._relaxed:
            self._restore_margins()

    def _restore_margins(self) -> None:
        # The slack is relative to the margin in force; the whole path must keep the full one.
        extra = self._wanted_margin - self._margin
        kept = (self._slack - self._cost[:, 1] >= extra) & (extra > 0.0)
        self._slack[kept] -= extra[kept]
        self._margin[kept] = self._wanted_margin[kept]
        self._most_per_tick[kept] = self._wanted_margin[kept]
        self._relaxed = bool((self._margin < self._wanted_margin).any())

    def _braking_distance(self, speed: FloatArray, out: FloatArray) -> FloatArray:
        """What braking from ``speed`` [n] moves each joint in the ticks after this one, rad."""
        # speed - step, speed - 2 step, ... while positive; their number is that of whole steps.
        count = np.floor(speed / self._step_speed)
        np.multiply(count + 1.0, self._step_speed, out=out)
        out *= -0.5
        out += speed
        out *= count
        out *= self._dt
        return out

    def _look_along(self, rows: NDArray[np.intp], velocity: FloatArray) -> int:
        """Measure ``rows`` at the candidate and along its braking path; the one in the way, or -1.

        Leaves what was measured at the candidate in ``_measured``.
        """
        clearance, levers = self._clearance, self._levers[rows]
        over = self._cost[rows, 0] > self._most_per_tick[rows]
        margin = self._margin[rows]
        pose, tick = self._position, 0
        brake = self._motion[:, 1]
        speed = self._speed
        for look in range(_MOST_LOOKS):
            clearance.set_pose(pose)
            self.looks += 1
            slack = np.array([clearance.distance(self._rows[row]) for row in rows]) - margin
            if look == 0:
                self._measured.extend(zip(rows.tolist(), slack.tolist(), strict=True))
                if over.any():
                    return int(rows[np.argmax(over)])
            worst = int(np.argmin(slack))
            if slack[worst] < 0.0:
                return int(rows[worst])
            unsettled = levers @ brake > slack
            if not np.count_nonzero(unsettled):
                return -1
            rows, levers = rows[unsettled], levers[unsettled]
            slack, margin, over = slack[unsettled], margin[unsettled], over[unsettled]
            ticks = slack / (levers @ speed * self._dt)
            nearest = int(np.argmin(ticks))
            if ticks[nearest] < 1.0:
                return int(rows[nearest])
            tick += int(ticks[nearest])
            speed = np.maximum(self._speed - tick * self._step_speed, 0.0)
            brake = self._braking_distance(speed, out=np.empty(len(speed)))
            pose = self._position + np.sign(velocity) * (self._motion[:, 1] - brake)
        return int(rows[0])

    def _slow_enough(self, position: FloatArray, velocity: FloatArray, at_candidate: bool) -> bool:
        limit = self.speed_limit_m_s
        if (self._point_levers @ self._speed).max() <= limit:
            return True
        if self._drift[0] < math.inf and self._speed_bound(velocity) <= limit:
            return True
        clearance = self._clearance
        if not at_candidate:
            np.multiply(velocity, self._dt, out=self._position)
            self._position += position
        clearance.set_pose(self._position)
        clearance.point_jacobians(self._jacobians)
        self.looks += 1
        self._drift[:] = self._motion[:, 0]
        self.speed_m_s = self._speed_bound(velocity)
        return self.speed_m_s <= limit

    def _speed_bound(self, velocity: FloatArray) -> float:
        """Upper bound on the speed of the guarded points from now until the arm has braked."""
        speed = self._speed
        np.divide(speed, self._acceleration, out=self._moments[1:])
        velocities = speed[:, None] - np.multiply.outer(self._acceleration, self._moments)
        np.maximum(velocities, 0.0, out=velocities)
        velocities *= np.sign(velocity)[:, None]
        flow = (self._flat @ velocities).reshape(-1, 3, len(self._moments))
        fastest = np.sqrt((flow * flow).sum(axis=1).max(axis=1))
        np.add(self._motion[:, 0], self._motion[:, 1], out=self._whole)
        self._whole += self._drift
        return float((fastest + (self._bend @ self._whole) @ speed).max())
