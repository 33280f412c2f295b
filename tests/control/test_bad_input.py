# SPDX-License-Identifier: Apache-2.0
"""Wrong files, parameters and joint states: a clear reason or a latched fault, never a motion."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, FakeDriver
from crafted import towards_goal, write_policy
from sensor_msgs.msg import JointState

from smfp_core.robot import RobotConfig
from smfp_sim.tasks.push import PushEnv

pytestmark = pytest.mark.process


def robot_files(robot: RobotConfig, folder: Path) -> tuple[Path, Path]:
    """Copies of the robot's YAML and MJCF that a test may spoil."""
    from smfp_core.resources import share_path

    yaml, mjcf = folder / "arm.yaml", folder / "arm.xml"
    mjcf.write_bytes(robot.mjcf.read_bytes())
    text = share_path("config/robots/ur5e.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("mjcf:"))
    yaml.write_text(text.replace(line, "mjcf: arm.xml"))
    return yaml, mjcf


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_each_bad_configuration_is_refused_with_a_reason(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    yaml, mjcf = robot_files(robot, tmp_path)
    other = write_policy(
        tmp_path / "other.onnx", robot, towards_goal(robot), robot_name="another_arm"
    )
    pushing = PushEnv.describe(robot)
    pusher = write_policy(
        tmp_path / "pusher.onnx", robot, np.zeros((pushing.size, 6)), observation=pushing
    )
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(policy_path.read_bytes()[:-100])
    bench.start_policy_node()
    FakeDriver(bench)

    def refusal(**parameters: object) -> str:
        set_parameters(bench, {"robot": "ur5e", "policy_path": str(policy_path)} | parameters)
        bench.status = {}
        assert not bench.transition("configure")
        assert bench.lifecycle() == "unconfigured"
        bench.until(lambda: bench.status.get("refusal"), "a reason on ~/status")
        return bench.status["refusal"]

    assert "policy_path: not set" in refusal(policy_path="")
    assert "nowhere.onnx" in refusal(policy_path="/nowhere.onnx")
    assert "no shipped policy" in refusal(policy_path="nowhere")
    assert "sha256" in refusal(policy_path=str(truncated))
    assert "another_arm" in refusal(policy_path=str(other))
    assert "observation.object_position: this node has no source for it" in refusal(
        policy_path=str(pusher)
    )
    assert "not a shipped robot" in refusal(robot="nowhere")
    assert "nowhere.yaml" in refusal(robot="/nowhere.yaml")
    assert "control_period_s" in refusal(control_rate_hz=250.0)

    yaml.write_text("name: [")
    assert "not valid YAML" in refusal(robot=str(yaml))
    yaml, mjcf = robot_files(robot, tmp_path)
    replace(yaml, "control_rate_hz: 500", "control_rate: 500")
    assert "control_rate" in refusal(robot=str(yaml))
    yaml, mjcf = robot_files(robot, tmp_path)
    replace(yaml, "velocity_rad_s: 3.141592653589793", "velocity_rad_s: fast")
    assert "velocity_rad_s: expected a number" in refusal(robot=str(yaml))
    yaml, mjcf = robot_files(robot, tmp_path)
    replace(mjcf, 'name="elbow_joint"', 'name="knee_joint"')
    replace(mjcf, 'joint="elbow_joint"', 'joint="knee_joint"')
    assert "elbow_joint" in refusal(robot=str(yaml))
    mjcf.unlink()
    assert "arm.xml" in refusal(robot=str(yaml))
    assert not bench.commands

    # After all that, the node still works.
    set_parameters(bench, {"robot": "ur5e", "policy_path": str(policy_path)})
    set_parameters(bench, {"control_rate_hz": 0.0})
    assert bench.transition("configure") and bench.transition("activate")


def set_parameters(bench: Bench, values: dict[str, object]) -> None:
    from rcl_interfaces.msg import Parameter, ParameterValue
    from rcl_interfaces.srv import SetParameters

    parameters = [
        Parameter(
            name=name,
            value=ParameterValue(type=3, double_value=value)
            if isinstance(value, float)
            else ParameterValue(type=4, string_value=value),
        )
        for name, value in values.items()
    ]
    request = SetParameters.Request(parameters=parameters)
    results = bench.call(SetParameters, "policy_node/set_parameters", request).results
    assert all(result.successful for result in results), results


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"noise_scale": 7.0}, "noise_scale"),
        ({"noise_scale": 1}, "noise_scale: expected a double"),
        ({"noise_redraw": "sometimes"}, "noise_redraw: must be one of"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_bad_parameter_at_start_is_refused_by_name_at_configure(
    bench: Bench, policy_path: Path, parameters: dict[str, object], text: str
) -> None:
    bench.start_policy_node(policy_path, **parameters)
    assert not bench.transition("configure")
    bench.until(lambda: text in bench.status.get("refusal", ""), f"'{text}' on ~/status")


def test_autostart_with_a_bad_configuration_ends_with_status_1_and_a_reason(
    bench: Bench,
) -> None:
    node = bench.start_policy_node("/nowhere.onnx", autostart=True)
    assert bench.until_exit(node) == 1
    assert "nowhere.onnx: file: cannot be read" in node.output()


@pytest.mark.parametrize(
    ("module", "status"),
    [("policy_node", 1), ("sim_node", 1), ("markers_node", 1), ("view", 1), ("preflight", 2)],
)
def test_ros_arguments_that_cannot_be_used_end_with_a_reason(module: str, status: int) -> None:
    command = [sys.executable, "-m", f"smfp_control.{module}", "--ros-args"]
    done = subprocess.run(
        [*command, "--params-file", "/nowhere.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status and "Traceback" not in done.stderr
    assert "Couldn't parse params file: '--params-file /nowhere.yaml'" in done.stderr


def test_sim_node_refuses_a_bad_configuration_with_a_reason(bench: Bench) -> None:
    node = bench.start("sim_node", robot="nowhere")
    assert bench.until_exit(node) == 1
    assert "nowhere" in node.output() and "Traceback" not in node.output()
    node = bench.start("sim_node", start_pose="0.0,1.0")
    assert bench.until_exit(node) == 1
    assert "start_pose: expected" in node.output()


def lose_a_joint(message: JointState) -> JointState:
    message.name = message.name[:-1]
    message.position = message.position[:-1]
    message.velocity = message.velocity[:-1]
    return message


def shorten(message: JointState) -> JointState:
    message.position = message.position[:-1]
    return message


def spoil(message: JointState) -> JointState:
    message.position[3] = math.nan
    return message


def leave_limits(message: JointState) -> JointState:
    message.position[2] = 3.5
    return message


BAD_STATES: list[tuple[Callable[[JointState], JointState | None], str]] = [
    (lose_a_joint, "incomplete_state"),
    (shorten, "incomplete_state"),
    (spoil, "non_finite_state"),
    (leave_limits, "position_limit"),
    (lambda message: None, "stale_state"),
]


def hurry(message: JointState) -> JointState:
    message.velocity[1] = 0.3
    return message


def hurry_silently(message: JointState) -> JointState:
    """The arm moves at 0.3 rad/s, and the driver sends no velocities."""
    message.position[1] += 0.3 * (time.monotonic() % 10.0) - 1.5
    message.velocity = []
    return message


def seldom(change: Callable[[JointState], JointState]) -> Callable[[JointState], JointState | None]:
    """Five of these messages a second: one in the time that an arm is looked at."""
    calls = itertools.count()
    return lambda message: None if next(calls) % 50 else change(message)


def test_activation_is_refused_on_every_bad_state(bench: Bench, policy_path: Path) -> None:
    driver = FakeDriver(bench)
    bench.start_policy_node(policy_path, activation_timeout_s=1.0)
    assert bench.transition("configure")
    moving = [(hurry, "the arm moves, at 0.30 rad/s"), (hurry_silently, "the arm moves")]
    moving += [(seldom(hurry_silently), "the arm moves")]
    for change, kind in [*BAD_STATES, *moving]:
        driver.change = change
        bench.spin(0.1)
        assert not bench.transition("activate"), kind
        bench.until(lambda kind=kind: kind in bench.status["refusal"], f"{kind} on ~/status")
        assert bench.lifecycle() == "inactive"
    assert not bench.commands
    driver.change = lambda message: message
    assert bench.transition("activate")


def test_a_goal_that_was_sent_before_the_arm_was_active_is_never_pursued(
    bench: Bench, policy_path: Path, near_goal: np.ndarray
) -> None:
    driver = FakeDriver(bench)
    driver.change = lambda message: None
    bench.start_policy_node(policy_path, activation_timeout_s=5.0)
    assert bench.transition("configure")
    bench.send_goal(near_goal)
    bench.until(lambda: "not active" in bench.status["refusal"], "the refusal")
    # While activation waits for a joint state, a goal arrives, and then the state.
    steps = [lambda: bench.send_goal(near_goal), lambda: setattr(driver, "change", lambda m: m)]
    timer = bench.node.create_timer(0.5, lambda: steps.pop(0)() if steps else timer.cancel())
    assert bench.transition("activate")
    assert not steps
    bench.until(lambda: "sent before the activation" in bench.status["refusal"], "the refusal")
    bench.spin(1.0)
    assert bench.status["state"] == "hold"
    bench.assert_never_moved()
    bench.send_goal(near_goal)
    bench.until_state("tracking")


def test_every_bad_state_while_active_latches_and_reset_recovers(
    bench: Bench, policy_path: Path
) -> None:
    driver = FakeDriver(bench)
    bench.start_policy_node(policy_path, autostart=True)
    bench.until_state("hold")
    for change, kind in BAD_STATES:
        # A joint at 3.5 rad is first of all a jump.
        kind = "state_jump" if change is leave_limits else kind
        driver.change = change
        bench.until(lambda kind=kind: bench.status.get("fault") == kind, f"fault {kind}")
        bench.spin(0.1)
        if change is not leave_limits:
            assert not bench.reset().success, "reset while the cause persists"
        driver.change = lambda message: message
        bench.until(lambda: bench.reset().success, "the reset to be granted")
        bench.until_state("hold")
    assert len(bench.commands) > 100
    bench.assert_never_moved()


def test_a_policy_that_gives_nan_latches_and_never_moves(
    bench: Bench, nan_policy_path: Path
) -> None:
    FakeDriver(bench)
    bench.start_policy_node(nan_policy_path, autostart=True)
    bench.until_state("hold")
    bench.send_goal([0.42, 0.2, 0.55])
    bench.until(lambda: bench.status.get("fault") == "policy_output", "the fault")
    bench.until(lambda: len(bench.commands) > 20, "commands that hold")
    bench.assert_never_moved()
