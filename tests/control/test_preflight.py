# SPDX-License-Identifier: Apache-2.0
"""The preflight command against the fake driver, as processes: go, and every reason for no-go."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crafted import towards_goal, write_policy
from driver_process import DriverProcess
from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from smfp_control.isolation import Child, DomainReservation, stop_children
from smfp_core.robot import RobotConfig, load_robot

pytestmark = pytest.mark.process

# A busy test machine lets a process wait longer than a robot's computer may, and a driver come
# late: the node is taken to control at 100 Hz, and the driver publishes at its 500 Hz.
RATE_HZ = 100.0
FORWARD = "forward_position_controller"
PATIENT = ("--state-timeout", "2.0", "--duration", "1.5", "--rate", str(RATE_HZ))
CHECKS = [
    *("policy file", "joint states", "joint states QoS", "joint names", "velocities"),
    *("state rate", "state gaps", "clock offset", "pose in limits", "collision", "at rest"),
    *("command topic", "command QoS", "controller", "other commands", "policy node"),
]


class Stage:
    """A domain with drivers and runs of the preflight command on it."""

    def __init__(self, folder: Path, policy: Path) -> None:
        self._reservation = DomainReservation()
        self.domain_id = self._reservation.domain_id
        self._folder, self._policy = folder, policy
        self.drivers: list[DriverProcess] = []
        self.nodes: list[Child] = []
        self.rows: dict[str, dict[str, str]] = {}
        self.output = ""

    def driver(self, *options: str) -> DriverProcess:
        """Start a driver."""
        self.drivers.append(DriverProcess(self._folder, self.domain_id, *options))
        return self.drivers[-1]

    def policy_node(self, **change: str) -> None:
        """Start the node that ``preflight`` without options is about, but for ``change``."""
        same = {"robot": "ur5e", "policy_path": str(self._policy), "state_timeout_s": "1.0"}
        same |= {"control_rate_hz": str(RATE_HZ)}
        arguments = [f"{name}:={value}" for name, value in (same | change).items()]
        self.nodes.append(
            Child(
                "smfp_control.policy_node",
                ["--ros-args", *(word for text in arguments for word in ("-p", text))],
                {"ROS_DOMAIN_ID": str(self.domain_id)},
            )
        )

    def preflight(self, *options: str) -> int:
        """Run the command; its exit status. The rows are kept."""
        path = self._folder / "preflight.json"
        path.unlink(missing_ok=True)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "smfp_control.preflight", "--json", str(path)),
                *("--policy", str(self._policy), *PATIENT, *options),
            ],
            env={**os.environ, "ROS_DOMAIN_ID": str(self.domain_id)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.output = done.stdout + done.stderr
        print(self.output)
        if path.exists():
            result: dict[str, Any] = json.loads(path.read_text())
            self.rows = {row["check"]: row for row in result["rows"]}
            assert result["verdict"] == ("go" if done.returncode == 0 else "no-go")
        return done.returncode

    def refused(self) -> dict[str, str]:
        """What was found by the checks that say no-go; each says what to do."""
        rows = [row for row in self.rows.values() if row["verdict"] == "no-go"]
        assert all(row["advice"] for row in rows)
        return {row["check"]: row["found"] for row in rows}


def slow_policy(path: Path, robot: RobotConfig, name: str | None = None) -> Path:
    """A policy for ``robot`` at the control rate of these tests."""
    slow = dataclasses.replace(robot, control_rate_hz=RATE_HZ)
    return write_policy(path, slow, towards_goal(slow), robot_name=name)


@pytest.fixture
def stage(local_ros: None, tmp_path: Path, robot: RobotConfig) -> Iterator[Stage]:
    stage = Stage(tmp_path, slow_policy(tmp_path / "slow.onnx", robot))
    yield stage
    stop_children([*stage.nodes, *(driver.child for driver in stage.drivers)], patience_s=5.0)


@pytest.fixture
def other_node(stage: Stage) -> Iterator[Callable[..., None]]:
    """Adds a publisher, or a subscriber, of another node to the stage."""
    context = Context()
    context.init(args=[], domain_id=stage.domain_id)
    nodes: list[Node] = []

    def publish(name: str, kind: type, topic: str, listens: bool = False) -> None:
        nodes.append(Node(name, context=context))
        if listens:
            nodes[-1].create_subscription(kind, topic, print, 1)
        else:
            nodes[-1].create_publisher(kind, topic, 1)

    yield publish
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def test_a_healthy_driver_is_a_go_and_gets_no_command(stage: Stage) -> None:
    driver = stage.driver("--extra-joint", "finger_joint")
    assert stage.preflight() == 0, stage.refused()
    assert list(stage.rows) == CHECKS
    assert not stage.refused()
    assert "finger_joint" in stage.rows["joint names"]["found"]
    assert "list_controllers" in stage.rows["controller"]["advice"]
    assert ": GO" in stage.output and "what to do" in stage.output
    motion = driver.motion()
    assert motion.taken == motion.ignored == 0
    assert not motion.velocity.any()


def test_a_trajectory_controller_in_a_namespace_is_a_go_in_any_order(stage: Stage) -> None:
    controller = "scaled_joint_trajectory_controller"
    joints = "elbow_joint,shoulder_lift_joint,shoulder_pan_joint"
    wrists = "wrist_1_joint,wrist_2_joint,wrist_3_joint"
    stage.driver(
        *("--namespace", "left", "--active", controller, "--reliability", "reliable"),
        *("--controller-joints", f"{joints},{wrists}"),
    )
    options = ("--namespace", "left", "--command-interface", "joint_trajectory")
    assert stage.preflight(*options) == 0, stage.refused()
    assert stage.rows["command topic"]["found"].startswith(f"/left/{controller}/joint_trajectory")
    # Such a controller has no interface_name, and tells its joints all the same.
    assert stage.rows["controller"]["found"].endswith("takes the robot's joints")


def test_an_fr3_behind_its_own_driver_is_a_go(stage: Stage, tmp_path: Path) -> None:
    robot = load_robot("fr3")
    policy = slow_policy(tmp_path / "fr3.onnx", robot)
    stage.driver(
        *("--joints", ",".join(robot.joint_names), "--joint-states-topic", "franka/joint_states"),
        f"--pose={','.join(map(str, robot.home_rad))}",
        *("--controllers", "fr3_arm_controller", "--active", "fr3_arm_controller"),
    )
    assert stage.preflight("--robot", "fr3", "--policy", str(policy)) == 0, stage.refused()
    assert stage.rows["joint states"]["found"].startswith("/franka/joint_states")


def test_nobody_there_is_a_no_go(stage: Stage) -> None:
    assert stage.preflight("--wait", "0.5") == 1
    assert set(stage.refused()) == {"joint states", "command topic"}, stage.refused()
    assert "nobody publishes" in stage.refused()["joint states"]


def test_wrong_states_are_a_no_go_each_by_its_own_check(stage: Stage) -> None:
    joints = "shoulder_lift_joint,shoulder_pan_joint,elbow_joint"
    wrists = "wrist_1_joint,wrist_2_joint,wrist_3_joint"
    stage.driver(
        *("--rate", "20", "--clock-offset-s", "5.0", "--velocity-bias-rad-s", "0.3"),
        *("--drift-rad-s", "0.05", "--controller-joints", f"{joints},{wrists}"),
    )
    assert stage.preflight("--state-timeout", "0.005") == 1
    refused = stage.refused()
    assert set(refused) == {
        *("velocities", "state rate", "state gaps", "clock offset", "at rest", "controller")
    }, refused
    assert "reports 0.3" in refused["velocities"]
    assert "ahead" in refused["clock offset"]
    assert refused["controller"].endswith(f"takes {joints},{wrists}".replace(",", ", "))


def test_a_missing_joint_and_a_missing_controller_are_a_no_go(stage: Stage) -> None:
    stage.driver("--missing-joint", "elbow_joint", "--controllers", "none")
    assert stage.preflight("--wait", "4") == 1
    assert set(stage.refused()) == {"joint names", "command topic"}, stage.refused()
    assert "lacks elbow_joint" in stage.refused()["joint names"]


def test_who_looks_on_is_no_controller(stage: Stage, other_node: Callable[..., None]) -> None:
    other_node("view", Float64MultiArray, f"{FORWARD}/commands", listens=True)
    stage.driver("--controllers", "none")
    assert stage.preflight("--wait", "2") == 1
    assert set(stage.refused()) == {"command topic"}, stage.refused()
    assert stage.refused()["command topic"].endswith("but /view")


def test_beside_who_looks_on_there_may_be_a_controller(
    stage: Stage, other_node: Callable[..., None]
) -> None:
    other_node("rosbag2_recorder", Float64MultiArray, f"{FORWARD}/commands", listens=True)
    stage.driver()
    assert stage.preflight() == 0, stage.refused()
    assert stage.rows["command topic"]["found"].endswith(f"is taken by /{FORWARD}")


def test_a_forward_controller_that_does_not_tell_its_joints_is_a_no_go(
    stage: Stage, other_node: Callable[..., None]
) -> None:
    other_node("somebody", Float64MultiArray, f"{FORWARD}/commands", listens=True)
    stage.driver("--controllers", "none")
    assert stage.preflight("--wait", "2") == 1
    assert set(stage.refused()) == {"controller"}, stage.refused()
    assert "does not tell its joints" in stage.refused()["controller"]


def test_two_drivers_with_the_joints_in_other_orders_are_a_no_go(
    stage: Stage, robot: RobotConfig
) -> None:
    stage.driver()
    order = ",".join(reversed(robot.joint_names))
    stage.driver("--joints", order, "--controllers", "none")
    assert stage.preflight() == 1
    assert "2 publish the same joints" in stage.refused()["joint states"]


def test_an_impossible_pose_is_a_no_go(stage: Stage) -> None:
    stage.driver(
        *("--pose=0,0.5,3.2,0,0,0", "--no-velocity", "--no-stamp"),
        *("--command-durability", "transient_local"),
    )
    assert stage.preflight() == 1
    refused = stage.refused()
    assert set(refused) == {"velocities", "pose in limits", "collision", "command QoS"}, refused
    assert "elbow_joint at 3.2000 rad" in refused["pose in limits"]
    assert "floor" in refused["collision"]
    assert "without a stamp" in stage.rows["clock offset"]["found"]


def test_two_of_anything_are_a_no_go(stage: Stage, other_node: Callable[..., None]) -> None:
    stage.driver()
    stage.driver()
    other_node("policy_node", Float64MultiArray, "/forward_position_controller/commands")
    other_node("jogger", Float64MultiArray, "/forward_velocity_controller/commands")
    assert stage.preflight() == 1
    refused = stage.refused()
    assert {"joint states", "command topic", "other commands"} <= set(refused)
    assert "2 publish the same joints" in refused["joint states"]
    assert "2 subscribe" in refused["command topic"]
    # A policy node that is configured already is the one that is to command.
    assert "/jogger" in refused["other commands"]
    assert "policy_node" not in refused["other commands"]


@pytest.mark.parametrize(
    ("change", "verdict", "found"),
    [
        ({}, "go", "what was checked"),
        ({"lockstep": "true"}, "no-go", "lockstep"),
        # The robot's rate, whatever rate preflight was given.
        ({"control_rate_hz": "0.0"}, "no-go", "control_rate_hz 500.0, not 100.0"),
        (
            {"policy_path": "ur5e_push", "command_topic": "arm/commands"},
            "no-go",
            "policy_path ur5e_push, not .*; command_topic arm/commands, not forward_position",
        ),
    ],
    ids=["same", "lockstep", "rate", "others"],
)
def test_a_policy_node_has_to_do_what_was_checked(
    stage: Stage, change: dict[str, str], verdict: str, found: str
) -> None:
    stage.driver()
    stage.policy_node(**change)
    assert stage.preflight("--state-timeout", "1.0") == (0 if verdict == "go" else 1)
    row = stage.rows["policy node"]
    assert row["verdict"] == verdict
    assert re.search(found, row["found"])
    assert set(stage.refused()) <= {"policy node"}


def test_another_robots_policy_and_another_kind_of_controller_are_a_no_go(
    stage: Stage, robot: RobotConfig, tmp_path: Path
) -> None:
    other = slow_policy(tmp_path / "other.onnx", robot, "another_arm")
    stage.driver()
    topic = "scaled_joint_trajectory_controller/joint_trajectory"
    assert stage.preflight("--policy", str(other), "--command-topic", topic) == 1
    refused = stage.refused()
    assert set(refused) == {"policy file", "command topic"}, refused
    assert "another_arm" in refused["policy file"]
    assert "trajectory_msgs/msg/JointTrajectory" in refused["command topic"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--robot", "nowhere"), "not a shipped robot"),
        (("--rate", "-1"), "--rate"),
        (("--json", "/proc/nothing/preflight.json"), "--json: /proc/nothing cannot be made"),
        (("--command-interface", "telepathy"), "--command-interface"),
        (("--namespace", "left", "--ros-args", "-r", "__ns:=/right"), "say '/right'"),
    ],
)
def test_unusable_options_end_with_a_reason(
    stage: Stage, options: tuple[str, ...], text: str
) -> None:
    assert stage.preflight(*options) == 2
    assert text in stage.output
