# SPDX-License-Identifier: Apache-2.0
"""Real-time scheduling: granted, or refused with the way to allow it."""

from __future__ import annotations

import os
import threading

import pytest

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


@pytest.mark.parametrize("cpus", ["4095", "one"])
def test_a_processor_that_is_not_there_is_named(cpus: str) -> None:
    problems, _, _ = apply_in_a_thread(RealtimeSettings(0, cpus, False))
    assert len(problems) == 1 and problems[0].startswith(f"cpu_affinity: '{cpus}'")


def test_a_priority_is_granted_or_the_way_to_allow_it_is_told() -> None:
    problems, _, scheduler = apply_in_a_thread(RealtimeSettings(10, "", False))
    if scheduler == os.SCHED_FIFO:
        assert problems == []
    else:
        assert "limits.conf" in problems[0] and "--cap-add=sys_nice" in problems[0]
