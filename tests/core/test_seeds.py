# SPDX-License-Identifier: Apache-2.0
"""Several seeds with one batched update, against each of them alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smfp_core import checkpoint
from smfp_core.config import TrainConfig
from smfp_core.progress import RunLog
from smfp_core.seeds import SeedTrainer
from smfp_core.trainer import Trainer

FIELDS = {
    "env_id": "Pendulum-v1",
    "steps": 60,
    "warmup_steps": 40,
    "batch_size": 16,
    "actor_hidden": (16, 16),
    "critic_hidden": (16, 16),
    "act_candidates": 4,
    "eval_every": 60,
    "eval_episodes": 1,
    "checkpoint_every": 50,
    "log_every": 10,
    "noise_choices": 1,
    "compile": False,
}


def trainer(folder: Path, seed: int, agent: str) -> tuple[Trainer, RunLog]:
    folder.mkdir(parents=True)
    config = TrainConfig(**FIELDS, agent=agent, seed=seed)  # type: ignore[arg-type]
    return Trainer(config, folder), RunLog(folder, config.steps, 0, bar=False)


@pytest.mark.parametrize("agent", ["smfp", "flow", "sac", "td3", "crossq"])
def test_seeds_in_one_process_learn_what_each_learns_alone(agent: str, tmp_path: Path):
    pairs = [trainer(tmp_path / f"both_{seed}", seed, agent) for seed in (1, 2)]
    batched = SeedTrainer([t for t, _ in pairs])
    assert batched.run([log for _, log in pairs])
    for seed, (together, _) in zip((1, 2), pairs, strict=True):
        alone, log = trainer(tmp_path / f"alone_{seed}", seed, agent)
        assert alone.run(log)
        for name, value in alone.agent.state.items():
            # As a whole, since a unit at the kink of its ReLU turns rounding into a gradient. With
            # other noise the actor's mean gradient alone is a fifth of itself away, and more.
            distance = (together.agent.state[name] - value).norm()
            assert distance <= 1e-2 * value.norm() + 1e-6, f"{seed} {name}: {distance}"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "smfp_core.train", *map(str, arguments)]
    return subprocess.run(whole, capture_output=True, text=True, timeout=240)


def test_seeds_resume_at_the_step_that_all_of_them_have(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in FIELDS.items()})
    )
    run = tmp_path / "run"
    done = command("--config", path, "--run-dir", run, "--seeds", "3,4")
    assert done.returncode == 0, done.stderr
    folders = [run / f"seed_{seed}" / "checkpoints" for seed in (3, 4)]
    whole = [checkpoint.load(checkpoint.latest(folder))[0] for folder in folders]
    # One seed had written its last checkpoint when the process was killed, the other had not.
    for file in sorted(folders[1].glob("step_000000060/*")):
        file.unlink()
    (folders[1] / "step_000000060").rmdir()
    done = command("--resume", run, "--seeds", "3,4")
    assert done.returncode == 0, done.stderr
    for folder, expected in zip(folders, whole, strict=True):
        again = checkpoint.load(checkpoint.latest(folder))[0]
        assert all(tensor.equal(again[name]) for name, tensor in expected.items())
    refused = command("--resume", run, "--seeds", "3,3")
    assert refused.returncode != 0 and "named twice" in refused.stderr
    for option in (("--seed", "5"), ("--seed=5",)):
        refused = command("--config", path, "--run-dir", tmp_path / "x", "--seeds", "3,4", *option)
        assert refused.returncode == 1 and "no meaning with --seeds" in refused.stderr
