# SPDX-License-Identifier: Apache-2.0
"""An arm under the guarded filter, watched at every tick by a clearance model of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from smfp_control.path_guard import PathGuard
from smfp_control.safety import KINDS, Intervention, SafetyFilter
from smfp_core.reference import Reference
from smfp_core.robot import Obstacle, RobotConfig, Workspace, load_robot
from smfp_sim.clearance import ClearanceModel

ROBOT = load_robot("ur5e")
CELL = dataclasses.replace(
    ROBOT,
    surroundings=dataclasses.replace(
        ROBOT.surroundings,
        workspace=Workspace((-0.9, -0.9, 0.05), (0.8, 0.6, 1.0)),
        obstacles=(
            Obstacle("post", (0.35, 0.45, 0.4), size_m=(0.1, 0.1, 0.8), yaw_rad=0.4),
            Obstacle("ball", (0.3, -0.55, 0.4), radius_m=0.12),
        ),
    ),
)
DT = 1.0 / ROBOT.control_rate_hz
MARGIN_M = 0.01
ROUNDING = 1e-9


class GuardedArm:
    """Moves a reference and asserts, after every tick, all that the filter promises.

    Attributes:
        counts: interventions by kind.
        least_m: least distance of any watched row so far.
        positions, velocities: of the reference, one row a tick.
    """

    def __init__(
        self,
        robot: RobotConfig = ROBOT,
        start: np.ndarray | None = None,
        margin_m: float = MARGIN_M,
        tool_speed_m_s: float = 0.0,
        jerk_limit: float = 0.0,
    ) -> None:
        self.limits = robot.limits
        self.margin_m, self.tool_speed_m_s = margin_m, tool_speed_m_s
        self.guard = PathGuard(
            ClearanceModel(robot), self.limits.acceleration, DT, margin_m, tool_speed_m_s
        )
        self.filter = SafetyFilter(self.limits, DT, self.guard, jerk_limit)
        self.clearance = ClearanceModel(robot)
        self.pairs = np.array([self.clearance.is_pair(r) for r in range(len(self.levers))])
        self.margins = np.where(self.pairs, margin_m, 0.0)
        self.command = Reference.at_rest(robot.home_rad if start is None else start)
        assert self.filter.refusal(self.command.position) is None
        self.filter.begin(self.command.position)
        self.counts = dict.fromkeys(KINDS, 0)
        self.least_m = np.inf
        self.positions = [self.command.position.copy()]
        self.velocities = [self.command.velocity.copy()]
        self._jacobians = np.zeros((len(self.clearance.points), 3, len(self.limits.velocity)))

    @property
    def levers(self) -> np.ndarray:
        """As ``ClearanceModel.levers``."""
        return self.clearance.levers

    def tick(self, desired: np.ndarray) -> Intervention:
        """One tick towards ``desired`` [n], rad/s."""
        before = Reference(self.command.position.copy(), self.command.velocity.copy())
        kinds = self.filter.apply(self.command, desired)
        for kind in KINDS:
            self.counts[kind] += bool(kind & kinds)
        self.positions.append(self.command.position.copy())
        self.velocities.append(self.command.velocity.copy())
        self.check_step(before, self.command)
        return kinds

    def drive(self, desired: np.ndarray | Callable[[int], np.ndarray], ticks: int) -> None:
        """Many ticks towards one desired velocity, or that of a function of the tick."""
        for tick in range(ticks):
            self.tick(desired(tick) if callable(desired) else desired)

    def check_step(self, before: Reference, after: Reference) -> None:
        """Joint limits, distances at and between the ticks, and speed of the points."""
        limits = self.limits
        assert (after.position >= limits.position_min - ROUNDING).all()
        assert (after.position <= limits.position_max + ROUNDING).all()
        assert (np.abs(after.velocity) <= limits.velocity + ROUNDING).all()
        change = np.abs(after.velocity - before.velocity)
        assert (change <= limits.acceleration * DT + ROUNDING).all()
        at_tick = self.distances(after.position)
        assert (at_tick >= self.margins - ROUNDING).all(), self.clearance.label(
            int(np.argmin(at_tick - self.margins))
        )
        self.least_m = min(self.least_m, float(at_tick[self.pairs].min()))
        # The pose is still that of the tick.
        self.check_speed(after.velocity)
        # The levers settle the way between two ticks, except near the margin.
        moved = np.abs(after.position - before.position)
        doubtful = at_tick[self.pairs] - self.levers[self.pairs] @ moved <= self.margin_m / 2
        if doubtful.any():
            between = self.distances((before.position + after.position) / 2)
            assert (between[self.pairs] >= self.margin_m / 2 - ROUNDING).all()

    def check_speed(self, velocity: np.ndarray) -> None:
        """Speed of tool and elbow at the pose that the clearance model has."""
        if self.tool_speed_m_s:
            self.clearance.point_jacobians(self._jacobians)
            speeds = np.linalg.norm(self._jacobians @ velocity, axis=1)
            assert (speeds <= self.tool_speed_m_s + ROUNDING).all()

    def distances(self, q: np.ndarray) -> np.ndarray:
        """Of every watched row, at ``q`` [n]."""
        self.clearance.set_pose(q)
        return np.array([self.clearance.distance(row) for row in range(len(self.levers))])

    def check_braking(self) -> None:
        """Braking from here, each joint at full acceleration, keeps every promise to the end."""
        present = Reference(self.command.position.copy(), self.command.velocity.copy())
        step = self.limits.acceleration * DT
        while present.velocity.any():
            before = Reference(present.position.copy(), present.velocity.copy())
            slower = np.maximum(np.abs(present.velocity) - step, 0.0)
            present.velocity[:] = np.sign(present.velocity) * slower
            present.position += present.velocity * DT
            self.check_step(before, present)

    def row(self, *words: str) -> int:
        """The first row whose label has all these words."""
        rows = range(len(self.levers))
        return next(r for r in rows if all(w in self.clearance.label(r) for w in words))

    def approach(self, row: int, q: np.ndarray) -> np.ndarray:
        """Joint velocities [n] that shrink the distance of ``row`` fastest, at full speed."""
        gradient = np.zeros(len(q))
        for joint in range(len(q)):
            ends = []
            for sign in (1.0, -1.0):
                shifted = q.copy()
                shifted[joint] += sign * 1e-5
                self.clearance.set_pose(shifted)
                ends.append(self.clearance.distance(row))
            gradient[joint] = ends[0] - ends[1]
        size = float(np.abs(gradient).max())
        return -gradient / size * self.limits.velocity if size > 0.0 else np.zeros(len(q))
