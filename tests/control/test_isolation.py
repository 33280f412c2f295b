# SPDX-License-Identifier: Apache-2.0
"""Domains are reserved: two suites, demonstrations or benchmarks at once do not meet."""

from __future__ import annotations

import subprocess
import sys

from smfp_control.isolation import DomainReservation

COUNT = 20
OTHER = f"""
import sys
from smfp_control.isolation import DomainReservation
held = [DomainReservation() for _ in range({COUNT})]
print(*(one.domain_id for one in held), flush=True)
sys.stdin.read()
"""


def test_no_two_processes_get_one_domain_while_both_live() -> None:
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(word) for word in other.stdout.readline().split()}
        ours = [DomainReservation() for _ in range(COUNT)]
        own = {one.domain_id for one in ours}
        assert len(theirs) == len(own) == COUNT
        assert not theirs & own
        other.kill()
    for one in ours:
        one.release()
    # What its holder, even a killed one, no longer needs can be had again.
    seen: set[int] = set()
    for _ in range(300):
        again = DomainReservation()
        seen.add(again.domain_id)
        again.release()
    assert seen & theirs and seen & own
