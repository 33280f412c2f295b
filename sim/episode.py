# SPDX-License-Identifier: Apache-2.0
"""What an episode of reaching came to: the same judge in training, in reports and over ROS 2."""

from __future__ import annotations

import hashlib

import numpy as np

from smfp_core.specs import FloatArray
from smfp_sim.arm import SimulatedArm

SUCCESS_DISTANCE_M = 0.02
SUCCESS_ANGLE_RAD = 0.1
SUCCESS_TIME_S = 0.5


class Settling:
    """Whether the tool was at the goal at every policy step of the last ``SUCCESS_TIME_S``.

    Args:
        policy_period_s: length of a policy step.
        distance_m: what counts as at the goal.

    Attributes:
        steps: policy steps that it has been there for, without a break.
    """

    def __init__(self, policy_period_s: float, distance_m: float = SUCCESS_DISTANCE_M) -> None:
        self._distance_m = distance_m
        self._needed = round(SUCCESS_TIME_S / policy_period_s)
        self.steps = 0

    def add(self, distance_m: float, failed: bool = False, angle_rad: float = 0.0) -> None:
        """A policy step that ended at this distance, and angle where the goal has an orientation.

        ``failed``: the arm touched something.
        """
        near = distance_m < self._distance_m and angle_rad < SUCCESS_ANGLE_RAD and not failed
        self.steps = self.steps + 1 if near else 0

    @property
    def reached(self) -> bool:
        """Whether the episode would be a success if it ended now."""
        return self.steps >= self._needed


class Trajectory:
    """The true motion of an arm and what it was commanded, one row a control period."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._rows: list[tuple[FloatArray, FloatArray, FloatArray]] = []

    def add(self, arm: SimulatedArm) -> None:
        """Note the arm after a control period."""
        row = (arm.reference_position.copy(), arm.joint_position, arm.joint_velocity)
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def sha256(self) -> str:
        """Of every bit of it."""
        return hashlib.sha256(np.array(self._rows).tobytes()).hexdigest()

    def peak_velocity_rad_s(self) -> float:
        """Greatest speed of any joint."""
        return float(np.abs([velocity for _, _, velocity in self._rows]).max())

    def peak_acceleration_rad_s2(self) -> float:
        """Greatest change of a joint's speed from one control period to the next, over its time."""
        velocity = np.array([velocity for _, _, velocity in self._rows])
        if len(velocity) < 2:
            return 0.0
        return float(np.abs(np.diff(velocity, axis=0)).max() / self._period_s)
