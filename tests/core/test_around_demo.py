# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


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
        assert sum(r["ways"].values()) == pytest.approx(1.0 if r["success"] else 0.0)
        assert set(r["ways"]) <= {"left", "right"}
    assert "| smfp | 5 |" in (tmp_path / "ways.md").read_text()
    # Of another configuration they are not taken for what is asked for.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"noise_choices": 2}))
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "holds a run of another configuration" in done.stderr
