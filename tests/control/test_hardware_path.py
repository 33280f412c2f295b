# SPDX-License-Identifier: Apache-2.0
"""policy_node on the fake driver, through each controller: judged by what the arm itself did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import Bench, open_bench
from driver_process import Motion, assert_commands_ramp, set_faults, start_driver

from smfp_core.robot import RobotConfig, load_robot

pytestmark = pytest.mark.process

CONTROLLERS = {
    "forward_position": "forward_position_controller",
    "forward_velocity": "forward_velocity_controller",
    "joint_trajectory": "scaled_joint_trajectory_controller",
}


def assert_within_limits(robot: RobotConfig, motion: Motion, velocities: bool = False) -> None:
    """The arm kept to the limits of position and velocity, its commands to the acceleration's."""
    assert motion.joints == robot.joint_names
    low, high = np.array([joint.position_rad for joint in robot.joints]).T
    assert np.all((motion.position >= low) & (motion.position <= high))
    # The policy of these tests asks for 1 rad/s; the servo cannot be faster than its target.
    span = motion.time_s[25] - motion.time_s[0]
    smooth = np.diff(motion.position[::25], axis=0) / span
    assert np.abs(smooth).max() < 1.5 * robot.policy.velocity_rad_s
    assert_commands_ramp(robot, motion, velocities)


@pytest.mark.parametrize("interface", CONTROLLERS)
def test_the_arm_reaches_a_goal_and_rests_when_deactivated_in_motion(
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
    left = bench.joint_position()
    bench.send_goal(near_goal * [1.0, -1.0, 1.0])
    bench.until(lambda: np.abs(bench.joint_position() - left).max() > 0.02, "motion")
    assert bench.transition("deactivate")
    bench.spin(0.5)
    assert bench.goal_error_m(near_goal * [1.0, -1.0, 1.0]) > 0.02, "it was still in motion"
    motion = driver.motion()
    assert motion.taken > 20
    assert_within_limits(robot, motion, interface == "forward_velocity")
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


def test_an_fr3_reaches_a_goal_through_the_controller_of_its_yaml(
    local_ros: None, tmp_path: Path
) -> None:
    robot = load_robot("fr3")
    goal = np.array([0.37, 0.06, 0.55])
    controller = "fr3_arm_controller"
    with open_bench(robot) as bench:
        driver = start_driver(
            bench,
            tmp_path,
            *("--joints", ",".join(robot.joint_names)),
            f"--pose={','.join(map(str, robot.home_rad))}",
            *("--joint-states-topic", "franka/joint_states"),
            *("--controllers", controller, "--active", controller),
        )
        bench.start_policy_node("fr3_reach", robot="fr3")
        assert bench.transition("configure")
        bench.until(lambda: bench.states, "joint states")
        assert bench.transition("activate")
        bench.send_goal(goal, "fr3_link0")
        bench.until(lambda: bench.goal_error_m(goal) < 0.02, "the goal")
        motion = driver.motion()
    assert motion.taken > 20
    assert_within_limits(robot, motion)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("fr3_dance", "'fr3_dance' is no shipped policy"), ("ur5e_reach", "'ur5e'")],
)
def test_an_fr3_without_a_policy_of_its_own_is_refused_with_the_reason(
    local_ros: None, policy: str, reason: str
) -> None:
    with open_bench(load_robot("fr3")) as bench:
        bench.start_policy_node(policy, robot="fr3")
        assert not bench.transition("configure")
        bench.until(lambda: bench.status.get("refusal"), "a reason on ~/status")
        assert reason in bench.status["refusal"]
