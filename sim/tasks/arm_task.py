# SPDX-License-Identifier: Apache-2.0
"""What the tasks of an arm share: its motion under actions, plants, starts, repeats and pictures.

Start: joints uniform in the YAML's ``start_rad``, collision free, with the tool above the floor.
Action: joint velocity for one policy period, integrated at the control rate by
``action_to_command``; physics and servo at every control tick. Contact terminates.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from smfp_core.reference import Reference, ReferenceLimits, action_to_command
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.rotation import angle, unit_refusal
from smfp_core.specs import (
    ActionSpec,
    ControlAssumptions,
    FloatArray,
    ObservationField,
    ObservationSpec,
    RobotState,
    build_observation,
)
from smfp_sim.arm import ContactPair, Kinematics, SimulationDiverged
from smfp_sim.episode import SUCCESS_DISTANCE_M, Settling, Trajectory
from smfp_sim.plant import IDEAL, load_plant
from smfp_sim.plant_arm import PlantArm, make_arm
from smfp_sim.randomization import Randomization, control_assumptions
from smfp_sim.randomized_arm import RandomizedArm, make_randomized_arm
from smfp_sim.scene import Change

_START_ATTEMPTS = 1000


@dataclass(frozen=True)
class Motion:
    """What one step of a task was, for its reward.

    Attributes:
        distance_before_m: from the tool to the goal, before the step.
        distance_m: after it.
        speed: reference velocity [n] after it, as a fraction of the greatest one.
        haste: what the action asked for [n], less the reference velocity it met; in fractions too.
        failed: the arm touched something, or the physics diverged.
        angle_before_rad: between the tool's orientation and the goal's, before the step; 0 if the
            goal has none.
        angle_rad: after it.
    """

    distance_before_m: float
    distance_m: float
    speed: FloatArray
    haste: FloatArray
    failed: bool
    angle_before_rad: float = 0.0
    angle_rad: float = 0.0


def arm_fields(robot: RobotConfig) -> tuple[ObservationField, ...]:
    """What every policy sees of the arm, in order; the tool's position in the base frame."""
    n = len(robot.joints)
    return (
        ObservationField("joint_position", n, "rad"),
        ObservationField("joint_velocity", n, "rad/s"),
        ObservationField("tracking_error", n, "rad"),
        ObservationField("reference_velocity", n, "rad/s"),
        ObservationField("tool_position", 3, "m", robot.base_frame),
    )


