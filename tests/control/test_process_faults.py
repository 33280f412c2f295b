# SPDX-License-Identifier: Apache-2.0
"""Rows of docs/faults.md that end, stall or starve whole processes, each with a rig of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench import Bench
from driver_process import start_driver
from fault_rig import TIMEOUT_S, assert_within_limits, make_rig
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from smfp_core.robot import RobotConfig

pytestmark = pytest.mark.process

# Late states do not stop the arm here, so that it is known what does.
ONLY_DEADLINES = {"deadline_miss_limit": 250, "state_timeout_s": 1.0, "state_delay_limit_s": 0.0}
# On one processor, beside which the node gets a time slice in so many.
LOADS = 10


@contextlib.contextmanager
def starved(pid: int) -> Iterator[None]:
    """Every thread of a process shares one processor with other work, at the same priority."""
    cpu = max(os.sched_getaffinity(0))
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    allowed = os.sched_getaffinity(pid)
    busy = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"], stdout=subprocess.DEVNULL)
        for _ in range(LOADS)
    ]
    try:
        for process in busy:
            os.sched_setaffinity(process.pid, {cpu})
        for thread in threads:
            os.sched_setaffinity(thread, {cpu})
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, allowed)


def test_a_node_without_processor_time_stops_the_arm(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, policy_path, **ONLY_DEADLINES)
    rig.move()
    with starved(bench.children[1].process.pid):
        bench.until(lambda: bench.status["fault"] != "none", "the fault")
    # The latter where the process got no time at all for longer than the timeout.
    assert bench.status["fault"] in ("missed_deadlines", "stale_state"), bench.status
    rig.assert_rests(goes_on=False)
    bench.reset_for_good()
    assert_within_limits(robot, rig.driver.motion())


def test_a_driver_that_restarts_is_taken_up_after_a_reset(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, policy_path)
    # Moved by hand meanwhile: by less than the tracking error that is borne, and by more.
    for moved_rad in (0.0, 0.4, -0.8):
        rig.move()
        assert_within_limits(robot, rig.driver.motion())  # ends it
        rig.expect_driver_gone()
        assert not bench.reset().success
        pose = np.array(bench.commands[-1][1])
        pose[-1] += moved_rad
        bench.commands.clear()
        bench.states.clear()
        rig.driver = start_driver(bench, tmp_path, f"--pose={','.join(map(str, pose))}")
        bench.until(lambda: len(bench.states) > 200, "joint states")
        if bench.status["fault"] == "stale_state":
            assert not bench.commands, "commands for a controller that came anew"
        # Where the controller was missed, too, the reference stays with the arm and is sent.
        for _, command in bench.commands:
            np.testing.assert_allclose(command, pose, atol=2e-3)
        rig.recover()
        np.testing.assert_allclose(bench.commands[0][1], pose, atol=2e-3)
    assert_within_limits(robot, rig.driver.motion())


def test_a_control_thread_that_is_starved_stops_the_arm(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, policy_path, **ONLY_DEADLINES)
    bench.send_goal(rig.goals[0])
    bench.spin(0.5)
    node = bench.children[1]
    node.signal(signal.SIGSTOP)
    bench.spin(0.6)  # 300 deadlines, and less than the timeout of states
    node.signal(signal.SIGCONT)
    rig.expect("missed_deadlines", "too busy", 0.0)
    bench.reset_for_good()
    assert_within_limits(robot, rig.driver.motion())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_arm_rests_when_the_node_is_ended_in_motion(
    bench: Bench, hangups: None, robot: RobotConfig, policy_path: Path, tmp_path: Path, number: int
) -> None:
    rig = make_rig(bench, tmp_path, policy_path)
    rig.move()
    bench.spin(np.random.default_rng().uniform(0.0, 0.5))
    bench.children[1].signal(number)
    status = bench.until_exit(bench.children[1])
    assert status == (-number if number == signal.SIGKILL else 0)
    bench.spin(0.5)
    motion = rig.driver.motion()
    assert np.abs(motion.velocity[-50:]).max() < 1e-3
    # Without a node that ramps down, the controller holds the last position: the servo brakes.
    assert_within_limits(robot, motion)


def test_the_arm_rests_at_once_when_the_node_is_ended_while_its_executor_is_blocked(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path
) -> None:
    rig = make_rig(bench, tmp_path, policy_path)
    # As a file on a network drive that hangs does, a pipe blocks who reads it.
    hung = tmp_path / "hung.onnx"
    os.mkfifo(hung)
    rig.move()
    client = bench.node.create_client(SetParameters, "policy_node/set_parameters")
    bench.until(client.service_is_ready, "the service of parameters")
    wanted = Parameter("policy_path", value=str(hung)).to_parameter_msg()
    client.call_async(SetParameters.Request(parameters=[wanted]))
    bench.spin(0.3)
    assert rig.sends()
    node = bench.children[1]
    node.signal(signal.SIGTERM)
    bench.until(lambda: not rig.sends(), "the end of the commands")
    rig.assert_rests(goes_on=False)
    assert node.process.poll() is None
    hung.write_bytes(b"")
    assert bench.until_exit(node) == 0
    assert_within_limits(robot, rig.driver.motion())


@pytest.mark.parametrize("driver", ["fake_driver", "sim_node"])
def test_a_driver_that_is_killed_in_motion_stops_the_arm(
    bench: Bench, robot: RobotConfig, policy_path: Path, tmp_path: Path, driver: str
) -> None:
    simulated = driver == "sim_node"
    rig = make_rig(bench, tmp_path, policy_path, simulated=simulated, state_delay_limit_s=0.0)
    for attempt in range(2):
        rig.move()
        bench.spin(np.random.default_rng().uniform(0.0, 0.5))
        killed = bench.children[-1] if attempt else bench.children[0]
        killed.signal(signal.SIGKILL)
        assert bench.until_exit(killed) == -signal.SIGKILL
        rig.expect("stale_state", "does the driver run", TIMEOUT_S)
        refused = bench.reset()
        assert not refused.success and "persists" in refused.message
        pose = ",".join(map(str, bench.commands[-1][1]))
        if simulated:
            bench.start("sim_node", start_pose=pose)
        else:
            rig.driver = start_driver(bench, tmp_path, f"--pose={pose}")
        rig.recover()
    if not simulated:
        assert_within_limits(robot, rig.driver.motion())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command; a limit on file sizes stands in, in test_fault_table.py")
    if mounted.returncode != 0:
        pytest.skip(
            f"mounting is not permitted ({mounted.stderr.strip()}); a limit on file sizes stands "
            "in, in test_fault_table.py"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_log_folder_on_a_full_disk_does_not_disturb_the_node(
    bench: Bench,
    robot: RobotConfig,
    policy_path: Path,
    tmp_path: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROS_LOG_DIR", str(small_disk))
    rig = make_rig(bench, tmp_path, policy_path)
    logs = list(small_disk.iterdir())
    assert logs, "the node logs elsewhere"
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(512))
    assert os.statvfs(small_disk).f_bavail == 0
    rig.move()
    for _ in range(3):
        bench.send_goal([2.0, 0.0, 0.5])
        bench.until(lambda: "out of reach" in bench.status["refusal"], "the refusal")
        rig.move()
    assert bench.estop(True).success
    rig.expect("estop", "e-stop was pressed", 0.0)
    assert bench.estop(False).success
    rig.recover()
    assert os.statvfs(small_disk).f_bavail == 0
    assert bench.children[1].process.poll() is None
    assert_within_limits(robot, rig.driver.motion())
