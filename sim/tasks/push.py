# SPDX-License-Identifier: Apache-2.0
"""Push: bring a puck on the floor to a goal place by pushing it with the tool's flange.

The puck (``push_scene.py``) stands in front of the arm, the goal 10 to 25 cm away on the floor in
any direction. The tool starts beside the puck on any side, pointing down, 4 to 12 cm above the
floor, so it often has to go around the puck first. Action: joint velocities, as in every task of
an arm; nothing holds the tool upright but the policy. Horizon 6 s, ended by truncation.

The tool may touch the puck and the puck the floor; every other contact terminates, and so do a puck
that fell over or left the area that the arm can reach, which ``info["message"]`` says. Success: the
puck's centre within 3 cm of the goal at every policy step of the last 0.5 s. (FetchPush of
gymnasium-robotics takes 5 cm, at the last step.)

Reward of a step, with d the distance of the puck from its goal and d0 that before the step, both in
metres, a the way of the tool to behind the puck (below) and a0 that before, t one less the cosine
of the tool's tilt, w the reference velocity and u the commanded velocity as fractions of the
greatest one, and g = exp(-(d / 0.02)^2), which is 1 when nothing is left to push:

    40 (d0 - d) + 30 (1 - g) (a0 - a) + 0.5 exp(-d / 0.05) + 0.5 exp(-d / 0.015) + 0.2 g - 0.5 t
        - 0.02 mean(w^2) - 0.005 mean((u - w)^2)

The way a is the length of the shortest path on the floor to the place behind the puck, seen from
the goal, that keeps 9.5 cm from the puck's centre, plus the height to go. A straight distance
would hold a tool on the wrong side there: the puck is in its way, and to push it is to lose.
Progress is all that pays before the puck is near its goal: what an arm gets for being where it is
would raise the value of every action alike, and hide how little one differs from another. Even a
little for waiting behind the puck teaches to wait there. Failing costs 2, more than an arm that
stands upright anywhere loses.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from smfp_core.robot import RobotConfig
from smfp_core.specs import (
    PUSH_LIFT_M,
    FloatArray,
    ObservationField,
    ObservationSpec,
    way_behind,
)
from smfp_sim.arm import ArmModel, ContactPair
from smfp_sim.scene import Change
from smfp_sim.tasks.arm_task import ArmTask, Motion, arm_fields
from smfp_sim.tasks.push_scene import HEIGHT_M, OBJECT, RADIUS_M, PushScene, add_object

FAILURE_PENALTY = 2.0
PUSH_HEIGHT_M = HEIGHT_M / 2 + PUSH_LIFT_M
# About the base's z axis: where the puck starts, where goals are, where the puck may be.
_OBJECT_RADIUS_M, _OBJECT_AZIMUTH_RAD = (0.42, 0.60), 0.7
_GOAL_RADIUS_M, _GOAL_AZIMUTH_RAD = (0.40, 0.65), 0.9
_AREA_RADIUS_M, _AREA_AZIMUTH_RAD = (0.30, 0.75), 1.2
_GOAL_DISTANCE_M = (0.10, 0.25)
_TOOL_DISTANCE_M, _TOOL_HEIGHT_M = (0.10, 0.20), (0.04, 0.12)
_FALLEN_RAD = 0.5
_SEED_SPREAD_RAD = 0.3
_ATTEMPTS = 1000


class PushEnv(ArmTask):
    """The task as a gymnasium environment; options and ``info`` are those of ``ArmTask``.

    ``reset(options=...)`` takes ``object_position`` [3] (m, base frame) as well. In ``info``,
    ``distance_m`` is the puck's from the goal and ``tool_distance_m`` the tool's from the puck's
    centre; ``contact`` is one that is not part of pushing.
    """

    success_distance_m = 0.03

    def __init__(
        self,
        robot: str | Path | RobotConfig = "ur5e",
        render_mode: str | None = None,
        plant: str | Path | None = None,
        randomization: str | Path | None = None,
    ) -> None:
        self._way_before = self._way = 0.0
        super().__init__(robot, render_mode, plant, randomization)
        # A model of its own: inverse kinematics on the one that is randomised would give starts
        # that depend, in their last bits, on the episode before.
        self._scene = PushScene(ArmModel(self.robot, add_object))

    @staticmethod
    def describe(robot: RobotConfig) -> ObservationSpec:
        """What the policy sees, in order; positions and velocities in the base frame."""
        n, frame = len(robot.joints), robot.base_frame
        return ObservationSpec(
            (
                *arm_fields(robot),
                ObservationField("object_position", 3, "m", frame),
                ObservationField("object_velocity", 3, "m/s", frame),
                ObservationField("object_offset", 3, "m", frame),
                ObservationField("object_goal_offset", 3, "m", frame),
                ObservationField("object_approach_step", n, ""),
                ObservationField("object_push_step", n, ""),
            )
        )

    def change_scene(self) -> Change | None:
        """Adds the puck."""
        return add_object

    def draw(self, given: dict[str, Any]) -> dict[str, Any]:
        """Where puck, goal and arm begin, as options of ``reset``."""
        place, goal, start = (
            given.get(name) for name in ("object_position", "goal", "joint_position")
        )
        place = self._draw_object() if place is None else np.array(place, np.float64).reshape(3)
        goal = self._draw_goal(place) if goal is None else np.array(goal, np.float64).reshape(3)
        start = self._draw_start(place) if start is None else start
        return {"joint_position": start, "goal": goal, "object_position": place}

    def place(self, options: dict[str, Any]) -> None:
        """Put the puck where it begins."""
        self.arm.place(OBJECT, options["object_position"])

    def is_fault(self, pair: ContactPair) -> bool:
        """Whether these geoms touch in another way than in pushing."""
        return not self._scene.is_wanted(pair)

    def mishap(self) -> str:
        """What became of the puck, if it cannot be pushed on."""
        x, y, z = self._state.object_position_m.tolist()
        if self._scene.object_tilt(self.arm.data) > _FALLEN_RAD:
            return "the object fell over"
        low, high = _AREA_RADIUS_M
        inside = low < math.hypot(x, y) < high and abs(math.atan2(y, x)) < _AREA_AZIMUTH_RAD
        if not inside or abs(z - self._resting_height()) > HEIGHT_M / 2:
            return f"the object left the area that the arm can reach: {x:.2f}, {y:.2f}, {z:.2f} m"
        return ""

    def reward(self, motion: Motion) -> float:
        """As the module says."""
        distance, speed, haste = motion.distance_m, motion.speed, motion.haste
        done = math.exp(-((distance / 0.02) ** 2))
        tilt = 1.0 - self._scene.tool_tilt_cosine(self.arm.data)
        return float(
            40.0 * (motion.distance_before_m - distance)
            + 30.0 * (1.0 - done) * (self._way_before - self._way)
            + 0.5 * math.exp(-distance / 0.05)
            + 0.5 * math.exp(-distance / 0.015)
            + 0.2 * done
            - 0.5 * tilt
            - 0.02 * (speed @ speed) / speed.size
            - 0.005 * (haste @ haste) / haste.size
            - FAILURE_PENALTY * motion.failed
        )

    def _resting_height(self) -> float:
        return self._scene.floor_m + HEIGHT_M / 2

    def _on_floor(self, radius: float, azimuth: float) -> FloatArray:
        return np.array(
            [radius * math.cos(azimuth), radius * math.sin(azimuth), self._resting_height()]
        )

    def _has_room(self, place: FloatArray) -> bool:
        """Whether the puck can stand there beside the obstacles of the robot's YAML."""
        obstacles = self.robot.surroundings.obstacles
        return all(obstacle.distance_m(place) > RADIUS_M for obstacle in obstacles)

    def _draw_object(self) -> FloatArray:
        for _ in range(_ATTEMPTS):
            azimuth = self.np_random.uniform(-_OBJECT_AZIMUTH_RAD, _OBJECT_AZIMUTH_RAD)
            place = self._on_floor(self.np_random.uniform(*_OBJECT_RADIUS_M), azimuth)
            if self._has_room(place):
                return place
        raise RuntimeError(
            f"robot '{self.robot.name}': its obstacles leave no place for the object in "
            f"{_ATTEMPTS} draws"
        )

    def _draw_goal(self, place: FloatArray) -> FloatArray:
        low, high = _GOAL_RADIUS_M
        for _ in range(_ATTEMPTS):
            way = self.np_random.uniform(*_GOAL_DISTANCE_M)
            direction = self.np_random.uniform(-math.pi, math.pi)
            goal = place + way * np.array([math.cos(direction), math.sin(direction), 0.0])
            azimuth = abs(math.atan2(goal[1], goal[0]))
            within = low < math.hypot(goal[0], goal[1]) < high and azimuth < _GOAL_AZIMUTH_RAD
            if within and self._has_room(goal):
                return goal
        raise ValueError(f"object_position: no goal that the arm can reach is near {place}")

    def _draw_start(self, place: FloatArray) -> FloatArray:
        for _ in range(_ATTEMPTS):
            away = self.np_random.uniform(*_TOOL_DISTANCE_M)
            direction = self.np_random.uniform(-math.pi, math.pi)
            tool = place + away * np.array([math.cos(direction), math.sin(direction), 0.0])
            tool[2] = self._scene.floor_m + self.np_random.uniform(*_TOOL_HEIGHT_M)
            spread = self.np_random.uniform(-1.0, 1.0, len(self.robot.joints)) * _SEED_SPREAD_RAD
            q = self._scene.solve(tool, self.robot.home_rad + spread)
            if q is not None and self._scene.is_clear(q, place):
                return q
        raise RuntimeError(
            f"robot '{self.robot.name}': no collision-free start beside the object in "
            f"{_ATTEMPTS} draws"
        )

    def _read_state(self) -> None:
        super()._read_state()
        data = self.arm.data
        self._state.object_position_m = self._scene.object_position(data)
        self._state.object_velocity_m_s = self._scene.object_velocity(data)
        self._way_before, self._way = self._way, self._way_to_push()

    def _way_to_push(self) -> float:
        """Length (m) of the tool's way to behind the puck, the height to go included."""
        _, around = way_behind(self._tool, self._state.object_position_m, self._goal)
        height = float(self._tool[2]) - self._scene.floor_m
        return around + abs(height - PUSH_HEIGHT_M)

    def _distance(self) -> float:
        return float(np.linalg.norm(self._goal - self._state.object_position_m))

    def _info(self, contact: bool, diverged: bool) -> dict[str, Any]:
        offset = self._tool - self._state.object_position_m
        return {
            **super()._info(contact, diverged),
            "tool_distance_m": float(np.linalg.norm(offset)),
        }
