# SPDX-License-Identifier: Apache-2.0
"""policy_node on the fake driver, through each controller: judged by what the arm itself did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import Bench
from driver_process import Motion, set_faults, start_driver

from smfp_core.robot import RobotConfig

pytestmark = pytest.mark.process

CONTROLLERS = {
    "forward_position": "forward_position_controller",
    "forward_velocity": "forward_velocity_controller",
    "joint_trajectory": "scaled_joint_trajectory_controller",
}


def assert_within_limits(robot: RobotConfig, motion: Motion) -> None:
    """The arm kept to the robot's position, velocity and acceleration limits."""
    assert motion.joints == robot.joint_names
    low, high = np.array([joint.position_rad for joint in robot.joints]).T
    assert np.all((motion.position >= low) & (motion.position <= high))
    # The policy of these tests asks for 1 rad/s; the servo cannot be faster than its target.
    smooth = np.diff(motion.position[::25], axis=0) / (25 * 0.002)
    assert np.abs(smooth).max() < 1.5 * robot.policy.velocity_rad_s
    assert np.abs(motion.smooth_acceleration(0.2)).max() < robot.limits.acceleration.max()


@pytest.mark.parametrize("interface", CONTROLLERS)
def test_the_arm_reaches_a_goal_and_rests_when_deactivated(
    bench: Bench,
    robot: RobotConfig,
    policy_path: Path,
    near_goal: np.ndarray,
    tmp_path: Path,
    interface: str,
) -> None:
    driver = start_driver(bench, tmp_path, "--active", CONTROLLERS[interface])
    bench.start_policy_node(policy_path, command_interface=interface)
    assert bench.transition("configure")
    bench.until(lambda: bench.states, "joint states")
    assert bench.transition("activate")
    bench.send_goal(near_goal)
    bench.until(lambda: bench.goal_error_m(near_goal) < 0.02, "the goal")
    assert bench.transition("deactivate")
    bench.spin(0.5)
    motion = driver.motion()
    assert motion.taken > 100
    assert_within_limits(robot, motion)
    # What the controller keeps for ever after the last command must be standing still.
    assert np.abs(motion.velocity[-50:]).max() < 1e-3


def test_the_arm_stops_when_its_states_stop_and_goes_on_after_a_reset(
    bench: Bench, robot: RobotConfig, policy_path: Path, near_goal: np.ndarray, tmp_path: Path
) -> None:
    driver = start_driver(bench, tmp_path)
    bench.start_policy_node(policy_path)
    assert bench.transition("configure")
    bench.until(lambda: bench.states, "joint states")
    assert bench.transition("activate")
    bench.send_goal(near_goal)
    bench.until_state("tracking")
    set_faults(bench, paused=True)
    bench.until(lambda: bench.status["fault"] == "stale_state", "the fault")
    bench.spin(0.5)
    set_faults(bench, paused=False)
    bench.until(lambda: bench.reset().success, "the reset")
    bench.until_state("hold")
    bench.send_goal(near_goal)
    bench.until(lambda: bench.goal_error_m(near_goal) < 0.02, "the goal")
    assert_within_limits(robot, driver.motion())
