# SPDX-License-Identifier: Apache-2.0
"""Real-time scheduling: granted, or refused with the way to allow it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bench import Bench

from smfp_control.realtime import RealtimeSettings


def apply_in_a_thread(settings: RealtimeSettings) -> tuple[list[str], set[int], int]:
    """Problems, processors and scheduler of a thread of its own: this one stays as it is."""
    found: list[tuple[list[str], set[int], int]] = []

    def run() -> None:
        problems = settings.apply()
        found.append((problems, os.sched_getaffinity(0), os.sched_getscheduler(0)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_nothing_asked_changes_nothing() -> None:
    before = os.sched_getaffinity(0)
    assert apply_in_a_thread(RealtimeSettings(0, "", False)) == ([], before, os.SCHED_OTHER)


def test_a_processor_can_be_chosen() -> None:
    cpu = min(os.sched_getaffinity(0))
    problems, cpus, _ = apply_in_a_thread(RealtimeSettings(0, str(cpu), False))
    assert problems == [] and cpus == {cpu}


@pytest.mark.parametrize("cpus", ["4095", "one", "99999999999"])
def test_a_processor_that_is_not_there_is_named(cpus: str) -> None:
    problems, _, _ = apply_in_a_thread(RealtimeSettings(0, cpus, False))
    assert len(problems) == 1 and problems[0].startswith(f"cpu_affinity: '{cpus}'")


def test_a_priority_is_granted_or_the_way_to_allow_it_is_told() -> None:
    problems, _, scheduler = apply_in_a_thread(RealtimeSettings(10, "", False))
    if scheduler == os.SCHED_FIFO:
        assert problems == []
    else:
        assert "limits.conf" in problems[0] and "--cap-add=sys_nice" in problems[0]


def run_python(code: str) -> str:
    """What a fresh process prints: what it asks of the system concerns the whole process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_memory_is_locked_or_the_way_to_allow_it_is_told() -> None:
    said = run_python(
        "from smfp_control.realtime import RealtimeSettings\n"
        "print(RealtimeSettings(0, '', True).apply())\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmLck')))"
    )
    problems, locked = said.split("\n")[:2]
    if problems == "[]":
        assert int(locked.split()[1]) > 1000
    else:
        assert "limits.conf" in problems and "--ulimit memlock=-1" in problems


def test_without_the_rights_each_refusal_says_how_to_allow_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give its rights away")
    said = run_python(
        "import os, resource\n"
        "from smfp_control.realtime import RealtimeSettings\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "os.setuid(65534)\n"
        "print(*RealtimeSettings(50, '', True).apply(), sep='\\n')"
    )
    memory, priority = said.splitlines()
    assert memory.startswith("lock_memory: only 64 KiB") and "--ulimit memlock=-1" in memory
    assert priority.startswith("scheduler_priority") and "rtprio 50" in priority
    assert "--cap-add=sys_nice" in priority


def test_collections_skip_what_was_there_at_configure() -> None:
    said = run_python(
        "import gc\n"
        "from smfp_control.process import freeze_garbage\n"
        "freeze_garbage()\n"
        "print(gc.get_freeze_count())"
    )
    assert int(said) > 1000


@pytest.mark.process
@pytest.mark.parametrize("required", [True, False])
def test_a_refusal_ends_or_does_not_end_activation_as_the_parameter_says(
    bench: Bench, policy_path: Path, required: bool
) -> None:
    node = bench.start_policy_node(
        policy_path, cpu_affinity="4094,4095", realtime_required=required, activation_timeout_s=20.0
    )
    bench.start("sim_node")
    assert bench.transition("configure")
    assert bench.transition("activate") is not required
    bench.until(lambda: "cpu_affinity: '4094,4095' cannot be used" in node.output(), "the reason")
    if required:
        assert "cpu_affinity" in bench.status["refusal"]
        assert bench.lifecycle() == "inactive" and not bench.commands
    else:
        bench.until_state("hold")
        assert "going on without real time" in node.output()
