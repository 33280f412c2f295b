# SPDX-License-Identifier: Apache-2.0
"""Playing episodes with a policy, several side by side, so that the policy acts on all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from smfp_core.specs import Float32


class Episode:
    """One episode on its way.

    Attributes:
        index: its place among the seeds that were asked for.
        rng: of the policy's noise in it, from the seed of the environment's reset.
        observation: the present one, [n_obs].
        rewards: of the steps so far.
        first: the first observation [n_obs] and action [n_act]; None before it.
        info: of the last step.
        done: whether it has ended.
    """

    def __init__(self, index: int, seed: int, env: gymnasium.Env) -> None:
        self.index, self._env = index, env
        # The seed alone gives the environment's own stream: the noise would repeat the start.
        self.rng = np.random.default_rng([seed, 1])
        self.observation = np.asarray(env.reset(seed=seed)[0], np.float32)
        self.rewards: list[float] = []
        self.first: tuple[Float32, Float32] | None = None
        self.info: dict[str, Any] = {}
        self.done = False

    @property
    def total(self) -> float:
        """The return, undiscounted."""
        return sum(self.rewards)

    def step(self, action: Float32) -> None:
        """Apply ``action`` [n_act]."""
        if self.first is None:
            self.first = self.observation, np.array(action)
        raw, reward, terminated, truncated, self.info = self._env.step(action)
        self.observation = np.asarray(raw, np.float32)
        self.rewards.append(float(reward))
        self.done = terminated or truncated


Policy = Callable[[Float32, Sequence[Episode]], Float32]
"""(observations [N, n_obs], the episodes that they are of) to actions [N, n_act]."""


def play(envs: Sequence[gymnasium.Env], policy: Policy, seeds: Sequence[int]) -> list[Episode]:
    """Play one episode a seed, as many side by side as there are environments.

    An action may depend, in its last digit, on how many episodes the policy acts on with it.

    Args:
        envs: from ``make_env``, all of one task.
        policy: what acts.
        seeds: seeds of the episodes, and of the policy's noise in them.

    Returns:
        The episodes, ended, in the order of their seeds.
    """
    episodes: list[Episode] = []
    for begin in range(0, len(seeds), len(envs)):
        places = zip(envs, seeds[begin:], strict=False)  # as many as the shorter one has
        group = [Episode(begin + i, seed, env) for i, (env, seed) in enumerate(places)]
        episodes += group
        while going := [episode for episode in group if not episode.done]:
            actions = policy(np.stack([episode.observation for episode in going]), going)
            for episode, action in zip(going, actions, strict=True):
                episode.step(action)
    return episodes
