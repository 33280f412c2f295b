# SPDX-License-Identifier: Apache-2.0
"""The demonstration as a user starts it: its one line, its end, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import Bench
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_srvs.srv import Trigger

from smfp_control.demo_report import Scene
from smfp_control.isolation import shared_memory_of

pytestmark = pytest.mark.process

# What a ros2_control manager, or another arm's node, may have on the same topic.
FOREIGN = DiagnosticStatus(name="controller_manager: hardware", values=[KeyValue(key="ticks")])


def test_what_others_say_on_diagnostics_is_passed_over() -> None:
    scene = Scene()
    for foreign in ([], [FOREIGN]):
        scene.take_diagnostics(DiagnosticArray(status=foreign))
        assert not scene.diagnostics
    own = DiagnosticStatus(name="/policy_node", values=[KeyValue(key="ticks", value="7")])
    scene.take_diagnostics(DiagnosticArray(status=[FOREIGN, own]))
    assert scene.diagnostics == {"ticks": "7"}


KEYS = [
    "goals",
    "reached",
    "median_error_m",
    "control_rate_hz",
    "period_error_ms",
    "deadline_misses",
    "safety_interventions",
    "faults",
]


def start(
    *arguments: object, environment: dict[str, object] | None = None
) -> subprocess.Popen[str]:
    added = {name: str(value) for name, value in (environment or {}).items()}
    return subprocess.Popen(
        [sys.executable, "-m", "smfp_control.sim_demo", "--no-view", *map(str, arguments)],
        env={**os.environ, **added},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def await_children(pid: int) -> list[int]:
    end = time.monotonic() + 30.0
    while len(found := children_of(pid)) < 2:
        assert time.monotonic() < end, "the demonstration started no nodes"
        time.sleep(0.1)
    # Until the nodes have their signal handlers, they are not yet what is to be ended in order.
    time.sleep(3.0)
    return found


def test_one_json_line_with_the_documented_keys(policy_path: Path, tmp_path: Path) -> None:
    # The policy of the tests is good near home, where the first goal of this seed lies.
    process = start("--goals", 1, "--seed", 0, "--policy", policy_path, "--json", tmp_path / "r")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (line,) = out.splitlines()
    report = json.loads(line)
    assert list(report) == KEYS and sorted(report["period_error_ms"]) == ["p50", "p99"]
    assert report["goals"] == report["reached"] == 1 and report["faults"] == 0
    assert report["median_error_m"] <= 0.02
    assert (tmp_path / "r").read_text() == line + "\n"


def test_goals_that_are_not_reached_give_status_1(shaky_policy_path: Path) -> None:
    process = start("--goals", 1, "--timeout", 0.1, "--policy", shaky_policy_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(out)["reached"] == 0


def test_a_policy_that_is_not_there_ends_it_with_the_nodes_own_words() -> None:
    process = start("--policy", "/nowhere.onnx")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and not out
    assert "nowhere.onnx" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_within_two_seconds(policy_path: Path, number: int) -> None:
    process = start("--policy", policy_path)
    children = await_children(process.pid)
    segments = set().union(*map(shared_memory_of, (process.pid, *children)))
    assert segments
    before = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert not any(map(running, children))
    assert not any(segment.exists() for segment in segments)
    # Two seconds are promised; a machine that runs other tests gets a little more.
    assert time.monotonic() - before < 4.0


def test_killing_it_leaves_no_process_behind(policy_path: Path) -> None:
    process = start("--policy", policy_path)
    children = await_children(process.pid)
    process.kill()
    process.communicate(timeout=20)
    end = time.monotonic() + 10.0
    while any(map(running, children)):
        assert time.monotonic() < end, "the nodes outlived the demonstration"
        time.sleep(0.1)


def test_who_gives_a_goal_up_or_stops_the_arm_is_waited_for(bench: Bench) -> None:
    # Whatever is called from here comes from a person: they decide when it goes on.
    process = start("--goals", 3, "--timeout", 8, environment={"ROS_DOMAIN_ID": bench.domain_id})
    try:
        bench.until(lambda: bench.status.get("goal_m"), "the first goal")
        goal = bench.status["goal_m"]
        bench.spin(0.5)
        bench.call(Trigger, "policy_node/hold", Trigger.Request())
        bench.spin(9.0)
        assert bench.status["goal_m"] == "", "it sent a goal although somebody gave one up"
        bench.send_goal(goal.split())
        bench.until(lambda: bench.status["goal_m"] not in ("", goal), "the second goal")

        bench.estop(True)
        bench.until_state("estop")
        bench.spin(4.0)
        assert bench.status["fault"] == "estop"
        bench.estop(False)
        bench.until(lambda: bench.reset().success, "the reset")
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    report = json.loads(out)
    assert report["goals"] == 3 and report["reached"] <= 2 and report["faults"] >= 1
    assert process.returncode == 1
