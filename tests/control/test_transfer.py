# SPDX-License-Identifier: Apache-2.0
"""The transfer report as a user runs it: real processes, the shipped policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smfp_core.collector import EVALUATION, episode_seed
from smfp_sim.tasks import REACH_STEPS
from smfp_sim.tasks.reach_around import ReachAroundEnv

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config/policies/ur5e_reach.onnx"
POLICY_ROUND_THE_POST = ROOT / "config/policies/ur5e_reach_around.onnx"
# Of the shipped report: the first presses against the post, the second goes round it freely.
EPISODES_ROUND_THE_POST = (3, 1)


def transfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smfp_core.transfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def ros_half(
    *arguments: object, cases: list[dict[str, object]]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smfp_control.transfer", *map(str, arguments)]
    return subprocess.run(
        command, input=json.dumps(cases), capture_output=True, text=True, timeout=300
    )


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
        "policy": "ur5e_reach",
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


def test_policies_stand_side_by_side_and_are_added_to_a_report(tmp_path: Path) -> None:
    out, other = tmp_path / "report.json", tmp_path / "other.onnx"
    other.write_bytes(POLICY.read_bytes())
    plants = [ROOT / f"config/plants/{name}.yaml" for name in ("ideal", "bad")]
    common = ("--episodes", 1, "--ros-episodes", 0, "--json", out)
    result = transfer(POLICY, other, "--plants", plants[0], *common)
    assert result.returncode == 0, result.stderr
    one, two = json.loads(out.read_text())["rows"]
    assert (one["policy"], two["policy"]) == ("ur5e_reach", "other")
    assert one["median_error_m"] == two["median_error_m"]
    result = transfer(other, "--plants", *plants, *common, "--add")
    assert result.returncode == 0, result.stderr
    report = json.loads(out.read_text())
    assert [(r["policy"], r["plant"]) for r in report["rows"]] == [
        ("ur5e_reach", "ideal"),
        ("other", "ideal"),
        ("other", "bad"),
    ]
    assert [Path(origin["policy"]).stem for origin in report["policies"]] == ["ur5e_reach", "other"]
    assert all(origin["measured_by"]["git_revision"] for origin in report["policies"])
    result = transfer(other, "--plants", plants[0], *common, "--add", "--seed", 1)
    assert result.returncode == 1 and "another --seed" in result.stderr


def test_interventions_are_counted_in_the_episode_that_has_them() -> None:
    env, cases = ReachAroundEnv(), []
    for i in EPISODES_ROUND_THE_POST:
        env.reset(seed=episode_seed(2_000_000, EVALUATION, i))
        start, goal = (env.start_options[name].tolist() for name in ("joint_position", "goal"))
        cases.append({"joint_position": start, "goal": goal, "plant_seed": 0})
    result = ros_half(
        POLICY_ROUND_THE_POST, "--robot", "ur5e_post", "--steps", REACH_STEPS, cases=cases
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    pressed, free = (r["interventions"] for r in answer["results"])
    assert pressed > 0 and free == 0
    assert answer["interventions"] == pressed


def test_a_policy_of_another_robot_is_refused_over_ros() -> None:
    result = ros_half(POLICY_ROUND_THE_POST, "--robot", "ur5e", cases=[])
    assert result.returncode == 1
    assert "robot.name: trained for 'ur5e_post', this is 'ur5e'" in result.stderr
