# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/faults.md: one node and one driver as processes, one fault after another."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench, FakeDriver, open_bench
from driver_process import set_faults, start_driver
from fault_rig import TIMEOUT_S, Rig, assert_within_limits, make_rig
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger

from smfp_control.faults import FaultKind
from smfp_core.robot import RobotConfig

pytestmark = pytest.mark.process

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"


@pytest.fixture(scope="module")
def shared(
    robot: RobotConfig,
    local_ros: None,
    policy_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    with open_bench(robot) as bench:
        yield make_rig(bench, tmp_path_factory.mktemp("shared"), policy_path)


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """Node and driver without a fault, the arm on its way."""
    bench = shared.bench
    set_faults(bench, **NO_FAULTS)
    if bench.status["fault"] != "none":
        bench.reset_for_good()
    shared.move()
    return shared


NO_FAULTS: dict[str, Any] = {
    "paused": False,
    "clock_offset_s": 0.0,
    "missing_joint": "",
    "nan_joint": "",
    "jump_rad": 0.0,
    "extra_joint": "",
    "shuffle": False,
    "unloaded": False,
}


@pytest.mark.parametrize(
    ("change", "kind", "reason", "within_s"),
    [
        ({"paused": True}, "stale_state", "ms old .*does the driver run", TIMEOUT_S),
        ({"clock_offset_s": -5.0}, "stale_state", "ms (old|later)", TIMEOUT_S),
        ({"missing_joint": "elbow_joint"}, "incomplete_state", "lacks elbow_joint", 0.0),
        ({"nan_joint": "wrist_1_joint"}, "non_finite_state", "position of wrist_1_joint", 0.0),
        ({"jump_rad": 1.0}, "state_jump", "shoulder_pan_joint", 0.0),
    ],
    ids=["stop", "back_in_time", "lose_a_joint", "nan", "jump"],
)
def test_joint_states_that_are_wrong_stop_the_arm(
    rig: Rig, change: dict[str, Any], kind: str, reason: str, within_s: float
) -> None:
    set_faults(rig.bench, **change)
    rig.expect(kind, reason, within_s)
    refused = rig.bench.reset()
    assert not refused.success and "persists" in refused.message
    set_faults(rig.bench, **{name: NO_FAULTS[name] for name in change})
    rig.recover()


@pytest.mark.parametrize("change", [{"extra_joint": "gripper"}, {"shuffle": True}])
def test_more_joints_or_another_order_change_nothing(rig: Rig, change: dict[str, Any]) -> None:
    bench = rig.bench
    set_faults(bench, **change)
    bench.spin(0.3)
    rig.move()
    assert bench.status["fault"] == "none"


def test_two_publishers_at_once_stop_the_arm(rig: Rig, tmp_path: Path) -> None:
    bench = rig.bench
    assert bench.call(Trigger, "policy_node/hold", Trigger.Request()).success
    bench.until_state("hold")
    bench.spin(0.5)
    # It agrees about the pose, so that nothing but its presence is wrong.
    pose = ",".join(map(str, bench.joint_position()))
    second = start_driver(bench, tmp_path, "--controllers", "none", f"--pose={pose}")
    try:
        topic = bench.robot.topics.joint_states
        bench.until(lambda: bench.node.count_publishers(topic) == 2, "the second driver")
        rig.expect("two_publishers", "end one of the drivers", 1.0)
        refused = bench.reset()
        assert not refused.success and "two publishers" in refused.message
    finally:
        second.motion()
    rig.recover()


@pytest.mark.parametrize(
    ("goal", "frame", "text"),
    [
        ([2.0, 0.0, 0.5], "base_link", "out of reach"),
        ([0.42, float("nan"), 0.5], "base_link", "not finite"),
        ([0.42, 0.2, 0.55], "world", "'base_link'"),
    ],
    ids=["out_of_reach", "nan", "wrong_frame"],
)
def test_a_goal_that_is_wrong_brings_the_arm_to_rest_without_a_fault(
    rig: Rig, goal: list[float], frame: str, text: str
) -> None:
    rig.bench.send_goal(goal, frame)
    rig.bench.until(lambda: text in rig.bench.status["refusal"], "the refusal")
    rig.bench.until_state("hold")
    assert rig.bench.status["fault"] == "none" and rig.bench.status["goal_m"] == ""
    rig.assert_rests()


@pytest.mark.parametrize("presses", [1, 12], ids=["once", "flapping"])
def test_the_estop_stops_the_arm_until_released_and_reset(rig: Rig, presses: int) -> None:
    bench = rig.bench
    for _ in range(presses - 1):
        assert bench.estop(True).success and bench.estop(False).success
    assert bench.estop(True).success
    rig.expect("estop", "e-stop was pressed", 0.0)
    assert bench.status["state"] == "estop"
    refused = bench.reset()
    assert not refused.success and "release" in refused.message
    assert bench.estop(False).success
    bench.spin(0.2)
    assert bench.status["state"] == "estop", "a release alone must not start the arm"
    rig.recover()


def test_an_executor_that_a_service_blocks_does_not_delay_the_arm(rig: Rig, tmp_path: Path) -> None:
    bench = rig.bench
    slow = tmp_path / "slow.onnx"
    os.mkfifo(slow)  # whoever reads it waits for somebody to write
    value = ParameterValue(type=4, string_value=str(slow))
    client = bench.node.create_client(SetParameters, "policy_node/set_parameters")
    bench.until(client.service_is_ready, "the service")
    future = client.call_async(
        SetParameters.Request(parameters=[Parameter(name="policy_path", value=value)])
    )
    bench.spin(0.3)
    before = bench.joint_position()
    bench.commands.clear()
    bench.statuses.clear()
    bench.spin(0.7)
    assert not future.done() and not bench.statuses, "the executor was not blocked"
    assert len(bench.commands) > 20
    assert np.abs(bench.joint_position() - before).max() > 1e-3, "the arm stood still meanwhile"
    slow.write_bytes(b"no policy")
    bench.until(future.done, "the answer")
    assert not future.result().results[0].successful
    bench.until(lambda: bench.statuses, "status again")
    assert bench.status["fault"] == "none"


def test_a_full_disk_does_not_disturb_the_node(rig: Rig) -> None:
    bench = rig.bench
    process = bench.children[1].process
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    # No file of the process can grow by a byte: its log and its output are as on a full disk.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    before = len(bench.children[1].output())
    for _ in range(3):
        bench.send_goal([2.0, 0.0, 0.5])
        bench.until(lambda: "out of reach" in bench.status["refusal"], "the refusal")
        rig.move()
    assert bench.estop(True).success
    rig.expect("estop", "e-stop was pressed", 0.0)
    assert bench.estop(False).success
    rig.recover()
    assert len(bench.children[1].output()) == before, "something was logged all the same"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert process.poll() is None


def test_counts_are_reset_and_status_comes_ten_times_a_second(rig: Rig) -> None:
    bench = rig.bench
    bench.until(lambda: int(bench.diagnostics.get("ticks", 0)) > 300, "ticks")
    before = int(bench.diagnostics["ticks"])
    assert bench.call(Trigger, "policy_node/reset_statistics", Trigger.Request()).success
    bench.diagnostics = {}
    bench.until(lambda: 0 < int(bench.diagnostics.get("ticks", 0)) < before, "a new count")
    assert bench.diagnostics["faults"] == "0"
    bench.statuses.clear()
    bench.spin(3.0)
    assert 10 <= len(bench.statuses) <= 40


def test_a_controller_that_disappears_is_missed_though_others_listen(rig: Rig) -> None:
    # The bench takes the commands as well, under a name that says nothing.
    bench = rig.bench
    set_faults(bench, unloaded=True)
    rig.expect("no_controller", "is the controller active", 0.0)
    assert not bench.reset().success
    set_faults(bench, unloaded=False)
    rig.recover()


def test_the_arm_kept_to_its_limits_in_all_these_faults(shared: Rig, robot: RobotConfig) -> None:
    motion = shared.driver.motion()
    assert motion.taken > 50
    assert_within_limits(robot, motion)
    shared.expect_driver_gone()


def test_states_300_ms_late_stop_the_arm(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, policy_path, state_delay_limit_s=0.2)
    bench.send_goal(rig.goals[0])
    # Below the timeout, so that no gap betrays the delay.
    set_faults(bench, delay_s=0.3)
    rig.expect("stale_state", "ms later than they did", 0.0)
    bench.spin(0.5)
    assert not bench.reset().success
    set_faults(bench, delay_s=0.0)
    bench.reset_for_good()
    assert_within_limits(robot, rig.driver.motion())


def test_a_controller_that_disappears_stops_the_arm(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    # Not the topic that the bench listens to: it would count as a controller.
    topic = "/spare/commands"
    rig = make_rig(bench, tmp_path, policy_path, "--position-commands", topic, command_topic=topic)
    # The live page, which stays: it looks on.
    onlooker = Node("view", context=bench.node.context)
    onlooker.create_subscription(Float64MultiArray, topic, print, 1)
    rig.move()
    set_faults(bench, unloaded=True)
    bench.until(lambda: bench.status["fault"] != "none", "the fault")
    assert bench.status["fault"] == "no_controller", bench.status
    assert "is the controller active" in bench.status["fault_reason"]
    assert not bench.reset().success
    bench.send_goal(rig.goals[0])
    bench.spin(0.5)
    assert bench.status["state"] == "fault"
    left = bench.joint_position()
    set_faults(bench, unloaded=False)
    bench.reset_for_good()
    bench.spin(1.0)
    # Where the controller left the arm, not where the reference was then.
    assert np.abs(bench.joint_position() - left).max() < 0.005
    rig.move()
    onlooker.destroy_node()
    assert_within_limits(robot, rig.driver.motion())


def test_a_policy_that_gives_nan_never_moves_the_arm(
    bench: Bench, nan_policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, nan_policy_path)
    bench.send_goal(rig.goals[0])
    rig.expect("policy_output", "not finite: export anew", 0.0)
    bench.reset_for_good()
    motion = rig.driver.motion()
    assert np.abs(motion.position - motion.position[0]).max() < 1e-9


def test_a_simulated_clock_that_stops_stops_the_arm(bench: Bench, policy_path: Path) -> None:
    bench.start("sim_node", publish_clock=True)
    bench.start_policy_node(
        policy_path,
        autostart=True,
        use_sim_time=True,
        state_timeout_s=TIMEOUT_S,
        state_delay_limit_s=0.0,
    )
    bench.until_state("hold")
    bench.send_goal([0.42, 0.20, 0.55])
    bench.until_state("tracking")
    assert bench.call(SetBool, "sim_node/pause", SetBool.Request(data=True)).success
    # Status by timer stops with the clock; the change of state is sent all the same.
    bench.until(lambda: bench.status["fault"] == "stale_state", "the fault")
    assert not bench.reset().success
    assert bench.call(SetBool, "sim_node/pause", SetBool.Request(data=False)).success
    bench.reset_for_good()


def test_a_publisher_made_anew_within_the_timeout_is_no_fault(
    bench: Bench, policy_path: Path
) -> None:
    driver = FakeDriver(bench)
    bench.start_policy_node(policy_path, autostart=True)
    bench.until_state("hold")
    before = driver.change
    driver.change = lambda message: None
    FakeDriver(bench)
    bench.spin(2.0)
    assert bench.status["fault"] == "none", bench.status
    driver.change = before
    bench.until(lambda: bench.status["fault"] == "two_publishers", "the fault")


def test_every_row_of_the_table_names_tests_that_exist() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    tests = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    named: Callable[[str], set[str]] = lambda row: set(re.findall(r"`(test_\w+)`", row))  # noqa: E731
    for row in rows:
        assert named(row), f"names no test: {row}"
        assert named(row) <= tests, f"names tests that do not exist: {named(row) - tests}"
    assert all(f"`{kind.value}`" in DOCUMENT.read_text() for kind in FaultKind)
