# SPDX-License-Identifier: Apache-2.0
"""The transfer report as a user runs it: real processes, the shipped policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config/policies/ur5e_reach.onnx"


def transfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smfp_core.transfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_report_has_both_ways_and_their_difference(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    plant = ROOT / "config/plants/realistic_payload.yaml"
    result = transfer(
        POLICY, "--plants", plant, "--episodes", 2, "--ros-episodes", 1, "--json", out
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(out.read_text())
    gymnasium, ros = report["rows"]
    assert [(r["plant"], r["via"], r["episodes"]) for r in (gymnasium, ros)] == [
        ("realistic_payload", "gymnasium", 2),
        ("realistic_payload", "ros", 1),
    ]
    for row in (gymnasium, ros):
        assert 0.0 <= row["success_rate"] <= 1.0
        assert 0.0 < row["median_error_m"] < 0.05
        assert 0.1 < row["peak_velocity_rad_s"] < 3.2
    assert (gymnasium["interventions"], ros["interventions"]) == (None, 0)
    (difference,) = report["ros_minus_gymnasium"]
    assert difference == {
        "plant": "realistic_payload",
        "equal": 1,
        "episodes": 1,
        "success_rate": 0.0,
        "median_error_m": 0.0,
    }


def test_a_wrong_plant_is_refused_by_file_and_field(tmp_path: Path) -> None:
    plant = tmp_path / "odd.yaml"
    plant.write_text("payload: {weight_kg: 1.0}\n")
    result = transfer(POLICY, "--plants", plant, "--episodes", 1)
    assert result.returncode == 1
    assert "odd.yaml:1: payload.weight_kg: unknown key" in result.stderr
