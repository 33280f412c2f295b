# SPDX-License-Identifier: Apache-2.0
"""Several seeds of one configuration in one process, their updates batched into one.

Each seed has its own folder, environment, buffer, noise and logs, and gives the numbers of a run of
its own up to rounding; only the networks' arithmetic is shared, with ``torch.vmap``. On a GPU,
which one seed leaves mostly idle, n seeds then cost little more than one. On a CPU processes side
by side are faster (``python -m smfp_core.compare``).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from smfp_core import checkpoint
from smfp_core.agents.base import in_place
from smfp_core.checkpoint import CheckpointError
from smfp_core.compiled import compiled
from smfp_core.network import Vectors
from smfp_core.progress import RunLog
from smfp_core.trainer import Trainer, clock_from


class SeedTrainer:
    """Trainers of the same configuration, seed aside, in step.

    ``state`` holds every vector of all seeds with a leading dimension; each agent computes with
    its slice of it.
    """

    def __init__(self, trainers: list[Trainer]) -> None:
        configs = [dataclasses.replace(t.config, seed=0) for t in trainers]
        if any(config != configs[0] for config in configs):
            raise ValueError("trainers must have the same configuration, seed aside")
        self.trainers = trainers
        agents = [t.agent for t in trainers]
        self.state: Vectors = {
            name: torch.stack([agent.state[name] for agent in agents]) for name in agents[0].state
        }
        for i, agent in enumerate(agents):
            agent.attach({name: value[i] for name, value in self.state.items()})
        self._agent = agents[0]
        # Over the seeds: state, batch and noise; whether the actor learns is the same for all.
        learn = torch.vmap(self._agent.learn_in_precision, in_dims=(0, 0, 0, None))
        self._step, self._choose = in_place(learn), torch.vmap(self._agent.explored)
        if self._agent.config.compile:
            self._step, self._choose = compiled(self._step), compiled(self._choose)
        self.stop_requested = False

    @property
    def step(self) -> int:
        """Environment steps of each seed so far."""
        return self.trainers[0].step

    @property
    def wall_s(self) -> float:
        """Time that training has taken, earlier calls included."""
        return self.trainers[0].wall_s

    def restore(self) -> None:
        """Go back to the newest checkpoint that all seeds have.

        Raises:
            CheckpointError: there is none.
        """
        found = [checkpoint.steps(t.folder / "checkpoints") for t in self.trainers]
        common = set.intersection(*found)
        if not common:
            folders = ", ".join(str(t.folder) for t in self.trainers)
            raise CheckpointError(
                f"{folders}: no step that all of them have a checkpoint of; remove them to begin "
                "anew"
            )
        for trainer in self.trainers:
            trainer.restore(max(common))

    def run(self, logs: list[RunLog]) -> bool:
        """Train to the end; True if all got there, False if a stop was requested."""
        clock = clock_from(self.wall_s)
        while self.step < self._agent.config.steps and not self.stop_requested:
            self._advance(logs)
            for trainer, log in zip(self.trainers, logs, strict=True):
                trainer.keep_up(log, clock)
            # One after the other, without an evaluation between: a kill leaves them at one step.
            for trainer in self.trainers:
                trainer.save_if_due()
        return all([trainer.finish() for trainer in self.trainers])

    def _advance(self, logs: list[RunLog]) -> None:
        if self.trainers[0].warming_up:
            actions = [t.random_action() for t in self.trainers]
        else:
            actions = self._explore()
        for trainer, action, log in zip(self.trainers, actions, logs, strict=True):
            trainer.collect(action, log)
        for _ in range(self.trainers[0].updates_due):
            self._update()

    def _explore(self) -> list[Any]:
        agents = [t.agent for t in self.trainers]
        observations = [t.agent.normal_rows(t.collector.observation[None]) for t in self.trainers]
        noise = stacked([agent.draw_explore(1) for agent in agents])
        return list(self._choose(self.state, torch.stack(observations), noise)[:, 0].cpu().numpy())

    def _update(self) -> None:
        agents = [t.agent for t in self.trainers]
        batch = stacked([t.agent.prepared(t.draw_batch()) for t in self.trainers])
        noise = stacked([agent.draw(self._agent.config.batch_size) for agent in agents])
        metrics = self._step(self.state, batch, noise, self._agent.acts_next)
        for i, trainer in enumerate(self.trainers):
            trainer.agent.updated({k: v[i] for k, v in metrics.items()})


def stacked(items: list[Any]) -> Any:
    """Tensors, or equal tuples of them, with a leading dimension over ``items``."""
    first = items[0]
    if isinstance(first, Tensor):
        return torch.stack(items)
    parts = [stacked(list(part)) for part in zip(*items, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
