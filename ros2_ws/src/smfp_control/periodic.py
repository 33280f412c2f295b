# SPDX-License-Identifier: Apache-2.0
"""A thread that ticks on absolute deadlines, and what it measures about itself."""

from __future__ import annotations

import array
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Of Linux's sys/prctl.h: how late the kernel may wake a sleeper to wake others with it, by default
# 50 us.
_PR_SET_TIMERSLACK, _SLACK_NS = 29, 1000

# Patience with a thread that does not tick is spent in slices of this length.
_SLICE_S = 0.01

Overrun = Literal["skip", "catch_up_once"]


class Ring:
    """The last ``size`` values, preallocated. One thread writes; any thread may read."""

    def __init__(self, size: int = 4096) -> None:
        # Not numpy's: storing one number there takes three times as long.
        self._values = array.array("q", bytes(8 * size))
        self._size = size
        self._count = 0

    def add(self, value: int) -> None:
        """Keep ``value``, dropping the oldest when full."""
        self._values[self._count % self._size] = value
        self._count += 1

    @property
    def last(self) -> int:
        """The newest value; 0 before the first."""
        return self._values[(self._count - 1) % self._size]

    def clear(self) -> None:
        """Forget every value."""
        self._count = 0

    def percentiles(self, *q: float) -> NDArray[np.float64]:
        """Percentiles ``q`` (0 to 100) of the kept values; NaN where there are none."""
        kept = np.frombuffer(self._values, np.int64)[: min(self._count, self._size)]
        if not len(kept):
            return np.full(len(q), np.nan)
        return np.asarray(np.percentile(kept, q), np.float64)


class PeriodicThread:
    """Calls ``tick(now_ns)`` at absolute deadlines on the steady clock until told to stop.

    A deadline is missed when a tick ends after the next one was due. Missed ones are counted and
    skipped, so that one long stall is not followed by a burst of ticks with old data.

    Args:
        name: of the thread.
        period_s: between deadlines.
        tick: takes the steady time of its start, ns; returns False to end the thread. It must
            not raise.
        overrun: after missed deadlines, ``skip`` waits for the next one on the grid,
            ``catch_up_once`` ticks once without waiting before that.
        prepare: called in the thread before its first tick; False ends the thread.

    Attributes:
        ticks, misses: counts of ticks done and of deadlines missed.
        period_error_ns: ``|interval between two starts - period|`` of the last ticks.
    """

    def __init__(
        self,
        name: str,
        period_s: float,
        tick: Callable[[int], bool],
        overrun: Overrun = "skip",
        prepare: Callable[[], bool] = lambda: True,
    ) -> None:
        self.period_ns = round(period_s * 1e9)
        self.ticks = 0
        self.misses = self._misses_before = 0
        self.period_error_ns = Ring()
        self._tick, self._overrun, self._prepare = tick, overrun, prepare
        self._prepared: bool | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stop = False
        self._rate_ns = 0
        self._rate_ticks = 0

    def start(self) -> bool:
        """Start ticking, one period from now; False if ``prepare`` said no."""
        self._rate_ns = time.monotonic_ns()
        self._thread.start()
        self._ready.wait()
        return bool(self._prepared)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the tick under way; False if it has not ended in time."""
        self._stop = True
        return self.join(timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end by itself; False if it has not ended in time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def finish(self, most_ticks: int, patience_s: float = 1.0) -> bool:
        """Wait for the thread to end by itself, for as long as it goes on ticking.

        On a busy machine a ramp of so many ticks takes longer than they should, and ending the
        thread before its end would leave the arm in motion. A time in which the whole process
        stood still costs one slice of the patience at most.

        Returns:
            False if it ticked ``most_ticks`` times more, or not at all for ``patience_s``.
        """
        begun = seen = self.ticks
        idle_s = 0.0
        while idle_s < patience_s and self.ticks - begun < most_ticks:
            if self.join(_SLICE_S):
                return True
            idle_s = idle_s + _SLICE_S if self.ticks == seen else 0.0
            seen = self.ticks
        return False

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def rate_hz(self) -> float:
        """Ticks per second since the last call of this method (by one thread)."""
        now, ticks = time.monotonic_ns(), self.ticks
        elapsed, done = now - self._rate_ns, ticks - self._rate_ticks
        self._rate_ns, self._rate_ticks = now, ticks
        return done / (elapsed * 1e-9) if elapsed else 0.0

    def clear_statistics(self) -> None:
        """Count missed deadlines and measure periods anew; called in ``tick``, or at rest."""
        self._misses_before = self.misses
        self.period_error_ns.clear()

    @property
    def misses_since_clear(self) -> int:
        """Missed deadlines since the last ``clear_statistics``."""
        return self.misses - self._misses_before

    def _run(self) -> None:
        # Of this thread alone. Real-time scheduling wakes without slack anyway.
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_TIMERSLACK, _SLACK_NS)
        try:
            self._prepared = self._prepare()
        finally:
            self._ready.set()
        if self._prepared:
            self._pace()

    def _pace(self) -> None:
        period = self.period_ns
        clock = time.monotonic_ns
        deadline = clock() + period
        previous = 0
        catch_up = 1 if self._overrun == "catch_up_once" else 0
        while not self._stop:
            wait = deadline - clock()
            if wait > 0:
                time.sleep(wait * 1e-9)
            now = clock()
            if previous:
                self.period_error_ns.add(abs(now - previous - period))
            previous = now
            if not self._tick(now):
                return
            self.ticks += 1
            deadline += period
            late = clock() - deadline
            if late > 0:
                missed = late // period + 1
                self.misses += missed
                # Skipping all but one leaves a deadline that is over: the next tick starts now.
                deadline += (missed - catch_up) * period
