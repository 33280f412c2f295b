# SPDX-License-Identifier: Apache-2.0
"""Running the runs of a comparison as processes, several at a time, stopped in order."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from smfp_core.comparison.plan import Run
from smfp_core.strict import ConfigError

LAST_LINES = 8
_POLL_S = 0.1
# One numeric thread a process: as many runs as cores are faster than one run on all of them, and
# one thread's sums are repeatable to the bit.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    run: Run
    state: Literal["finished", "skipped", "taken", "failed", "stopped"]
    """``skipped``: finished by another call. ``taken``: from the results of another comparison.
    ``stopped``: can go on."""
    wall_s: float = 0.0
    """Of this call."""
    last_lines: str = ""
    """What a run that failed said last."""
    source: str = ""
    """File that the rows of a run that was taken are from."""


Report = Callable[[Outcome], None]


class Stop:
    """Whether an interrupt asked to stop (``requested``), or asked twice (``at_once``)."""

    def __init__(self) -> None:
        self.requests = 0

    @property
    def requested(self) -> bool:
        return self.requests > 0

    @property
    def at_once(self) -> bool:
        return self.requests > 1

    def listen(self) -> None:
        """Take over the interrupt, the terminate and the hang-up signal of this process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._request())

    def _request(self) -> None:
        self.requests += 1


class AlreadyFinishedError(Exception):
    """A run has come to its end, by an earlier call or by one beside this."""


class RunProcess:
    """A run's process; its output goes to ``output.log`` in the run's folder.

    The folder is locked until the process has ended and, if it finished, that is on record; should
    this process be killed, until the run's has ended. So two comparisons never write into one run,
    nor does one begin anew what the other has just finished.

    Raises:
        AlreadyFinishedError: there is nothing left to do.
        BlockingIOError: another process is at this run.
        ConfigError: another process has made it a run of another configuration.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        run.folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._log = run.folder / "output.log"
        with ExitStack() as stack:
            lock = stack.enter_context((run.folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if run.finished:
                raise AlreadyFinishedError(run.name)
            run.prepare()
            with self._log.open("wb") as log:
                # A session of its own: Ctrl-C in a terminal would reach it twice.
                self._process = subprocess.Popen(
                    [sys.executable, *run.arguments()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **_ONE_THREAD},
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),
                    preexec_fn=_end_with_parent,
                )
            self._locked = stack.pop_all()

    def stop(self, at_once: bool) -> None:
        """Ask it to write a checkpoint and end, or end it."""
        # SIGTERM: what a shell starts in the background ignores SIGINT, and so do its children.
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def outcome(self, stopping: bool) -> Outcome | None:
        """How it ended; None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        wall_s = round(time.monotonic() - self._started, 1)
        with self._locked:
            if status == 0:
                self.run.mark_finished()
        if status == 0:
            return Outcome(self.run, "finished", wall_s)
        if stopping:
            return Outcome(self.run, "stopped", wall_s)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return Outcome(self.run, "failed", wall_s, "\n".join([*lines, f"exit status {status}"]))


def run_here(runs: Sequence[Run], workers: int, stop: Stop, report: Report) -> None:
    """Bring every run to its end, ``workers`` at a time, in their order.

    Args:
        runs: what to run; those that finished earlier are skipped.
        workers: processes side by side.
        stop: when requested, running processes are asked to end and the rest is left out.
        report: told the outcome of each run as it is known.
    """
    waiting, active = deque(runs), list[RunProcess]()
    taken: set[str] = set()
    asked = 0
    while waiting or active:
        if stop.requests > asked:
            asked = stop.requests
            for process in active:
                process.stop(stop.at_once)
        if stop.requested:
            waiting.clear()
        for _ in range(len(waiting)):
            if len(active) >= workers:
                break
            run = waiting.popleft()
            try:
                active.append(RunProcess(run))
            except AlreadyFinishedError:
                report(Outcome(run, "skipped"))
            except BlockingIOError:
                waiting.append(run)
                if run.name not in taken:
                    print(f"{run.name}: waiting, another process is at it", file=sys.stderr)
                taken.add(run.name)
            except (OSError, ConfigError) as error:
                report(Outcome(run, "failed", last_lines=str(error)))
        time.sleep(_POLL_S)
        for process in list(active):
            outcome = process.outcome(stop.requested)
            if outcome is not None:
                active.remove(process)
                report(outcome)


def _end_with_parent() -> None:
    """Have the kernel terminate this process, in order, should the comparison be killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
