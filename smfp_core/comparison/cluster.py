# SPDX-License-Identifier: Apache-2.0
"""The runs of a comparison as tasks of a Ray cluster; installed by the extra ``cluster``.

Every machine of the cluster needs this package with the same versions, and the output folder at
the same path, on a file system that they share.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import time
from collections.abc import Sequence
from typing import Any

from smfp_core.comparison.plan import Run
from smfp_core.comparison.runs import AlreadyFinishedError, Outcome, Report, RunProcess, Stop
from smfp_core.strict import ConfigError

_POLL_S = 0.5


def run_on_ray(runs: Sequence[Run], address: str, workers: int, stop: Stop, report: Report) -> None:
    """Bring every run to its end, each as one task that takes one core.

    Args:
        runs: what to run; those that finished earlier are skipped.
        address: of the cluster, as ``ray.init`` takes it; ``local`` starts one on this machine.
        workers: cores of the local one; a real cluster has its own.
        stop: when requested, running processes are asked to end and the rest is left out.
        report: told the outcome of each run as it is known.

    Raises:
        ConfigError: ray is not installed, or there is no cluster at the address.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"--ray-address: needs ray ({error}): pip install -e '.[cluster]'"
        ) from error
    local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning", **local)
    except ConnectionError as error:
        raise ConfigError(f"--ray-address: {address}: {error}") from error
    stop.listen()  # ray.init takes the terminate signal for itself
    try:
        # A run that fails would fail again; one whose machine is lost can be resumed by a new call.
        task = ray.remote(num_cpus=1, max_retries=0)(_run_to_its_end)
        todo = [run for run in runs if not run.finished]
        for run in runs:
            if run.finished:
                report(Outcome(run, "skipped"))
        pending = {task.remote(run): run for run in todo}
        asked = 0
        while pending:
            if stop.requests > asked:
                asked = stop.requests
                for reference in pending:
                    ray.cancel(reference, force=stop.at_once)
            done, _ = ray.wait(list(pending), timeout=_POLL_S)
            for reference in done:
                outcome = _result(ray, reference, pending.pop(reference), stop)
                if outcome is not None:
                    report(outcome)
    finally:
        ray.shutdown()


def _run_to_its_end(run: Run) -> Outcome:
    """What a worker does; Ray cancels it by a KeyboardInterrupt."""
    # Without this handler, which a cluster started in the background lacks, Ray's has no effect.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process: RunProcess | None = None
    stopping = False
    while True:
        try:
            if process is None:
                with contextlib.suppress(BlockingIOError):  # an earlier process is still at it
                    process = RunProcess(run)
            elif (outcome := process.outcome(stopping)) is not None:
                return outcome
            time.sleep(_POLL_S)
        except AlreadyFinishedError:
            return Outcome(run, "skipped")
        except KeyboardInterrupt:
            if process is None:
                return Outcome(run, "stopped")
            stopping = True
            process.stop(at_once=False)
        except OSError as error:
            return Outcome(run, "failed", last_lines=str(error))


def _result(ray: Any, reference: Any, run: Run, stop: Stop) -> Outcome | None:
    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.TaskCancelledError:
        return None  # it had not begun
    except ray.exceptions.RayError as error:
        state = "stopped" if stop.requested else "failed"
        return Outcome(run, state, last_lines=str(error))  # type: ignore[arg-type]
