# SPDX-License-Identifier: Apache-2.0
"""The two nodes as processes over real DDS: life cycle, goals, stops and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, FakeDriver, open_bench
from crafted import towards_goal, write_policy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue, SetParametersResult
from rcl_interfaces.srv import SetParameters
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger

from smfp_core.policy_file import PolicyFile
from smfp_core.robot import RobotConfig

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def running(robot: RobotConfig, local_ros: None, policy_path: Path) -> Iterator[Bench]:
    """Both nodes, started by themselves."""
    with open_bench(robot) as bench:
        bench.start("sim_node")
        bench.start_policy_node(policy_path, autostart=True)
        yield bench


@pytest.fixture
def holding(running: Bench) -> Bench:
    """Both nodes, the arm at rest without a goal or fault."""
    running.until(lambda: running.status.get("lifecycle") == "active", "activation")
    assert running.call(Trigger, "policy_node/hold", Trigger.Request()).success
    running.until_state("hold")
    running.until(lambda: running.states and running.commands, "traffic")
    return running


def test_a_goal_is_reached_over_topics(holding: Bench, near_goal: np.ndarray) -> None:
    holding.send_goal(near_goal)
    holding.until_state("tracking")
    holding.until(lambda: holding.goal_error_m(near_goal) < 0.01, "the goal to be reached")
    holding.until(lambda: float(holding.status["goal_error_m"] or 1) < 0.01, "the same on ~/status")
    assert holding.status["fault"] == "none"


@pytest.mark.parametrize(
    ("goal", "frame", "text"),
    [
        ([2.0, 0.0, 0.5], "base_link", "out of reach"),
        ([0.42, float("nan"), 0.5], "base_link", "not finite"),
        ([0.42, 0.2, 0.55], "world", "'base_link'"),
        ([0.42, 0.2, 0.55], "", "'base_link'"),
    ],
)
def test_a_bad_goal_is_refused_with_a_reason_and_the_arm_holds(
    holding: Bench, near_goal: np.ndarray, goal: list[float], frame: str, text: str
) -> None:
    holding.send_goal(near_goal)
    holding.until_state("tracking")
    holding.send_goal(goal, frame)
    holding.until(lambda: text in holding.status.get("refusal", ""), "a refusal")
    holding.until_state("hold")
    holding.spin(0.3)
    held = holding.commands[-1][1]
    holding.commands.clear()
    holding.spin(0.3)
    assert holding.commands and holding.commands[-1][1] == held
    holding.assert_never_moved()


def test_estop_holds_until_released_and_reset(holding: Bench, near_goal: np.ndarray) -> None:
    holding.send_goal(near_goal)
    holding.until_state("tracking")
    assert holding.estop(True).success
    holding.until_state("estop")
    holding.until(lambda: not holding.reset().success, "the reset to be refused")
    assert holding.estop(False).success
    holding.spin(0.2)
    assert holding.status["state"] == "estop"
    holding.until(lambda: holding.reset().success, "the reset to be granted")
    holding.until_state("hold")
    assert holding.status["fault"] == "none"


def test_diagnostics_tell_rates_costs_and_counts(holding: Bench) -> None:
    holding.diagnostics = {}
    holding.until(lambda: float(holding.diagnostics.get("loop_rate_hz", 0)) > 0, "diagnostics")
    values = holding.diagnostics
    assert 0 < float(values["loop_rate_hz"]) < 600
    assert int(values["ticks"]) > 0 and int(values["joint_states_accepted"]) > 0
    assert values["policy"] == "near_home.onnx" and len(values["policy_sha256"]) == 64
    for key in (
        "period_error_ms_p50_p99_max",
        "total_us_p50_p99",
        "state_age_ms_p50_p99",
        "deadline_misses",
        "safety_interventions",
        "interventions_acceleration",
    ):
        assert "nan" not in values[key]


def test_a_transition_that_the_state_lacks_does_not_end_the_node(holding: Bench) -> None:
    client = holding.node.create_client(ChangeState, "policy_node/change_state")
    holding.until(client.service_is_ready, "the service")
    client.call_async(
        ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    )
    holding.spin(0.5)
    before = len(holding.commands)
    holding.spin(0.3)
    assert len(holding.commands) > before and holding.lifecycle() == "active"


def test_parameters_cannot_change_once_configured(holding: Bench) -> None:
    value = ParameterValue(type=3, double_value=0.5)
    request = SetParameters.Request(parameters=[Parameter(name="noise_scale", value=value)])
    result = holding.call(SetParameters, "policy_node/set_parameters", request).results[0]
    assert not result.successful and "configure" in result.reason


def test_the_control_process_imports_neither_torch_nor_gymnasium(holding: Bench) -> None:
    pid = holding.children[1].process.pid
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped and "gymnasium" not in mapped


def test_the_whole_life_cycle_can_be_repeated(bench: Bench, policy_path: Path) -> None:
    FakeDriver(bench)
    node = bench.start_policy_node(policy_path)
    for _ in range(2):
        assert bench.lifecycle() == "unconfigured"
        assert bench.transition("configure")
        assert bench.lifecycle() == "inactive"
        bench.commands.clear()
        bench.spin(0.3)
        assert not bench.commands, "commands while inactive"
        assert bench.transition("activate")
        assert bench.lifecycle() == "active"
        bench.until(lambda: len(bench.commands) > 20, "commands")
        np.testing.assert_array_equal(bench.commands[0][1], bench.robot.home_rad)
        bench.assert_never_moved()
        assert bench.transition("deactivate")
        bench.spin(0.2)
        count = len(bench.commands)
        bench.spin(0.3)
        assert len(bench.commands) == count, "commands after deactivation"
        assert bench.transition("cleanup")
    node.signal(signal.SIGINT)
    assert bench.until_exit(node) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ramps_the_arm_down_and_ends_the_process_with_status_0(
    bench: Bench, policy_path: Path, near_goal: np.ndarray, hangups: None, number: int
) -> None:
    sim = bench.start("sim_node")
    node = bench.start_policy_node(policy_path, autostart=True)
    bench.until_state("hold")
    bench.send_goal(near_goal)
    bench.until_state("tracking")
    bench.spin(0.2)
    bench.commands.clear()
    node.signal(number)
    assert bench.until_exit(node, timeout_s=5.0) == 0
    bench.spin(0.2)
    last = np.array([values for _, values in bench.commands[-3:]])
    speed = np.abs(np.diff(last, axis=0)).max() * bench.robot.control_rate_hz
    assert speed < 0.1, "the last commands were still moving"
    sim.signal(number)
    assert bench.until_exit(sim, timeout_s=5.0) == 0


def test_a_node_that_is_interrupted_again_and_again_still_ends_in_order(
    bench: Bench, policy_path: Path
) -> None:
    FakeDriver(bench)
    node = bench.start_policy_node(policy_path, autostart=True)
    bench.until_state("hold")
    # As a launch system and a terminal do it together.
    while node.process.poll() is None:
        node.signal(signal.SIGINT)
        bench.spin(0.002)
    assert node.process.returncode == 0, node.output()


def test_nodes_and_topics_follow_a_namespace(
    robot: RobotConfig, local_ros: None, policy_path: Path, near_goal: np.ndarray
) -> None:
    with open_bench(robot, namespace="/left") as bench:
        bench.start("sim_node")
        bench.start_policy_node(policy_path, autostart=True)
        bench.until_state("hold")
        bench.send_goal(near_goal)
        bench.until(lambda: bench.states and bench.goal_error_m(near_goal) < 0.02, "the goal")
        topics = dict(bench.node.get_topic_names_and_types())
        assert {"/left/joint_states", "/left/forward_position_controller/commands"} <= set(topics)


def test_who_activates_by_hand_has_ended_autostart(bench: Bench, policy_path: Path) -> None:
    driver = FakeDriver(bench)
    driver.change = lambda message: None
    bench.start_policy_node(policy_path, autostart=True, activation_timeout_s=30.0)
    bench.until(lambda: "waiting to activate" in bench.status.get("refusal", ""), "autostart")
    # The states begin while the request waits for them.
    timer = bench.node.create_timer(1.0, lambda: setattr(driver, "change", lambda m: m))
    assert bench.transition("activate")
    bench.node.destroy_timer(timer)
    bench.spin(1.0)
    assert (bench.status["state"], bench.status["fault"]) == ("hold", "none")
    assert bench.transition("deactivate")
    bench.spin(1.0)
    assert bench.lifecycle() == "inactive"


@pytest.mark.parametrize("interface", ["forward_velocity", "joint_trajectory"])
def test_other_command_interfaces_reach_a_goal(
    bench: Bench, policy_path: Path, near_goal: np.ndarray, interface: str
) -> None:
    bench.start("sim_node", command_interface=interface)
    bench.start_policy_node(policy_path, autostart=True, command_interface=interface)
    bench.until_state("hold")
    bench.send_goal(near_goal)
    bench.until(lambda: bench.states and bench.goal_error_m(near_goal) < 0.02, "the goal")
    assert bench.status["fault"] == "none"


@pytest.mark.parametrize("module", ["policy_node", "sim_node"])
def test_help_lists_every_parameter(module: str) -> None:
    command = [sys.executable, "-m", f"smfp_control.{module}", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ros2 run smfp_control" in text and f"{module}: " in text
    assert "command_interface (string" in text


def test_a_fault_outlives_deactivation_and_bars_activation_until_reset(
    bench: Bench, policy_path: Path
) -> None:
    FakeDriver(bench)
    bench.start_policy_node(policy_path)
    assert bench.transition("configure") and bench.transition("activate")
    assert bench.estop(True).success
    bench.until_state("estop")
    assert bench.transition("deactivate")
    assert not bench.transition("activate")
    assert not bench.reset().success
    assert bench.estop(False).success
    assert not bench.transition("activate")
    bench.until(lambda: "latched" in bench.status["refusal"], "the reason on ~/status")
    assert bench.reset().success
    assert bench.transition("activate")
    bench.until_state("hold")
    # Pressed while inactive, it bars activation as well.
    assert bench.transition("deactivate")
    assert bench.estop(True).success and bench.estop(False).success
    assert not bench.transition("activate")
    assert bench.reset().success and bench.transition("activate")


def test_sim_node_pauses_steps_resets_and_gives_the_clock(bench: Bench) -> None:
    bench.start("sim_node", publish_clock=True, start_pose="random", seed=3, real_time_factor=0.5)
    clocks: list[float] = []
    bench.node.create_subscription(
        Clock, "/clock", lambda m: clocks.append(m.clock.sec + m.clock.nanosec * 1e-9), 10
    )
    bench.until(lambda: bench.states and clocks, "joint states and the clock")
    assert bench.call(SetBool, "sim_node/pause", SetBool.Request(data=True)).success
    bench.spin(0.3)
    count, stamp = len(bench.states), bench.states[-1][1].header.stamp
    bench.spin(0.3)
    assert len(bench.states) == count, "joint states while paused"
    for _ in range(2):
        assert bench.call(Trigger, "sim_node/step", Trigger.Request()).success
    bench.until(lambda: len(bench.states) == count + 2, "the states of two steps")
    after = bench.states[-1][1].header.stamp
    elapsed = after.sec - stamp.sec + (after.nanosec - stamp.nanosec) * 1e-9
    assert abs(elapsed - 2 * 0.001) <= 0.002, "two periods at half speed"

    before = bench.joint_position()
    assert bench.call(Trigger, "sim_node/reset", Trigger.Request()).success
    assert bench.call(SetBool, "sim_node/pause", SetBool.Request(data=False)).success
    bench.until(lambda: len(bench.states) > count + 10, "joint states again")
    assert np.abs(bench.joint_position() - before).max() > 0.01, "a new random pose"
    assert not bench.call(Trigger, "sim_node/step", Trigger.Request()).success


def test_a_policy_is_swapped_in_motion_and_a_bad_file_changes_nothing(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path, near_goal: np.ndarray
) -> None:
    file = tmp_path / "policy.onnx"
    file.write_bytes(policy_path.read_bytes())
    bench.start("sim_node")
    bench.start_policy_node(file, autostart=True)
    bench.until_state("hold")

    def reload() -> Trigger.Response:
        return bench.call(Trigger, "policy_node/reload_policy", Trigger.Request())

    file.write_bytes(b"no policy at all")
    answer = reload()
    assert not answer.success and "sha256" in answer.message
    write_policy(file, robot, towards_goal(robot), robot_name="another_arm")
    answer = reload()
    assert not answer.success and "another_arm" in answer.message
    bench.until(lambda: "another_arm" in bench.status["refusal"], "the reason on ~/status")

    # The old one still drives, and hands over in motion to one that is slower.
    bench.send_goal(near_goal)
    bench.until_state("tracking")
    write_policy(file, robot, towards_goal(robot, gain_per_s=2.0))
    assert reload().success
    bench.until(lambda: bench.goal_error_m(near_goal) < 0.02, "the goal")
    assert bench.status["fault"] == "none"
    bench.diagnostics = {}
    bench.until(lambda: bench.diagnostics, "diagnostics")
    assert bench.diagnostics["safety_interventions"] == "0"
    assert bench.diagnostics["policy_sha256"] == PolicyFile.load(file).sha256

    # The parameter names another file; a file that is refused leaves the parameter as it was.
    assert set_policy_path(bench, "/nowhere.onnx").reason.count("nowhere.onnx")
    assert set_policy_path(bench, str(policy_path)).successful
    bench.diagnostics = {}
    bench.until(lambda: bench.diagnostics, "diagnostics")
    assert bench.diagnostics["policy"] == policy_path.name


def set_policy_path(bench: Bench, path: str) -> SetParametersResult:
    value = ParameterValue(type=4, string_value=path)
    request = SetParameters.Request(parameters=[Parameter(name="policy_path", value=value)])
    return bench.call(SetParameters, "policy_node/set_parameters", request).results[0]


def test_real_time_that_is_forbidden_bars_activation_where_it_is_required(
    bench: Bench, policy_path: Path
) -> None:
    FakeDriver(bench)
    node = bench.start_policy_node(policy_path, cpu_affinity="4095,", realtime_required=True)
    assert bench.transition("configure")
    assert not bench.transition("activate")
    bench.until(lambda: "cpu_affinity" in bench.status["refusal"], "the reason on ~/status")
    assert bench.transition("cleanup")
    node.signal(signal.SIGTERM)
    assert bench.until_exit(node) == 0
    bench.start_policy_node(policy_path, cpu_affinity="4095,", autostart=True)
    bench.until_state("hold")
