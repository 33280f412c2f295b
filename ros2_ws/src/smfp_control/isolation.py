# SPDX-License-Identifier: Apache-2.0
"""Child processes and a DDS domain that leave nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# DDS-RTPS: the first port of domain d is 7400 + 250 d. Above 101 they reach the ephemeral range.
_FIRST_PORT, _PORTS_PER_DOMAIN, _LAST_DOMAIN = 7400, 250, 101


class DomainReservation:
    """A ROS domain of this process's own, until it is released or the process ends, however.

    The reservation is a socket bound to the domain's last port, which only its 120th participant
    would use. So it excludes whoever asks in this way, for as long as this object lives, and ends
    with the process. Who takes part without asking is noticed by the first port.

    Attributes:
        domain_id: of the domain.

    Raises:
        RuntimeError: every domain is in use.
    """

    def __init__(self) -> None:
        # In random order: a domain that somebody is about to use unasked is not the next one.
        for domain_id in random.sample(range(1, _LAST_DOMAIN + 1), _LAST_DOMAIN):
            first_port = _FIRST_PORT + _PORTS_PER_DOMAIN * domain_id
            claim = _bound(first_port + _PORTS_PER_DOMAIN - 1)
            probe = _bound(first_port) if claim is not None else None
            if claim is not None and probe is not None:
                probe.close()
                self._claim, self.domain_id = claim, domain_id
                return
            if claim is not None:
                claim.close()
        raise RuntimeError("every ROS domain on this computer is in use")

    def release(self) -> None:
        """Let others have the domain."""
        self._claim.close()


def _bound(port: int) -> socket.socket | None:
    """A UDP socket on ``port``; None if somebody has it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind(("", port))
    except OSError:
        bound.close()
        return None
    return bound


@functools.cache
def _own_domain() -> DomainReservation:
    return DomainReservation()


def local_environment() -> dict[str, str]:
    """Environment variables that keep ROS traffic on this computer, in a domain of its own.

    A ``ROS_DOMAIN_ID`` that is set already stays; else one is reserved until this process ends.
    """
    return {
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID") or str(_own_domain().domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }


def shared_memory_of(pid: int) -> set[Path]:
    """Segments in /dev/shm that the Fast DDS of process ``pid`` made for itself."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return {Path(path) for path in re.findall(r"/dev/shm/fast(?:rtps|dds)_[0-9a-f]{16}\b", maps)}


class Child:
    """A Python module run as a process that does not outlive this one.

    Its output goes to a file of its own, to be shown when something went wrong.

    Args:
        module: as for ``python -m``.
        arguments: of its command line.
        environment: variables added to this process's.
    """

    def __init__(
        self, module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> None:
        self.module = module
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        self._abandoned: set[Path] = set()
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )

    def output(self) -> str:
        """What it has printed so far."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if number == signal.SIGKILL:
            self._abandoned |= shared_memory_of(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, None if it still runs after ``timeout_s``."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End it, by force if it is still running, and forget its output."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
        # A process that ends in order removes its own; other participants' are not touched.
        for segment in self._abandoned:
            segment.unlink(missing_ok=True)
            segment.with_name(f"{segment.name}_el").unlink(missing_ok=True)
        self._output.close()


def stop_children(children: Sequence[Child], patience_s: float = 1.5) -> None:
    """Ask all to end, give them ``patience_s`` together, then kill those that are left."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    for child in children:
        child.wait(max(deadline - time.monotonic(), 0.0))
        child.close()
