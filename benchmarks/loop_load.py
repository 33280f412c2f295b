# SPDX-License-Identifier: Apache-2.0
"""Other work for the machine to do while something is measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

# Products of matrices that do not fit into the first caches, again and again.
_BUSY = "import numpy as n\na = n.ones((300, 300))\nwhile True: a @ a"

_START_S = 1.0


@contextlib.contextmanager
def other_work(wanted: bool, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Every processor busy, at normal priority, while the block runs; nothing if not wanted.

    Args:
        wanted: whether there shall be any.
        wait: called with seconds, while the work starts.
    """
    count = len(os.sched_getaffinity(0)) if wanted else 0
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        raise RuntimeError("the other work would inherit this thread's real-time priority")
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        wait(_START_S * (count > 0))
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
