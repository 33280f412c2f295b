# SPDX-License-Identifier: Apache-2.0
"""The simulated arm with a driver's manners, ROS-free: keeps the last command, ignores bad ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import SimulatedArm
from smfp_sim.clearance import ClearanceModel
from smfp_sim.plant import IDEAL, Plant
from smfp_sim.plant_arm import PlantArm, make_arm
from smfp_sim.randomized_arm import make_randomized_arm

# Simulated time that one call makes up for at most: after a long stall of the computer the robot
# is a little behind the clock rather than stuck in computing.
_MOST_CATCH_UP_S = 0.1
# Random starts keep as far from everything, a little more than the safety filter's own margin.
_START_CLEARANCE_M = 0.02
_MOST_DRAWS = 1000


class SimulatedDriver:
    """Steps a ``SimulatedArm`` and takes commands as ros2_control's controllers do.

    Args:
        robot: which arm.
        period_s: length of one ``advance``; a whole number of physics steps, times any
            ``real_time_factor``.
        physics_rate_hz: of the physics steps; 0 for the MJCF's own timestep.
        start_pose: ``home``, ``random``, or joint positions separated by commas.
        seed: of random poses, and of the plant or what is drawn of it.
        real_time_factor: simulated seconds in a period, over the period.
        plant: how far the arm is from the ideal one.
        randomization: name or path of how it differs from reset to reset, in place of a plant;
            empty: it does not.

    Raises:
        ConfigError: names what does not fit.
    """

    def __init__(
        self,
        robot: RobotConfig,
        period_s: float,
        physics_rate_hz: float = 0.0,
        start_pose: str = "home",
        seed: int = 0,
        real_time_factor: float = 1.0,
        plant: Plant = IDEAL,
        randomization: str = "",
    ) -> None:
        timestep_s: float | None = 1.0 / physics_rate_hz if physics_rate_hz else None
        self.arm: SimulatedArm
        if randomization:
            self.arm = make_randomized_arm(robot, randomization, timestep_s, seed)
        else:
            self.arm = make_arm(robot, plant, timestep_s)
        ratio = period_s / self.arm.arm.timestep_s
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
            raise ConfigError(
                f"physics_rate_hz: {ratio / period_s:g} is not a whole multiple of the "
                f"publish rate {1.0 / period_s:g}"
            )
        self.robot = robot
        self._period_s = period_s
        self._factor = real_time_factor
        self._start_pose = start_pose
        self._rng = np.random.default_rng(seed)
        self._plant_seed: int | None = seed
        self._debt_s = 0.0
        # The last position of a controller: with a delay before the servos, not what they have.
        # None after velocities, which end wherever the servos are.
        self._sent: FloatArray | None = None
        self._from: FloatArray = robot.home_rad
        self._to = self._from
        self._segment_s = self._left_s = 0.0
        self.reset()

    @property
    def plant(self) -> Plant:
        """What the arm is behind now."""
        return self.arm.plant if isinstance(self.arm, PlantArm) else IDEAL

    def reset(self, pose: FloatArray | None = None, plant_seed: int | None = None) -> None:
        """Stand still at ``pose`` [n] (rad), by default the start pose: a random one is drawn anew.

        What is random in the plant goes on as it was, or begins anew with ``plant_seed``.
        """
        if plant_seed is None:
            plant_seed, self._plant_seed = self._plant_seed, None
        start = self._pose() if pose is None else pose
        self.arm.reset(start, plant_seed)
        self._sent = start
        self._debt_s = self._left_s = 0.0

    def _pose(self) -> FloatArray:
        if self._start_pose == "home":
            return self.robot.home_rad
        if self._start_pose == "random":
            return self._draw()
        try:
            pose = np.array([float(text) for text in self._start_pose.split(",")])
        except ValueError:
            pose = np.zeros(0)
        if len(pose) != len(self.robot.joints) or not np.isfinite(pose).all():
            raise ConfigError(
                f"start_pose: expected 'home', 'random' or {len(self.robot.joints)} numbers "
                f"separated by commas, got '{self._start_pose}'"
            )
        return pose

    def _draw(self) -> FloatArray:
        low, high = np.array([joint.start_rad for joint in self.robot.joints]).T
        clearance = ClearanceModel(self.robot, self.arm.model)
        for _ in range(_MOST_DRAWS):
            pose = self._rng.uniform(low, high)
            if clearance.least(pose) >= _START_CLEARANCE_M:
                return pose
        raise ConfigError(
            f"start_pose: none of {_MOST_DRAWS} random poses is {_START_CLEARANCE_M} m clear of "
            "everything: narrow the joints' start_rad in the robot description"
        )

    def take_position(self, values: Sequence[float]) -> str | None:
        """Joint positions [n], rad, held until the next command; returns why they are ignored."""
        problem = self._problem(values)
        if problem is None:
            self._left_s = 0.0
            self._command(np.asarray(values))
        return problem

    def take_velocity(self, values: Sequence[float]) -> str | None:
        """Joint velocities [n], rad/s, held until the next command."""
        problem = self._problem(values)
        if problem is None:
            self._left_s, self._sent = 0.0, None
            self.arm.command_velocity(np.asarray(values))
        return problem

    def take_trajectory(
        self, names: Sequence[str], positions: Sequence[float], duration_s: float
    ) -> str | None:
        """Joint positions to be reached in ``duration_s``, straight from what was sent last."""
        if sorted(names) != sorted(self.robot.joint_names):
            return f"joint_names {list(names)} are not the robot's"
        problem = self._problem(positions)
        if problem is None:
            order = [list(names).index(joint) for joint in self.robot.joint_names]
            self._from = self.arm.reference_position if self._sent is None else self._sent
            self._to = np.asarray(positions)[order]
            self._segment_s = self._left_s = max(duration_s, self.arm.arm.timestep_s)
        return problem

    def _command(self, position: FloatArray) -> None:
        self._sent = position
        self.arm.command_position(position)

    def _problem(self, values: Sequence[float]) -> str | None:
        n = len(self.robot.joints)
        if len(values) != n:
            return f"{len(values)} values for {n} joints"
        return None if np.isfinite(values).all() else "values are not finite"

    def advance(self, periods: int = 1) -> None:
        """Let ``periods`` periods of the clock pass."""
        timestep_s = self.arm.arm.timestep_s
        self._debt_s += min(periods * self._period_s, _MOST_CATCH_UP_S) * self._factor
        while self._debt_s > timestep_s / 2:
            if self._left_s > 0.0:
                self._left_s -= timestep_s
                if self._left_s > timestep_s / 2:
                    share = 1.0 - self._left_s / self._segment_s
                    self._command(self._from + share * (self._to - self._from))
                else:  # to the bit, which the sum would not be
                    self._left_s = 0.0
                    self._command(self._to)
            self.arm.step()
            self._debt_s -= timestep_s
        self.arm.sample()
