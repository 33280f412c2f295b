# SPDX-License-Identifier: Apache-2.0
"""One training run: collect, update, log, evaluate, write checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from smfp_core import checkpoint
from smfp_core.agents import make_agent
from smfp_core.atomic import write_atomically
from smfp_core.collector import (
    EVALUATION,
    NOISE_CHOICE,
    Collector,
    episode_seed,
    evaluation_envs,
    make_env,
    sizes,
)
from smfp_core.config import TrainConfig
from smfp_core.contract import keep_contract
from smfp_core.episodes import play
from smfp_core.evaluate import agent_policies, summed_up
from smfp_core.progress import RunLog
from smfp_core.replay import Batch, MultiStep, ReplayBuffer, ReplayError

_NOISE_EPISODES = 2
"""Episodes that a noise vector is tried on before the end of training."""


Clock = Callable[[], float]
"""Seconds that training has taken, evaluations included, stops not."""


def clock_from(wall_s: float) -> Clock:
    """A clock that reads ``wall_s`` now, and goes on."""
    started = time.monotonic()
    return lambda: wall_s + time.monotonic() - started


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
        self.eval_envs = evaluation_envs(config, config.eval_episodes)
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
        clock = clock_from(self.wall_s)
        while self.step < config.steps and not self.stop_requested:
            self.advance(log)
            self.keep_up(log, clock)
            self.save_if_due()
        return self.finish()

    def advance(self, log: RunLog) -> None:
        """One step of the environment, and the updates that are due after it."""
        action = self.random_action() if self.warming_up else None
        self.collect(self.agent.act(self.collector.observation) if action is None else action, log)
        for _ in range(self.updates_due):
            self.agent.update(self.draw_batch())

    @property
    def warming_up(self) -> bool:
        """Whether the next action is a random one."""
        return self.step < self.config.warmup_steps

    @property
    def updates_due(self) -> int:
        """Updates after the step just made."""
        config = self.config
        due = self.step > config.warmup_steps and self.step % config.update_every == 0
        return config.updates_per_round if due else 0

    def random_action(self) -> NDArray[np.float32]:
        """Uniform in the box, [n_act]."""
        return self.rng.uniform(-1.0, 1.0, self.n_act).astype(np.float32)

    def draw_batch(self) -> Batch:
        """Transitions for one update."""
        return self.replay.sample(self.config.batch_size, self.rng)

    def collect(self, action: NDArray[np.float32], log: RunLog) -> None:
        """Step the environment and keep the transition.

        Raises:
            TrainingError: the action, or what the environment answers, is not finite, or too great
                for the replay buffer.
        """
        if not np.isfinite(action).all():
            raise self._not_finite(["action", *self.agent.non_finite()])
        transition = self.collector.step(action)
        if not np.isfinite(transition.next_observation).all() or not math.isfinite(
            transition.reward
        ):
            raise self._not_finite(["observation or reward of the environment"])
        self.agent.normalizer.update(transition.observation)
        try:
            self.multi_step.add(*transition[:-1])
        except ReplayError as error:
            raise TrainingError(f"by step {self.step}: {error}") from error
        if transition.terminated or transition.truncated:
            log.episode(transition.info["episode_return"], transition.info.get("is_success"))
        self.step += 1

    def keep_up(self, log: RunLog, clock: Clock) -> None:
        """Log and evaluate where the step just made asks for it."""
        config = self.config
        self.wall_s = clock()
        if self.step % config.log_every == 0:
            log.training(self.step, self.wall_s, self._checked(self.agent.metrics))
        if self.step % config.eval_every == 0 or self.step == config.steps:
            self._evaluate(log)
            self.wall_s = clock()

    def save_if_due(self) -> None:
        """Write a checkpoint where the step just made asks for it."""
        if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
            self.save()

    def finish(self) -> bool:
        """End a run that is at its last step, or is to stop before; whether it is complete."""
        if self.step < self.config.steps:
            self.save()
            return False
        return True

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
        choose = self.agent.CHOOSES_NOISE
        noise = self._choose_noise() if choose else np.zeros(self.n_act, np.float32)
        seeds = [
            episode_seed(self.config.seed, EVALUATION, i) for i in range(self.config.eval_episodes)
        ]
        value = (self.agent.q, self.config.discount)
        for mode, policy in agent_policies(self.agent, noise).items():
            episodes = play(self.eval_envs, policy, seeds)
            log.evaluation(self.step, self.wall_s, summed_up(mode, episodes, value))

    def _choose_noise(self) -> NDArray[np.float32]:
        """The deterministic mode's noise [n_act]: the best of some draws and zero, by mean return.

        Tried on episodes of their own: a few on the way, as many as an evaluation's at the end.
        """
        rng = np.random.default_rng([self.config.seed, NOISE_CHOICE])
        choices = rng.standard_normal((self.config.noise_choices, self.n_act)).astype(np.float32)
        choices[0] = 0.0
        last = self.step == self.config.steps
        episodes = range(self.config.eval_episodes if last else _NOISE_EPISODES)
        seeds = [episode_seed(self.config.seed, NOISE_CHOICE, i) for i in episodes]
        returns: list[float] = []
        if len(choices) > 1:
            tried = np.repeat(choices, len(seeds), 0)  # each on all of these episodes
            played = play(
                self.eval_envs,
                lambda o, episodes: self.agent.sample_batch(o, tried[[e.index for e in episodes]]),
                seeds * len(choices),
            )
            totals = np.array([episode.total for episode in played])
            returns = totals.reshape(len(choices), -1).mean(1).tolist()
        best = choices[int(np.argmax(returns)) if returns else 0]
        record = {"noise": best.tolist(), "returns": returns, "step": self.step}
        write_atomically(self.folder / "deterministic_noise.json", json.dumps(record))
        return best

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

    def restore(self, step: int | None = None) -> None:
        """Go back to the checkpoint of a step, or to the newest.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        folder = self.folder / "checkpoints"
        path = checkpoint.latest(folder) if step is None else checkpoint.path_of(folder, step)
        tensors, arrays, values = checkpoint.load(path)
        self.agent.restore(tensors)
        self.replay.restore(checkpoint.under(arrays, "replay"))
        self.multi_step.restore(checkpoint.under(arrays, "multi_step"))
        self.collector.restore(checkpoint.under(arrays, "collector"))
        self.rng.bit_generator.state = values["rng"]
        self.step, self.wall_s = values["step"], values["wall_s"]
        checkpoint.drop_after(folder, self.step)
