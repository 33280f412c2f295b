# SPDX-License-Identifier: Apache-2.0
"""ReachPose: bring the tool to a goal position, turned as the goal says, and stay there.

As Reach (``reach.py``), with an orientation drawn from the YAML's ``goals.orientations`` to every
goal. Horizon 5 s. Success: within 2 cm and 0.1 rad at every policy step of the last 0.5 s, without
contact on the way.

Reward of a step, with d and d0 as in Reach, a the angle in radians between tool and goal after the
step and a0 before it:

    40 (d0 - d) + 8 (a0 - a) + 0.1 (1 - d) + 0.03 (pi - a)
        + 0.15 exp(-d / 0.1) + 0.3 exp(-d / 0.02) + 0.15 exp(-a / 0.5) + 0.3 exp(-a / 0.1)
        - 0.02 mean(w^2) - 0.005 mean((u - w)^2) - 0.02 mean((q - home)^2)

A radian of progress is worth as much as 20 cm: to turn the tool at the joints' full speed pays
about as well as to move it so. Progress weighs twice what it does in Reach, and what is earned far
from the goal a third: with a second error to mind, the few millimetres of an action would be lost
in a value that hardly depends on it. A pose leaves six joints no freedom but that of branch, so the
pull towards home is fainter still than Reach's.
"""

from __future__ import annotations

import math

import numpy as np

from smfp_core.robot import RobotConfig, RobotConfigError
from smfp_core.specs import FloatArray, ObservationField, ObservationSpec
from smfp_sim.tasks.arm_task import ArmTask, Motion, arm_fields

FAILURE_PENALTY = 1.0


class ReachPoseEnv(ArmTask):
    """The task as a gymnasium environment; options and ``info`` are those of ``ArmTask``.

    Raises:
        RobotConfigError: the robot's YAML has no ``goals.orientations``.
    """

    @staticmethod
    def describe(robot: RobotConfig) -> ObservationSpec:
        """What the policy sees, in order; tool and goal in the base frame."""
        if robot.goals.orientations is None:
            raise RobotConfigError(
                f"goals.orientations: robot '{robot.name}' has none; ReachPose needs the "
                "orientations that goals may have"
            )
        n = len(robot.joints)
        return ObservationSpec(
            (
                *arm_fields(robot),
                ObservationField("goal_offset", 3, "m", robot.base_frame),
                ObservationField("goal_rotation", 3, "rad", robot.base_frame),
                ObservationField("goal_step", n, ""),
            )
        )

    def draw_goal(self, start: FloatArray) -> FloatArray:
        """A goal [7]: position (m) and quaternion x, y, z, w, base frame."""
        return self.robot.sample_pose(self.np_random)

    def reward(self, motion: Motion) -> float:
        """As the module says."""
        distance, angle = motion.distance_m, motion.angle_rad
        speed, haste = motion.speed, motion.haste
        posture = self._state.joint_position_rad - self.robot.home_rad
        return float(
            40.0 * (motion.distance_before_m - distance)
            + 8.0 * (motion.angle_before_rad - angle)
            + 0.1 * (1.0 - distance)
            + 0.03 * (math.pi - angle)
            + 0.15 * np.exp(-distance / 0.1)
            + 0.3 * np.exp(-distance / 0.02)
            + 0.15 * np.exp(-angle / 0.5)
            + 0.3 * np.exp(-angle / 0.1)
            - 0.02 * (speed @ speed) / speed.size
            - 0.005 * (haste @ haste) / haste.size
            - 0.02 * (posture @ posture) / posture.size
            - FAILURE_PENALTY * motion.failed
        )