class ArmTask(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A task of an arm with a goal, as a gymnasium environment.

    A task says what its policy sees (``describe``), where goals are (``draw_goal``) and what a step
    is worth (``reward``); where it differs, what else is in the scene (``change_scene``), how an
    episode begins (``draw``, ``place``), and what ends it (``is_fault``, ``mishap``).

    Args:
        robot: a shipped robot's name, the path of its YAML, or its description.
        render_mode: None or "rgb_array".
        plant: name or path of a YAML that says how far the robot is from the ideal one. The
            policy then sees what is measured; distance, success and reward are of the true arm,
            but for a reward's small part for the posture.
        randomization: name or path of a YAML that says how the robot differs from episode to
            episode, in place of a plant.

    ``reset(options=...)`` takes ``joint_position`` [n] (rad), ``goal`` [3] (m, base frame) or,
    where the policy sees the goal's orientation, [7] with a quaternion x, y, z, w, ``plant_seed``
    of the plant's randomness, ``hold_ticks``: control periods for which the arm is held where it
    was measured before the episode begins, and ``record``: whether to keep its ``trajectory``.
    ``info`` holds ``distance_m``, and ``angle_rad`` to a goal's orientation; ``contact`` and
    ``diverged``, each of which terminates; and ``is_success``: whether the episode would count as a
    success if it ended now. Physics that diverged, and what else a task ends an episode for, are
    in ``info["message"]``.

    Attributes:
        trajectory: every control period of an episode that is recorded, else None.
    """

    # gymnasium.Env declares it so, as an attribute of instances.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    success_distance_m = SUCCESS_DISTANCE_M

    def __init__(
        self,
        robot: str | Path | RobotConfig = "ur5e",
        render_mode: str | None = None,
        plant: str | Path | None = None,
        randomization: str | Path | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.robot = robot if isinstance(robot, RobotConfig) else load_robot(robot)
        if randomization is None:
            ideal_or_not = IDEAL if plant is None else load_plant(plant)
            self.arm = make_arm(self.robot, ideal_or_not, change=self.change_scene())
        elif plant is None:
            change = self.change_scene()
            self.arm = make_randomized_arm(self.robot, randomization, change=change)
        else:
            raise ValueError("plant, randomization: give one; the latter's file can have a plant")
        self._is_plant = isinstance(self.arm, PlantArm)
        self.trajectory: Trajectory | None = None
        self._kinematics = Kinematics(self.arm.arm)
        self._observation_spec = self.describe(self.robot)
        self._action_spec = self.robot.action_spec()
        self._limits = ReferenceLimits.of(self._action_spec)
        self._settling = Settling(self._action_spec.policy_period_s, self.success_distance_m)
        self._reference = Reference.at_rest(self.robot.home_rad)
        self._state = RobotState(
            self.arm.joint_position,
            self.arm.joint_velocity,
            self._reference.position,
            self._reference.velocity,
        )
        self._posed = self._observation_spec.needs_orientation
        self._goal: FloatArray = np.zeros(7 if self._posed else 3)
        self._tool: FloatArray = np.zeros(3)
        self._tool_orientation: FloatArray | None = None
        self._start: dict[str, Any] = {}
        self._renderer: Any = None
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (self._observation_spec.size,), np.float32
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._action_spec.size,), np.float32)

    @staticmethod
    @abstractmethod
    def describe(robot: RobotConfig) -> ObservationSpec:
        """What the policy sees, in order."""

    @abstractmethod
    def reward(self, motion: Motion) -> float:
        """What a step was worth."""

    def draw_goal(self, start: FloatArray) -> FloatArray:
        """A goal for an episode from joint positions ``start`` [n] (rad); see ``goal``."""
        return self.robot.sample_goal(self.np_random)

    def change_scene(self) -> Change | None:
        """What is added to the robot's MJCF; nothing, unless a task says so."""
        return None

    def draw(self, given: dict[str, Any]) -> dict[str, Any]:
        """Where an episode begins, as options of ``reset``: those ``given``, the others drawn."""
        start, goal = given.get("joint_position"), given.get("goal")
        start = self.draw_start() if start is None else start
        goal = self.draw_goal(start) if goal is None else self._given_goal(goal)
        return {"joint_position": start, "goal": goal}

    def place(self, options: dict[str, Any]) -> None:
        """Put what else is in the scene where ``options`` say; the arm was just reset."""

    def is_fault(self, pair: ContactPair) -> bool:
        """Whether the episode ends because these geoms touch: always, unless a task says no."""
        return True

    def mishap(self) -> str:
        """What else ended the episode, in words; nothing, unless a task says so."""
        return ""

    @property
    def goal(self) -> FloatArray:
        """The goal [3] (m, base frame); [7] with a quaternion x, y, z, w if it has one."""
        return self._goal.copy()

    @property
    def start_options(self) -> dict[str, Any]:
        """Options with which ``reset`` repeats the beginning of this episode."""
        return dict(self._start)

    def policy_contract(self) -> tuple[ObservationSpec, ActionSpec, RobotConfig]:
        """What a policy file states of this task: both specs, and of which robot."""
        return self._observation_spec, self._action_spec, self.robot

    def control_assumptions(self) -> ControlAssumptions | None:
        """What a policy file states of the arm's plant; None if the arm is the ideal one."""
        if isinstance(self.arm, RandomizedArm):
            return control_assumptions(self.arm.randomization)
        if isinstance(self.arm, PlantArm):
            return control_assumptions(Randomization((), self.arm.plant))
        return None

    def set_training(self, seed: int, steps: int | None = None) -> None:
        """Randomise, from the next reset on, as training ``seed`` does after ``steps``.

        None: after its curriculum.
        """
        if isinstance(self.arm, RandomizedArm):
            self.arm.set_training(seed, steps)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; see the class for ``options``."""
        super().reset(seed=seed)
        given = options or {}
        drawn = self.draw(given)
        self._goal = drawn["goal"]
        plant_seed = given.get("plant_seed")
        if plant_seed is None and self._is_plant:
            plant_seed = int(self.np_random.integers(2**63))
        self._start = {**drawn, "goal": self.goal, "plant_seed": plant_seed}
        self.arm.reset(drawn["joint_position"], plant_seed)
        self.place(drawn)
        self._reference = Reference.at_rest(self.arm.measured_position)
        period_s = self._action_spec.control_period_s
        self.trajectory = Trajectory(period_s) if given.get("record") else None
        for _ in range(given.get("hold_ticks", 0)):
            self._tick()
        self._settling.steps = 0
        self._read_state()
        return self._observe(), self._info(contact=False, diverged=False)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply ``action`` [n] in [-1, 1] for one policy period."""
        if not np.isfinite(action).all():
            raise ValueError(f"action must be finite, got {action}")
        wanted = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        haste = wanted - self._reference.velocity / self._limits.velocity
        before, angle_before = self._distance(), self._angle()
        contact = diverged = False
        message = ""
        try:
            for _ in range(self._action_spec.ticks_per_action):
                action_to_command(self._action_spec, self._limits, wanted, self._reference)
                self._tick()
                contact = contact or any(map(self.is_fault, self.arm.contacts()))
            self._read_state()
            message = self.mishap()
        except SimulationDiverged as error:
            # The state before stands in for the lost one; the episode is over.
            diverged, message = True, str(error)
        distance, angle_rad = self._distance(), self._angle()
        failed = contact or bool(message)
        self._settling.add(distance, failed, angle_rad)
        speed = self._reference.velocity / self._limits.velocity
        reward = self.reward(
            Motion(before, distance, speed, haste, failed, angle_before, angle_rad)
        )
        info = self._info(contact, diverged)
        if message:
            info["message"] = message
        return self._observe(), reward, failed, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The scene with the goal as an RGB image, if ``render_mode`` asks for one."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from smfp_sim.render import SceneRenderer

            self._renderer = SceneRenderer(self.arm.arm)
        return self._renderer.frame(self.arm.joint_position, self._goal, self.arm.data.qpos)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def snapshot(self) -> dict[str, Any]:
        """State that ``restore`` goes on from to the bit: arrays, and the generator as JSON."""
        return {
            **self.arm.snapshot(),
            "reference_position": self._reference.position.copy(),
            "reference_velocity": self._reference.velocity.copy(),
            "goal": self._goal.copy(),
            "steps_at_goal": np.array(self._settling.steps),
            "rng": json.dumps(self.np_random.bit_generator.state),
        }

    def restore(self, snapshot: dict[str, Any]) -> NDArray[np.float32]:
        """Go back to a ``snapshot`` of the same task; returns its observation."""
        self.arm.restore(snapshot)
        self._reference = Reference(
            np.array(snapshot["reference_position"]), np.array(snapshot["reference_velocity"])
        )
        self._goal = np.array(snapshot["goal"])
        self._settling.steps = int(snapshot["steps_at_goal"])
        self.np_random.bit_generator.state = json.loads(str(snapshot["rng"]))
        self._read_state()
        return self._observe()

    def draw_start(self) -> FloatArray:
        low, high = np.array([joint.start_rad for joint in self.robot.joints]).T
        for _ in range(_START_ATTEMPTS):
            q = self.np_random.uniform(low, high)
            above_floor = self._kinematics.tool_position(q)[2] > 0.0
            if above_floor and not self._kinematics.contacts(q):
                return q
        raise RuntimeError(
            f"start_rad of robot '{self.robot.name}': no collision-free start in "
            f"{_START_ATTEMPTS} draws"
        )

    def _tick(self) -> None:
        self.arm.command_position(self._reference.position)
        self.arm.step(self._action_spec.control_period_s)
        self.arm.sample()
        if self.trajectory is not None:
            self.trajectory.add(self.arm)

    def _read_state(self) -> None:
        q = self.arm.measured_position
        self._state = RobotState(
            q,
            self.arm.measured_velocity,
            self._reference.position,
            self._reference.velocity,
            np.zeros(3),
            np.zeros((3, len(q))),
        )
        self._observation_spec.make_room(self._state)
        self._kinematics.update(self._state)
        self._tool = self._state.tool_position_m
        if self._posed:
            self._tool_orientation = self._state.tool_orientation
        if self._is_plant:
            q = self.arm.joint_position
            self._tool = self._kinematics.tool_position(q)
            if self._posed:
                self._tool_orientation = self._kinematics.tool_orientation(q)

    def _observe(self) -> NDArray[np.float32]:
        return build_observation(self._observation_spec, self._state, self._goal)

    def _distance(self) -> float:
        return float(np.linalg.norm(self._goal[:3] - self._tool))

    def _angle(self) -> float:
        if self._tool_orientation is None:
            return 0.0
        return angle(self._tool_orientation.tolist(), self._goal[3:].tolist())

    def _given_goal(self, goal: ArrayLike) -> FloatArray:
        given, size = np.array(goal, np.float64), 7 if self._posed else 3
        if given.shape != (size,):
            raise ValueError(f"goal: this task takes {size} values, got shape {given.shape}")
        refusal = unit_refusal(given[3:].tolist()) if self._posed else None
        if refusal is not None:
            raise ValueError(f"goal: {refusal}")
        return given

    def _info(self, contact: bool, diverged: bool) -> dict[str, Any]:
        info = {
            "distance_m": self._distance(),
            "contact": contact,
            "diverged": diverged,
            "is_success": self._settling.reached,
        }
        if self._posed:
            info["angle_rad"] = self._angle()
        return info
