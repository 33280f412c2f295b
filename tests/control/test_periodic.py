# SPDX-License-Identifier: Apache-2.0
"""The thread that ticks on absolute deadlines."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from smfp_control.periodic import Overrun, PeriodicThread, Ring

pytestmark = pytest.mark.process


def test_a_ring_keeps_the_last_values() -> None:
    ring = Ring(4)
    assert np.isnan(ring.percentiles(50)).all()
    for value in range(10):
        ring.add(value)
    assert ring.percentiles(0, 100).tolist() == [6, 9]
    ring.clear()
    assert np.isnan(ring.percentiles(50)).all()


def test_ticks_do_not_drift() -> None:
    starts: list[int] = []
    done = threading.Event()

    def tick(now_ns: int) -> bool:
        starts.append(now_ns)
        time.sleep(0.004)
        if len(starts) == 50:
            done.set()
        return not done.is_set()

    thread = PeriodicThread("test", 0.01, tick)
    thread.start()
    assert done.wait(10.0) and thread.join(5.0)
    # Every start lies on the grid of the first, or later by what the system delayed it: were each
    # period added to the tick before, 49 ticks of 4 ms would have moved it by far more.
    offsets = (np.array(starts) - starts[0]) % 10_000_000
    late = np.minimum(offsets, 10_000_000 - offsets)
    assert np.median(late) < 2_000_000


def test_missed_deadlines_are_skipped_and_counted() -> None:
    starts: list[int] = []

    def tick(now_ns: int) -> bool:
        starts.append(now_ns)
        if len(starts) == 3:
            time.sleep(0.055)
        return len(starts) < 6

    thread = PeriodicThread("test", 0.01, tick)
    thread.start()
    assert thread.join(5.0)
    assert thread.misses >= 5
    # No burst after the stall.
    assert min(np.diff(starts[3:])) > 1_000_000


def test_a_stopped_thread_is_gone() -> None:
    thread = PeriodicThread("test", 0.001, lambda now_ns: True)
    assert not thread.alive
    thread.start()
    assert thread.alive
    assert thread.stop(5.0) and not thread.alive


def test_a_thread_that_was_never_started_can_be_stopped() -> None:
    assert PeriodicThread("test", 0.001, lambda now_ns: True).stop(1.0)


@pytest.mark.parametrize("overrun", ["skip", "catch_up_once"])
def test_a_late_tick_is_caught_up_once_if_asked_for_and_else_skipped(overrun: Overrun) -> None:
    starts: list[int] = []

    def tick(now_ns: int) -> bool:
        starts.append(now_ns)
        if len(starts) == 2:
            time.sleep(1.0)
        return len(starts) < 4

    thread = PeriodicThread("test", 0.4, tick, overrun=overrun)
    thread.start()
    assert thread.join(10.0)
    assert thread.misses >= 2
    at_once = starts[2] - starts[1] < 1_100_000_000
    assert at_once == (overrun == "catch_up_once")
    # Once, and on the grid again after that.
    assert starts[3] - starts[1] > 1_100_000_000


def test_a_thread_whose_preparation_fails_never_ticks() -> None:
    ticks: list[int] = []
    thread = PeriodicThread(
        "test", 0.001, lambda now_ns: bool(ticks.append(now_ns)), prepare=lambda: False
    )
    assert thread.start() is False
    assert thread.join(5.0) and not ticks


def test_a_ramp_is_waited_for_as_long_as_it_ticks() -> None:
    ticks: list[int] = []

    def tick(now_ns: int) -> bool:
        ticks.append(now_ns)
        time.sleep(0.02)
        return len(ticks) < 40

    thread = PeriodicThread("test", 0.001, tick)
    thread.start()
    # 40 ticks are due in 40 ms, and take 0.8 s.
    assert thread.finish(1000, patience_s=0.5)
    assert len(ticks) == 40


@pytest.mark.parametrize("stuck", [True, False])
def test_a_thread_that_hangs_or_never_ends_is_not_waited_for_for_ever(stuck: bool) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def tick(now_ns: int) -> bool:
        hanging.set()
        if stuck:
            go_on.wait(20.0)
        return True

    thread = PeriodicThread("test", 0.001, tick)
    thread.start()
    assert hanging.wait(10.0)
    assert not thread.finish(100, patience_s=0.2 if stuck else 10.0)
    assert thread.alive
    if not stuck:
        assert thread.ticks >= 100
    go_on.set()
    assert thread.stop(5.0)


def test_a_pause_of_the_whole_process_does_not_cut_a_ramp_short() -> None:
    code = (
        "from smfp_control.periodic import PeriodicThread\n"
        "thread = PeriodicThread('test', 0.005, lambda now_ns: thread.ticks < 200)\n"
        "thread.start()\n"
        "print('ramping', flush=True)\n"
        "print(thread.finish(1000, patience_s=0.5), thread.ticks)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ramping\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=20.0)[0] == "True 200\n"
