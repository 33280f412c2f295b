# SPDX-License-Identifier: Apache-2.0
"""Train a policy: python -m smfp_core.train --config config/train/ur5e_reach.yaml [--seed 1]

Any field of the configuration can be given by name. ``--resume RUN`` goes on with a run that was
stopped, however it was stopped, and gives the numbers it would have given without the stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import tyro
import yaml

from smfp_core import checkpoint
from smfp_core.agents import make_agent
from smfp_core.atomic import write_atomically
from smfp_core.collector import (
    EVALUATION,
    NOISE_CHOICE,
    Collector,
    episode_seed,
    make_env,
    sizes,
)
from smfp_core.config import TrainConfig, load_config
from smfp_core.contract import keep_contract
from smfp_core.evaluate import agent_policies, deterministic, run_episodes
from smfp_core.progress import RunLog
from smfp_core.provenance import keep_provenance
from smfp_core.replay import MultiStep, ReplayBuffer
from smfp_core.strict import ConfigError, to_mapping


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is kept."""


class Trainer:
    """One run: environment, agent, buffer, logs and checkpoints in one folder.

    Owned by the main thread. ``stop_requested`` may be set by a signal handler: the run then
    writes a checkpoint after the current step and returns.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.env = make_env(config.env_id, config.env_kwargs)
        keep_contract(folder, self.env)
        self.eval_env = make_env(config.env_id, config.env_kwargs)
        n_obs, self.n_act = sizes(self.env)
        self.agent = make_agent(config, n_obs, self.n_act)
        self.replay = ReplayBuffer(
            min(config.replay_capacity, config.steps),
            n_obs,
            self.n_act,
            np.float16 if config.replay_dtype == "float16" else np.float32,
        )
        self.multi_step = MultiStep(self.replay, config.n_step, config.discount)
        self.rng = np.random.default_rng(config.seed)
        self.collector = Collector(self.env, config.seed)
        self.step = 0
        self.wall_s = 0.0
        self.stop_requested = False

    def run(self, log: RunLog) -> bool:
        """Train to the end; True if it got there, False if a stop was requested."""
        config = self.config
        started, wall_before = time.monotonic(), self.wall_s
        while self.step < config.steps and not self.stop_requested:
            metrics = self._advance(log)
            self.wall_s = wall_before + time.monotonic() - started
            if self.step % config.log_every == 0:
                log.training(self.step, self.wall_s, self._checked(metrics))
            if self.step % config.eval_every == 0 or self.step == config.steps:
                self._evaluate(log)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save()
        if self.step < config.steps:
            self.save()
            return False
        if self.agent.CHOOSES_NOISE:
            self._choose_noise()
        return True

    def _advance(self, log: RunLog) -> dict[str, torch.Tensor]:
        config = self.config
        if self.step < config.warmup_steps:
            action = self.rng.uniform(-1.0, 1.0, self.n_act).astype(np.float32)
        else:
            action = self.agent.act(self.collector.observation)
        if not np.isfinite(action).all():
            raise self._not_finite(["action", *self.agent.non_finite()])
        transition = self.collector.step(action)
        if not np.isfinite(transition.next_observation).all() or not math.isfinite(
            transition.reward
        ):
            raise self._not_finite(["observation or reward of the environment"])
        self.agent.normalizer.update(torch.from_numpy(transition.observation))
        self.multi_step.add(*transition[:-1])
        if transition.terminated or transition.truncated:
            log.episode(transition.info["episode_return"], transition.info.get("is_success"))
        self.step += 1
        metrics: dict[str, torch.Tensor] = {}
        if self.step > config.warmup_steps and self.step % config.update_every == 0:
            for _ in range(config.updates_per_round):
                metrics = self.agent.update(self.replay.sample(config.batch_size, self.rng))
        return metrics

    def _checked(self, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
        """The metrics as numbers.

        Raises:
            TrainingError: one of them, or something that learning wrote, is not finite.
        """
        values = {name: float(value) for name, value in metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        broken += self.agent.non_finite()
        if broken:
            raise self._not_finite(broken)
        return values

    def _not_finite(self, names: list[str]) -> TrainingError:
        return TrainingError(
            f"not finite by step {self.step}: {', '.join(names)}. The last good checkpoint in "
            f"{self.folder / 'checkpoints'} is kept. If it is not the environment's doing, try a "
            "smaller learning rate."
        )

    def _evaluate(self, log: RunLog) -> None:
        noise = np.zeros(self.n_act, np.float32)
        seeds = [
            episode_seed(self.config.seed, EVALUATION, i) for i in range(self.config.eval_episodes)
        ]
        value = (self.agent.q, self.config.discount)
        for mode, policy in agent_policies(self.agent, noise).items():
            result = run_episodes(self.eval_env, mode, policy, seeds, value)
            log.evaluation(self.step, self.wall_s, result)

    def _choose_noise(self) -> None:
        """Fix the deterministic mode's noise: the best of some draws and zero, by mean return."""
        rng = np.random.default_rng([self.config.seed, NOISE_CHOICE])
        choices = rng.standard_normal((self.config.noise_choices, self.n_act)).astype(np.float32)
        choices[0] = 0.0
        episodes = range(self.config.eval_episodes)
        seeds = [episode_seed(self.config.seed, NOISE_CHOICE, i) for i in episodes]
        returns = [
            run_episodes(
                self.eval_env, "deterministic", deterministic(self.agent, choice), seeds
            ).return_mean
            for choice in choices
        ]
        record = {
            "noise": choices[int(np.argmax(returns))].tolist(),
            "returns": returns,
        }
        write_atomically(self.folder / "deterministic_noise.json", json.dumps(record))

    def save(self) -> None:
        """Write a checkpoint of everything that decides what comes next.

        Raises:
            TrainingError: something in it is not finite; nothing is written.
        """
        self._checked({})
        arrays = {f"replay.{k}": v for k, v in self.replay.state().items()}
        arrays |= {f"multi_step.{k}": v for k, v in self.multi_step.state().items()}
        arrays |= {f"collector.{k}": v for k, v in self.collector.state().items()}
        values = {"rng": checkpoint.generator_state(self.rng), "wall_s": self.wall_s}
        checkpoint.save(
            self.folder / "checkpoints", self.step, self.agent.tensors(), arrays, values
        )

    def restore(self) -> None:
        """Go back to the newest checkpoint.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        path = checkpoint.latest(self.folder / "checkpoints")
        tensors, arrays, values = checkpoint.load(path)
        self.agent.restore(tensors)
        self.replay.restore(checkpoint.under(arrays, "replay"))
        self.multi_step.restore(checkpoint.under(arrays, "multi_step"))
        self.collector.restore(checkpoint.under(arrays, "collector"))
        self.rng.bit_generator.state = values["rng"]
        self.step, self.wall_s = values["step"], values["wall_s"]


def parse_arguments(arguments: list[str]) -> tuple[TrainConfig, Path, bool]:
    """Configuration, run folder, and whether to resume.

    Raises:
        ConfigError: names the file, field or folder that is wrong.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resume", type=Path)
    known, rest = parser.parse_known_args(arguments)
    source = known.resume / "config.yaml" if known.resume else known.config
    if source is None and not {"-h", "--help"} & set(rest):
        raise ConfigError(
            "--config: missing; give a YAML, for example config/train/ur5e_reach.yaml"
        )
    default = load_config(source) if source else TrainConfig(env_id="smfp_sim.tasks:smfp/Reach-v0")
    description = (
        f"{__doc__}\n\n--config PATH: YAML with any of the fields below.\n"
        "--run-dir PATH: folder of the run (default runs/<config>_seed<seed>).\n"
        "--resume PATH: go on with the run in this folder."
    )
    config = tyro.cli(
        TrainConfig,
        args=rest,
        default=default,
        description=description,
        prog="python -m smfp_core.train",
    )
    if known.resume:
        if dataclasses.replace(config, steps=default.steps) != default:
            raise ConfigError("--resume: only --steps may be changed; start a new run for the rest")
        return config, known.resume, True
    name = f"{known.config.stem}_seed{config.seed}"
    return config, known.run_dir or Path("runs") / name, False


def main() -> None:
    """Entry point of ``python -m smfp_core.train``."""
    # Small networks: a second thread gains little, and its spinning stalls when anything else
    # runs. One thread also makes sums, and so runs, repeatable to the bit.
    torch.set_num_threads(1)
    try:
        config, folder, resume = parse_arguments(sys.argv[1:])
        if not resume and (folder / "checkpoints").exists():
            raise ConfigError(
                f"{folder}: holds a run already; --resume it, or give another --run-dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(to_mapping(config), sort_keys=False)
        write_atomically(folder / "config.yaml", text)
        trainer = Trainer(config, folder)
        if resume:
            trainer.restore()
        keep_provenance(folder, "smfp_core.train")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

    def request_stop(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    with RunLog(folder, config.steps, trainer.step) as log:
        try:
            finished = trainer.run(log)
        except TrainingError as error:
            sys.exit(f"error: {error}")
    if not finished:
        print(
            f"stopped at step {trainer.step}; go on with: --resume {folder}",
            file=sys.stderr,
        )
        sys.exit(130)
    print(json.dumps({"run": os.fspath(folder), "wall_s": round(trainer.wall_s, 1)}))


if __name__ == "__main__":
    main()
