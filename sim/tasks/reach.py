# SPDX-License-Identifier: Apache-2.0
"""Reach: bring the tool point to a goal position and stay there.

Start and action: as in every task of an arm (``arm_task.py``). Goal: uniform in the YAML's shell.
Horizon 5 s, ended by truncation; contact with the arm itself or the floor terminates. Success:
within 2 cm at every policy step of the last 0.5 s, without contact on the way.

Reward of a step, with d the distance in metres after it and d0 before it, w the reference velocity
and u the commanded velocity, both as fractions of the greatest one:

    20 (d0 - d) + 0.4 (1 - d) + 0.3 exp(-d / 0.1) + 0.5 exp(-d / 0.02)
        - 0.02 mean(w^2) - 0.005 mean((u - w)^2) - 0.1 mean((q - home)^2)

Progress pays at once: one action changes the tool's path by a few millimetres only, which the
later rewards show too faintly through a learned value. Its sum over an episode depends on the
two ends alone. The exponentials keep a gradient at the goal itself, 25/m, where a squared
distance would fade; that is what brings millimetres. The last two ask for rest and for commands
that the acceleration limit can follow, and stay well below what motion towards the goal earns.
A position leaves joints free, the last one entirely. The pull towards the home pose, faint beside
the goal's, keeps them from drifting from goal to goal until they meet a limit.
At rest on the goal the reward is up to 1.2; it is positive wherever the arm can be soon, so that
ending an episode by contact never pays, and the contact itself costs 1 on top.
"""

from __future__ import annotations

import numpy as np

from smfp_core.robot import RobotConfig
from smfp_core.specs import ObservationField, ObservationSpec
from smfp_sim.tasks.arm_task import ArmTask, Motion, arm_fields

FAILURE_PENALTY = 1.0


class ReachEnv(ArmTask):
    """The task as a gymnasium environment; options and ``info`` are those of ``ArmTask``."""

    @staticmethod
    def describe(robot: RobotConfig) -> ObservationSpec:
        """What the policy sees, in order; positions of tool and goal in the base frame."""
        n = len(robot.joints)
        return ObservationSpec(
            (
                *arm_fields(robot),
                ObservationField("goal_offset", 3, "m", robot.base_frame),
                ObservationField("goal_gradient", n, "m/rad"),
            )
        )

    def reward(self, motion: Motion) -> float:
        """As the module says."""
        distance, speed, haste = motion.distance_m, motion.speed, motion.haste
        posture = self._state.joint_position_rad - self.robot.home_rad
        return float(
            20.0 * (motion.distance_before_m - distance)
            + 0.4 * (1.0 - distance)
            + 0.3 * np.exp(-distance / 0.1)
            + 0.5 * np.exp(-distance / 0.02)
            - 0.02 * (speed @ speed) / speed.size
            - 0.005 * (haste @ haste) / haste.size
            - 0.1 * (posture @ posture) / posture.size
            - FAILURE_PENALTY * motion.failed
        )
