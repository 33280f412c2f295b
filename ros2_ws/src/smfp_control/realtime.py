# SPDX-License-Identifier: Apache-2.0
"""Scheduling of the control thread: priority, processors, locked memory. All of it opt-in."""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass

_MCL_CURRENT, _MCL_FUTURE = 1, 2


@dataclass(frozen=True)
class RealtimeSettings:
    """What to ask of the system.

    Attributes:
        priority: of SCHED_FIFO, 1 to 99; 0 leaves the scheduler as it is.
        cpus: processors that the thread may use, separated by commas; empty leaves them.
        lock_memory: keep every page of the process in memory.
    """

    priority: int
    cpus: str
    lock_memory: bool

    def apply(self) -> list[str]:
        """Apply to the calling thread; returns what the system forbids and how to allow it."""
        problems = []
        if self.lock_memory and (problem := _lock_memory()):
            problems.append(problem)
        if self.cpus:
            try:
                os.sched_setaffinity(0, {int(cpu) for cpu in self.cpus.split(",")})
            except (ValueError, OverflowError, OSError) as error:
                problems.append(
                    f"cpu_affinity: '{self.cpus}' cannot be used ({error}); this process may use "
                    f"{','.join(map(str, sorted(os.sched_getaffinity(0))))}"
                )
        if self.priority:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self.priority))
            except OSError as error:
                problems.append(
                    f"scheduler_priority: SCHED_FIFO {self.priority} is not permitted "
                    f"({error.strerror}); allow it with 'YOUR_USER - rtprio {self.priority}' in "
                    "/etc/security/limits.conf and a new login, in Docker with "
                    f"--cap-add=sys_nice --ulimit rtprio={self.priority}"
                )
        return problems


def _lock_memory() -> str | None:
    how = (
        "allow it with 'YOUR_USER - memlock unlimited' in /etc/security/limits.conf and a new "
        "login, in Docker with --ulimit memlock=-1"
    )
    # With less than everything allowed, locking would succeed now and allocations fail later.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        return f"lock_memory: only {soft // 1024} KiB are permitted; {how}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        return f"lock_memory: {os.strerror(ctypes.get_errno())}; {how}"
    return None
