# SPDX-License-Identifier: Apache-2.0
"""Every policy that comes with the project: whole, for the robot that it names, and good."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smfp_core.collector import make_env
from smfp_core.config import TrainConfig
from smfp_core.episodes import play
from smfp_core.evaluate import OneByOne, deterministic, summed_up
from smfp_core.policy_file import PolicyFile
from smfp_core.robot import load_robot
from smfp_core.strict import from_mapping

ROOT = Path(__file__).resolve().parents[2]
POLICIES = sorted((ROOT / "config/policies").glob("*.onnx"))


@pytest.fixture(params=POLICIES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_its_robot_takes_it_and_another_does_not(path: Path) -> None:
    name = PolicyFile.load(path).robot_name
    assert PolicyFile.load(path, load_robot(name)).action.size == len(load_robot(name).joints)
    other = load_robot("ur5e" if name == "fr3" else "fr3")
    with pytest.raises(ValueError, match="robot"):
        PolicyFile.load(path, other)


def test_what_lies_beside_it_is_of_this_file(path: Path) -> None:
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside["sha256"] == PolicyFile.load(path).sha256
    measured = json.loads((ROOT / f"results/{path.stem}_evaluation.json").read_text())
    assert path.name in measured["measured_by"]["command"]
    assert measured["policy_sha256"] == beside["sha256"]


def test_it_reaches_its_goals(path: Path) -> None:
    policy = PolicyFile.load(path)
    config = from_mapping(TrainConfig, policy.metadata.training.config)
    env = make_env(config.env_id, config.env_kwargs)
    act = deterministic(OneByOne(policy), policy.deterministic_noise)
    result = summed_up("deterministic", play([env], act, range(10)))
    env.close()
    assert result.success_rate is not None and result.success_rate >= 0.7
    assert np.isfinite(result.return_mean)
