# SPDX-License-Identifier: Apache-2.0
"""Where a policy would take the tool from here, if the arm follows its reference."""

from __future__ import annotations

import math

import numpy as np

from smfp_control.noise import NoiseSource
from smfp_control.policy_runner import Policy, PolicyRunner
from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray, RobotState
from smfp_sim.arm import ArmModel, Kinematics

_ARRIVED_M = 2e-3


class PathPrediction:
    """Rolls a policy out through the kinematics alone, with its deterministic noise.

    The safety filter is not in it, nor the arm's lag behind the reference. Not thread-safe.

    Args:
        robot: the arm.
        policy: verified for it.
    """

    def __init__(self, robot: RobotConfig, policy: Policy) -> None:
        n = len(robot.joints)
        self._runner = PolicyRunner(
            policy, NoiseSource(policy.deterministic_noise, 0.0, 0, "never")
        )
        self._period_s = policy.action.control_period_s
        self._kinematics = Kinematics(ArmModel(robot))
        # Measured and reference are one array each: the arm is where it should be.
        position, velocity = np.zeros(n), np.zeros(n)
        self._state = RobotState(
            position, velocity, position, velocity, np.zeros(3), np.zeros((3, n))
        )
        policy.observation.make_room(self._state)

    def path(
        self, position: FloatArray, velocity: FloatArray, goal: FloatArray, horizon_s: float
    ) -> FloatArray:
        """Tool positions [k, 3] (m, base frame), one each policy period, the present one first.

        Ends where the tool is within 2 mm of the goal, or after ``horizon_s``. Empty if the policy
        needs an orientation and the goal has none.

        Args:
            position: of the joints [n], rad.
            velocity: of the joints [n], rad/s.
            goal: [3] (m, base frame), or [7] with a quaternion x, y, z, w.
            horizon_s: how far to look ahead.
        """
        state, runner, dt = self._state, self._runner, self._period_s
        if runner.needs_orientation and len(goal) < 7:
            return np.zeros((0, 3))
        now, speed = list(map(float, position)), list(map(float, velocity))
        points = []
        periods = round(horizon_s / (dt * runner.ticks_per_action))
        for _ in range(periods + 1):
            state.joint_position_rad[:] = now
            state.joint_velocity_rad_s[:] = speed
            self._kinematics.update(state)
            points.append(state.tool_position_m.copy())
            arrived = math.dist(points[-1], goal[:3]) < _ARRIVED_M
            if arrived or not runner.sample(state, goal):
                break
            for _ in range(runner.ticks_per_action):
                speed = runner.next_velocity(now, speed)
                now = [q + v * dt for q, v in zip(now, speed, strict=True)]
        return np.array(points)
