# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smfp_core.demos.around import tally


class Ended:
    def __init__(self, index: int, way: str, equal: bool | None = True, success: bool = True):
        self.index, self.total = index, float(index)
        self.info = {"way": way, "is_success": success}
        self.info |= {} if equal is None else {"equal_ways": equal}


def test_ways_are_counted_where_they_are_equally_good_and_success_everywhere():
    played = [Ended(0, "left"), Ended(1, "right"), Ended(2, "left"), Ended(3, "", success=False)]
    played += [Ended(4, "left"), Ended(5, "left"), Ended(6, "right", equal=False)]
    played += [Ended(7, "right", equal=False, success=False)]
    counted = tally(played, repeats=2)
    assert counted["success"] == pytest.approx(6 / 8)
    assert (counted["equal_starts"], counted["equal_success"]) == (3, pytest.approx(5 / 6))
    assert counted["ways"] == {"left": pytest.approx(0.8), "right": pytest.approx(0.2)}
    assert counted["mixed"] == pytest.approx(0.5)  # of the two starts with two successes
    assert counted["return_mean"] == pytest.approx(3.5)


def test_a_task_that_does_not_judge_its_starts_is_counted_from_all():
    counted = tally([Ended(0, "", equal=None), Ended(1, "over", equal=None)], repeats=2)
    assert counted["ways"] == {"over": 0.5, "straight": 0.5} and counted["mixed"] == 1.0


def test_no_start_with_equal_ways_is_no_division_by_zero():
    counted = tally([Ended(0, "left", equal=False)], repeats=1)
    assert (counted["equal_success"], counted["ways"], counted["mixed"]) == (None, {}, None)


def test_demo_trains_counts_and_goes_on_with_what_is_there(tmp_path: Path):
    config = yaml.safe_load(Path("config/train/point_around.yaml").read_text())
    config |= {"warmup_steps": 200, "eval_every": 260, "eval_episodes": 1, "compile": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"noise_choices": 1}))
    command = [sys.executable, "-m", "smfp_core.demos.around", "--agents", "sac", "smfp"]
    command += ["--config", tmp_path / "config.yaml", "--seeds", "5"]
    command += ["--starts", "2", "--repeats", "2", "--runs", tmp_path / "runs"]
    command += ["--json", tmp_path / "ways.json"]
    for steps in ("260", "270"):  # the second call goes on with the runs of the first
        call = [*command, "--steps", steps]
        done = subprocess.run(call, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "ways.json").read_text())["rows"]
    assert [(r["agent"], r["seed"], r["steps"], r["episodes"]) for r in rows] == [
        ("sac", 5, 270, 4),
        ("smfp", 5, 270, 4),
    ]
    for r in rows:
        assert sum(r["ways"].values()) == pytest.approx(1.0 if r["equal_success"] else 0.0)
        assert set(r["ways"]) <= {"left", "right"}
    assert "| smfp | 5 |" in (tmp_path / "ways.md").read_text()
    for change, text in (
        (["--agents"], "--agents: give at least one"),
        (["--seeds"], "--seeds: give at least one"),
        (["--steps", "0"], "steps: must be positive, got 0"),
        (["--config", "config/train/mujoco.yaml"], "HalfCheetah-v4' does not say which way"),
    ):
        done = subprocess.run([*command, *change], capture_output=True, text=True, timeout=240)
        assert done.returncode == 1 and text in done.stderr and "Traceback" not in done.stderr
    # Of another configuration they are not taken for what is asked for.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"noise_choices": 2}))
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "holds a run of another configuration" in done.stderr
