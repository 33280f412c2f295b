# SPDX-License-Identifier: Apache-2.0
"""The control loop does not grow: resident memory of a process that ticks and ticks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TICKS = 200_000
ALLOWED_MB = 2.0


@pytest.mark.slow
def test_resident_memory_does_not_grow_with_ticks(policy_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/loop_rig.py"), "memory", str(policy_path)]
    done = subprocess.run(
        [*command, "--ticks", str(TICKS)], capture_output=True, text=True, check=True
    )
    early, late = json.loads(done.stdout)["rows"]
    assert (early["ticks"], late["ticks"]) == (10_000, TICKS)
    assert late["resident_mb"] - early["resident_mb"] <= ALLOWED_MB
