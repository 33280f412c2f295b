# SPDX-License-Identifier: Apache-2.0
"""Both launch files under the real launch system: nodes, life cycle, arguments, exit codes.

Everything that the launch files start is also covered, process by process, by the tests beside
this one, which run where only rclpy is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("launch_ros", reason="launch files need ROS 2's launch_ros: no wheel has it")
packages = pytest.importorskip("ament_index_python.packages")
try:
    packages.get_package_prefix("smfp_control")
except (packages.PackageNotFoundError, OSError):  # OSError: nothing is sourced
    pytest.skip("launch files need the package built and sourced", allow_module_level=True)

from bench import PATIENCE_S, Bench, FakeDriver, open_bench  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402

from smfp_core.robot import RobotConfig  # noqa: E402

pytestmark = pytest.mark.process


@contextmanager
def launched(bench: Bench, file: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``ros2 launch`` of one of the package's files, on the bench's domain."""
    command = "from ros2cli.cli import main; import sys; sys.exit(main())"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-c", command, "launch", "smfp_control", file, *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(bench.domain_id)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            # Killed, it would leave the nodes behind.
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            text = os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")
            print(text)


def interrupt(bench: Bench, process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C, as a terminal sends it; the exit status."""
    process.send_signal(signal.SIGINT)
    bench.until(lambda: process.poll() is not None, "the launch to end")
    return process.returncode


def test_sim_launch_reaches_a_goal_and_shuts_down_cleanly(
    bench: Bench, policy_path: Path, near_goal: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    with launched(bench, "sim.launch.py", f"policy:={policy_path}") as process:
        bench.until_state("hold")
        assert bench.lifecycle() == "active"
        bench.send_goal(near_goal)
        bench.until(lambda: bench.states and bench.goal_error_m(near_goal) < 0.02, "the goal")
        interrupt(bench, process)
    text = capsys.readouterr().out
    assert text.count("process has finished cleanly") == 2
    assert "Caught exception" not in text


def test_sim_launch_puts_both_nodes_into_a_namespace(
    robot: RobotConfig, local_ros: None, policy_path: Path
) -> None:
    with (
        open_bench(robot, namespace="/left") as bench,
        launched(bench, "sim.launch.py", f"policy:={policy_path}", "namespace:=left"),
    ):
        bench.until_state("hold")
        bench.until(lambda: bench.states and bench.commands, "traffic in the namespace")


def test_sim_launch_without_autostart_waits_to_be_asked(bench: Bench, policy_path: Path) -> None:
    arguments = [f"policy:={policy_path}", "autostart:=false"]
    with launched(bench, "sim.launch.py", *arguments):
        bench.until(lambda: bench.states, "joint states")
        assert bench.lifecycle() == "unconfigured"
        assert bench.transition("configure") and bench.transition("activate")


def test_markers_come_where_they_are_asked_for(bench: Bench, policy_path: Path) -> None:
    arguments = (f"policy:={policy_path}", "markers:=true", "rate:=500.0")
    with launched(bench, "sim.launch.py", *arguments):
        bench.until(lambda: bench.node.count_publishers("markers_node/markers"), "the markers")
        request = GetParameters.Request(names=["control_rate_hz"])
        (rate,) = bench.call(GetParameters, "markers_node/get_parameters", request).values
        assert rate.double_value == 500.0
        bench.until(lambda: bench.node.count_publishers("robot_description"), "the description")


def test_hardware_launch_starts_unconfigured_and_takes_its_arguments(
    bench: Bench, policy_path: Path
) -> None:
    FakeDriver(bench, topic="/arm/states")
    arguments = [f"policy:={policy_path}", "joint_states_topic:=/arm/states"]
    with launched(bench, "hardware.launch.py", *arguments):
        assert bench.lifecycle() == "unconfigured"
        assert not bench.commands
        assert bench.transition("configure") and bench.transition("activate")
        bench.until(lambda: bench.commands, "commands")


@pytest.mark.parametrize("file", ["sim.launch.py", "hardware.launch.py"])
def test_a_file_that_contradicts_the_arguments_is_refused_and_one_that_repeats_them_is_not(
    bench: Bench,
    policy_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("/**:\n  ros__parameters:\n    robot: fr3\n")
    with launched(bench, file, f"config:={config}") as process:
        bench.until(lambda: process.poll() is not None, "the launch to end")
    said = capsys.readouterr().out
    assert process.returncode == 1 and "robot is 'fr3'" in said and "give robot:=fr3" in said
    config.write_text("/**:\n  ros__parameters:\n    robot: ur5e\n")
    with launched(bench, file, f"config:={config}", f"policy:={policy_path}"):
        assert bench.lifecycle() in ("unconfigured", "inactive", "active")


@pytest.mark.parametrize(
    ("file", "argument", "text"),
    [
        ("sim.launch.py", "autostart:=perhaps", "is not valid"),
        ("sim.launch.py", "robot:=nowhere", "not a shipped robot"),
        ("sim.launch.py", "policy:=/nowhere.onnx", "nowhere.onnx"),
        ("hardware.launch.py", "command_interface:=telepathy", "is not valid"),
    ],
)
def test_a_wrong_argument_ends_the_launch_with_a_readable_error(
    bench: Bench, capsys: pytest.CaptureFixture[str], file: str, argument: str, text: str
) -> None:
    with launched(bench, file, argument) as process:
        bench.until(lambda: process.poll() is not None, "the launch to end")
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "parameter", "text"),
    [
        ("sim.launch.py", "markers_node: {ros__parameters: {robot: fr3}}", "give robot:=fr3"),
        ("hardware.launch.py", "policy_node: {ros__parameters: {lockstep: true}}", "is always"),
    ],
)
def test_a_file_of_parameters_that_says_otherwise_ends_the_launch(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    parameter: str,
    text: str,
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"/**/{parameter}\n")
    with launched(bench, file, f"config:={path}", "markers:=true") as process:
        bench.until(lambda: process.poll() is not None, "the launch to end")
    said = capsys.readouterr().out
    assert text in said and "process started" not in said


def test_the_file_of_parameters_reaches_the_markers(
    bench: Bench, policy_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("/**/markers_node:\n  ros__parameters: {publish_description: false}\n")
    arguments = [f"policy:={policy_path}", f"config:={path}", "markers:=true"]
    with launched(bench, "sim.launch.py", *arguments):
        request = GetParameters.Request(names=["publish_description"])
        answer = bench.call(GetParameters, "markers_node/get_parameters", request)
        assert not answer.values[0].bool_value
