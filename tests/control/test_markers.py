# SPDX-License-Identifier: Apache-2.0
"""What RViz and Foxglove get: the description, the goal, the predicted path."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from bench import Bench, FakeDriver
from crafted import towards_goal, write_policy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from lockstep import LockStep
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from smfp_control.markers_node import goal_marker, obstacle_marker, path_marker
from smfp_control.path_prediction import PathPrediction
from smfp_control.status import STATUS_QOS
from smfp_core.policy_file import PolicyFile
from smfp_core.resources import share_path
from smfp_core.robot import Obstacle, RobotConfig
from smfp_sim.arm import ArmModel, Kinematics

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_predicted_path_leads_from_the_tool_to_the_goal(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    path = PathPrediction(robot, policy).path(robot.home_rad, np.zeros(6), near_goal, 10.0)
    tool = Kinematics(ArmModel(robot)).tool_position(robot.home_rad)
    assert path[0] == pytest.approx(tool)
    assert np.linalg.norm(path[-1] - near_goal) < 2e-3
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps.max() < 0.04, "the tool jumps"


def test_prediction_is_the_way_that_the_arm_goes(
    robot: RobotConfig, lockstep: LockStep, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    path = PathPrediction(robot, policy).path(robot.home_rad, np.zeros(6), near_goal, 2.0)
    lockstep.loop.set_goal(near_goal)
    for _ in range(20):
        lockstep.run(0.05)
        assert np.linalg.norm(path - lockstep.tool(), axis=1).min() < 0.01


def test_path_ends_at_the_horizon(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    path = PathPrediction(robot, policy).path(robot.home_rad, np.zeros(6), near_goal, 0.2)
    assert path.shape == (11, 3)


def test_nothing_to_show_removes_the_marker() -> None:
    assert goal_marker(None).action == path_marker(None).action == Marker.DELETE
    assert path_marker(np.zeros((1, 3))).action == Marker.DELETE


def test_obstacles_have_their_size_and_place() -> None:
    box = obstacle_marker(3, Obstacle("b", (1.0, 2.0, 3.0), size_m=(0.1, 0.2, 0.3), yaw_rad=np.pi))
    assert (box.id, box.type) == (3, Marker.CUBE)
    assert (box.scale.x, box.scale.y, box.scale.z) == (0.1, 0.2, 0.3)
    assert box.pose.orientation.z == pytest.approx(1.0)
    ball = obstacle_marker(0, Obstacle("s", (0.0, 0.0, 1.0), radius_m=0.2))
    assert (ball.type, ball.scale.y, ball.pose.position.z) == (Marker.SPHERE, 0.4, 1.0)


@pytest.mark.process
def test_description_and_markers_come_over_the_topics(
    bench: Bench, policy_path: Path, near_goal: np.ndarray
) -> None:
    bench.start("sim_node")
    bench.start_policy_node(policy_path, autostart=True)
    markers = bench.start("markers_node", policy_path=policy_path)
    bench.until_state("hold")
    arrays: list[MarkerArray] = []
    texts: list[String] = []
    bench.node.create_subscription(MarkerArray, "markers_node/markers", arrays.append, 10)
    bench.until(lambda: arrays, "markers")
    # Later than the description was published: it is kept for whoever comes.
    bench.node.create_subscription(String, "robot_description", texts.append, LATCHED)
    bench.until(lambda: texts, "the description")
    names = [joint.attrib["name"] for joint in ET.fromstring(texts[0].data).findall("joint")]
    assert set(bench.robot.joint_names) <= set(names)
    assert {m.ns: m.action for m in arrays[-1].markers} == {
        "goal": Marker.DELETE,
        "path": Marker.DELETE,
    }

    # There is no path at the goal, and this machine may be so busy that the arm arrives unseen:
    # so it gets goals until it was seen on its way.
    goals = itertools.cycle([near_goal, near_goal - [0.0, 0.0, 0.05]])
    sent: list[np.ndarray] = []

    def shown() -> dict[str, Marker]:
        return {m.ns: m for m in arrays[-1].markers if m.action == Marker.ADD}

    def seen_on_its_way() -> bool:
        if not sent or bench.goal_error_m(sent[-1]) < 0.005:
            sent.append(next(goals))
            bench.send_goal(sent[-1])
        return len(shown()) == 2

    bench.until(seen_on_its_way, "goal and path")
    marker, path = shown()["goal"].pose.position, shown()["path"].points
    goal = [marker.x, marker.y, marker.z]
    assert any(goal == pytest.approx(x, abs=1e-5) for x in sent)
    assert [path[-1].x, path[-1].y, path[-1].z] == pytest.approx(goal, abs=0.03)
    assert {m.header.frame_id for m in arrays[-1].markers} == {bench.robot.base_frame}

    assert os.getpriority(os.PRIO_PROCESS, markers.process.pid) > 0
    markers.signal(signal.SIGINT)
    before = time.monotonic()
    assert bench.until_exit(markers) == 0
    assert time.monotonic() - before < 4.0


@pytest.mark.process
def test_goal_and_path_of_a_node_that_died_go_away(
    bench: Bench, policy_path: Path, near_goal: np.ndarray
) -> None:
    FakeDriver(bench)
    bench.start("markers_node", policy_path=policy_path)
    actions: list[dict[str, int]] = []
    bench.node.create_subscription(
        MarkerArray,
        "markers_node/markers",
        lambda array: actions.append({m.ns: m.action for m in array.markers}),
        10,
    )
    # The last word of a node: nothing follows it.
    publisher = bench.node.create_publisher(DiagnosticStatus, "policy_node/status", STATUS_QOS)
    values = {"lifecycle": "active", "goal_m": " ".join(map(str, near_goal))}
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    publisher.publish(DiagnosticStatus(values=pairs))
    both = {"goal": Marker.ADD, "path": Marker.ADD}
    bench.until(lambda: actions[-1:] == [both], "goal and path")
    neither = {"goal": Marker.DELETE, "path": Marker.DELETE}
    bench.until(lambda: actions[-1:] == [neither], "their end", 10.0)
    # Once a second is what a node may be told to repeat its status at.
    for _ in range(3):
        publisher.publish(DiagnosticStatus(values=pairs))
        bench.until(lambda: actions[-1:] == [both], "goal and path")
        actions.clear()
        bench.spin(1.0)
        assert actions and all(seen["goal"] == Marker.ADD for seen in actions)


@pytest.mark.process
def test_a_policy_for_another_rate_is_shown_where_the_rate_is_given(
    bench: Bench, tmp_path: Path
) -> None:
    slower = dataclasses.replace(bench.robot, control_rate_hz=bench.robot.control_rate_hz / 2)
    policy = write_policy(tmp_path / "slower.onnx", slower, towards_goal(slower))
    # What a launch file hands on: 0 says nothing, and the policy does not fit the description.
    refused = bench.start("markers_node", policy_path=policy, control_rate_hz=0.0)
    assert bench.until_exit(refused) == 1 and "Traceback" not in refused.output()
    bench.start("markers_node", policy_path=policy, control_rate_hz=slower.control_rate_hz)
    arrays: list[MarkerArray] = []
    bench.node.create_subscription(MarkerArray, "markers_node/markers", arrays.append, 10)
    bench.until(lambda: arrays, "markers")


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("robot:=nobody", "nobody"),
        ("policy_path:=/nowhere.onnx", "nowhere.onnx"),
        ("control_rate_hz:=250", "control_rate_hz"),
        ("control_rate_hz:=-1.0", "control_rate_hz"),
    ],
)
def test_a_wrong_parameter_ends_it_with_a_reason(parameter: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smfp_control.markers_node", "--ros-args", "-p", parameter],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert text in done.stderr and "Traceback" not in done.stderr


def test_layouts_show_topics_that_there_are(robot: RobotConfig) -> None:
    markers, states = "/markers_node/markers", f"/{robot.topics.joint_states}"
    rviz = yaml.safe_load(share_path("config/rviz/smfp.rviz").read_text())["Visualization Manager"]
    assert rviz["Global Options"]["Fixed Frame"] == robot.base_frame
    arm, array = rviz["Displays"][1:]
    assert arm["Description Topic"]["Value"] == "/robot_description"
    assert arm["Description Topic"]["Durability Policy"] == "Transient Local"
    assert array["Topic"]["Value"] == markers

    layout = json.loads(share_path("config/foxglove/smfp.json").read_text())
    panels = layout["configById"]

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            yield from leaves(node["first"])
            yield from leaves(node["second"])

    assert sorted(leaves(layout["layout"])) == sorted(panels)
    scene = panels["3D!smfp"]
    assert scene["followTf"] == robot.base_frame and markers in scene["topics"]
    assert scene["layers"]["arm"]["topic"] == "/robot_description"
    assert scene["layers"]["arm"]["jointStatesTopic"] == states
    assert "publish" not in scene, "a slip of the mouse would send a goal"
    paths = [path["value"] for name in panels for path in panels[name].get("paths", [])]
    assert all(path.startswith((f"{states}.", "/policy_node/status.")) for path in paths)
