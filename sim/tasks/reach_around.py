# SPDX-License-Identifier: Apache-2.0
"""ReachAround: reach with an obstacle of the robot's YAML between the tool and its goal.

Everything is as in reach (``reach.py``), but the policy also sees how near the arm is to the
obstacle, and a goal is drawn until the obstacle stands in the straight way to it. The way round is
the policy's choice: over the obstacle, behind it or in front of it. The reward's distance is that
of the shortest way round the obstacle (``way_round.py``) for a tool that keeps as far from it as
goals do: along the straight line it would pay to wait in front of it, along a nearer way the wrist
would brush it. Touching the obstacle terminates, as every contact does. That comes too late to
learn from how near wrist and forearm may pass, so the reward lacks

    0.5 max(0, 1 - c / 0.04)

where c is the least distance of the arm to the obstacle, m.

The way was taken where the tool passed the obstacle, that is the upright plane through the base's
axis and the obstacle's centre:

- ``over``: above its top,
- ``inside``: nearer to the base's axis than its centre,
- ``outside``: farther.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smfp_core.robot import Obstacle, RobotConfig
from smfp_core.specs import FloatArray, ObservationField, ObservationSpec
from smfp_core.strict import ConfigError
from smfp_sim.clearance import ClearanceModel
from smfp_sim.tasks.arm_task import Motion
from smfp_sim.tasks.reach import ReachEnv
from smfp_sim.way_round import way_round_m

# Some starts have the obstacle in no way, above it for one: they get any goal.
_GOAL_ATTEMPTS = 100
# The straight way is judged at points this far apart, for a tool that is this thick.
_SPACING_M, _TOOL_RADIUS_M = 0.01, 0.05
# From where on nearness costs, and what it costs in touch.
_NEAR_M, _NEARNESS_PENALTY = 0.04, 0.5


class ReachAroundEnv(ReachEnv):
    """The task as a gymnasium environment; options and ``info`` are those of ``ArmTask``.

    ``info`` holds ``way`` as well: how the obstacle was passed last, empty before it was.

    Raises:
        ConfigError: the robot's surroundings have not one obstacle.
    """

    def __init__(
        self,
        robot: str | Path | RobotConfig = "ur5e_post",
        render_mode: str | None = None,
        plant: str | Path | None = None,
        randomization: str | Path | None = None,
    ) -> None:
        super().__init__(robot, render_mode, plant, randomization)
        obstacles = self.robot.surroundings.obstacles
        if len(obstacles) != 1:
            raise ConfigError(
                f"surroundings.obstacles: robot '{self.robot.name}' has {len(obstacles)}, "
                "the task needs one to go around"
            )
        self._obstacle = obstacles[0]
        self._clearance = ClearanceModel(self.robot, self.arm.arm.model)
        self._way = ""
        self._left_before_m = 0.0

    @staticmethod
    def describe(robot: RobotConfig) -> ObservationSpec:
        """What ``Reach`` shows, and how near the arm is to the obstacle."""
        return ObservationSpec(
            (
                *ReachEnv.describe(robot).fields,
                ObservationField("obstacle_nearness", 1, ""),
                ObservationField("obstacle_gradient", len(robot.joints), "m/rad"),
            )
        )

    def draw_goal(self, start: FloatArray) -> FloatArray:
        """A goal [3] (m, base frame) with the obstacle before it, seen from the tool's start."""
        tool = self._kinematics.tool_position(start)
        goal = super().draw_goal(start)
        for _ in range(_GOAL_ATTEMPTS):
            if stands_between(self._obstacle, tool, goal):
                break
            goal = super().draw_goal(start)
        return goal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; see ``ArmTask`` for ``options``."""
        self._way = ""
        begun = super().reset(seed=seed, options=options)
        self._left_before_m = self._left_m()
        return begun

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply ``action`` [n] in [-1, 1] for one policy period."""
        before = self._tool.copy()
        observation, reward, terminated, truncated, info = super().step(action)
        self._way = passed(self._obstacle, before, self._tool) or self._way
        return observation, reward, terminated, truncated, {**info, "way": self._way}

    def reward(self, motion: Motion) -> float:
        """As the module says."""
        before, self._left_before_m = self._left_before_m, self._left_m()
        detour = dataclasses.replace(
            motion,
            distance_before_m=before,
            distance_m=self._left_before_m,
        )
        self._clearance.set_pose(self.arm.joint_position)
        nearest_m, _ = self._clearance.nearest_obstacle(_NEAR_M)
        return super().reward(detour) - _NEARNESS_PENALTY * max(0.0, 1.0 - nearest_m / _NEAR_M)

    def snapshot(self) -> dict[str, Any]:
        """State that ``restore`` goes on from to the bit."""
        return {**super().snapshot(), "way": self._way}

    def restore(self, snapshot: dict[str, Any]) -> NDArray[np.float32]:
        """Go back to a ``snapshot`` of the same task; returns its observation."""
        self._way = str(snapshot["way"])
        observation = super().restore(snapshot)
        self._left_before_m = self._left_m()
        return observation

    def _info(self, contact: bool, diverged: bool) -> dict[str, Any]:
        return {**super()._info(contact, diverged), "way": self._way}

    def _left_m(self) -> float:
        """How far it is from the tool to the goal, round the obstacle."""
        clearance_m = self.robot.goals.obstacle_clearance_m
        return way_round_m(self._obstacle, self._tool, self._goal, clearance_m)


def stands_between(obstacle: Obstacle, start: FloatArray, end: FloatArray) -> bool:
    """Whether the straight way from ``start`` to ``end`` [3] (m, base frame) meets ``obstacle``."""
    count = 2 + int(np.linalg.norm(end - start) / _SPACING_M)
    return any(
        obstacle.distance_m(start + share * (end - start)) < _TOOL_RADIUS_M
        for share in np.linspace(0.0, 1.0, count)
    )


def passed(obstacle: Obstacle, before: FloatArray, after: FloatArray) -> str:
    """The way by which a step of the tool passed ``obstacle``; empty if it did not.

    ``before`` and ``after`` are positions [3], m, base frame.
    """
    center = np.asarray(obstacle.center_m)
    distance = float(np.hypot(center[0], center[1]))
    outward = center[:2] / distance
    # The parts of a position across the plane and along it.
    across = [outward[0] * p[1] - outward[1] * p[0] for p in (before, after)]
    along = float(outward @ after[:2])
    # Behind the base there is no obstacle to pass.
    if (across[0] < 0.0) == (across[1] < 0.0) or along < 0.0:
        return ""
    half_height = obstacle.radius_m if obstacle.size_m is None else obstacle.size_m[2] / 2
    if after[2] > center[2] + (half_height or 0.0):
        return "over"
    return "inside" if along < distance else "outside"
