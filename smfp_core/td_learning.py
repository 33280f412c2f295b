# SPDX-License-Identifier: Apache-2.0
"""How critics learn from transitions: with target networks, or as CrossQ does without.

A TD target is ``y = R + bootstrap (min_i Q_i(s', a') + bonus)``; the bonus is the entropy's share,
``-alpha log pi(a'|s')``, or 0. R is the discounted reward over the transition's steps, bootstrap
the discount to their number, and 0 after a termination. A time limit is bootstrapped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from smfp_core.config import TrainConfig
from smfp_core.critics import ActionValue, Critics, RenormCritics
from smfp_core.network import Network, Vectors, adam, adam_slots
from smfp_core.replay import Batch


class TdLearner(ABC):
    """Critics and their learning step, a pure function of the agent's vectors."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.network: Network

    @abstractmethod
    def initial(self) -> Vectors:
        """What the agent's state holds for the critics before the first step."""

    @abstractmethod
    def rating(self, critics: Any, state: Vectors) -> ActionValue:
        """Q of ``critics``, a module or a functional view of one."""

    def value(self, state: Vectors) -> ActionValue:
        """Q of the critics in training, as a function of ``state``."""
        return self.rating(self.network.at(state["critics"]), state)

    @abstractmethod
    def next_value(self, state: Vectors) -> ActionValue:
        """Q that the next state's action is chosen by."""

    @abstractmethod
    def learn(
        self, state: Vectors, batch: Batch, next_action: Tensor, next_q: Tensor, bonus: Tensor
    ) -> tuple[Vectors, dict[str, Tensor]]:
        """One step.

        Args:
            state: the agent's vectors.
            batch: transitions; observations normalised.
            next_action: a', [B, n_act], in the box.
            next_q: ``next_value`` of a', [B].
            bonus: added to it, [B].

        Returns:
            The entries of ``state`` that changed, and scalars to log.
        """

    def _descend(self, state: Vectors, gradient: Tensor) -> Vectors:
        config = self.config
        return adam(state, "critics", gradient, config.critic_learning_rate, config.adam_momentum)


class TwinTd(TdLearner):
    """Twin critics with a moving average of them as targets (SAC, TD3, SMFP's default)."""

    def __init__(
        self, config: TrainConfig, n_obs: int, n_act: int, target_rate: float | None = None
    ) -> None:
        super().__init__(config)
        self._target_rate = target_rate or config.target_rate
        hidden, layer_norm = config.critic_hidden, config.critic_layer_norm
        self.network = Network(Critics(n_obs, n_act, hidden, layer_norm))

    def initial(self) -> Vectors:
        vector = self.network.vector
        return {
            "critics": vector,
            "target_critics": vector.clone(),
            **adam_slots("critics", vector),
        }

    def rating(self, critics: Any, state: Vectors) -> ActionValue:
        return critics.least

    def next_value(self, state: Vectors) -> ActionValue:
        return self.rating(self.network.at(state["target_critics"]), state)

    def learn(
        self, state: Vectors, batch: Batch, next_action: Tensor, next_q: Tensor, bonus: Tensor
    ) -> tuple[Vectors, dict[str, Tensor]]:
        target = batch.reward + batch.bootstrap * (next_q + bonus)

        def loss_of(vector: Tensor) -> Tensor:
            q = self.network.at(vector)(batch.observation, batch.action)
            return (q - target).square().mean(-1).sum()

        gradient, loss = torch.func.grad_and_value(loss_of)(state["critics"])
        new = self._descend(state, gradient)
        new["target_critics"] = torch.lerp(
            state["target_critics"], new["critics"], self._target_rate
        )
        return new, {"critic_loss": loss}


class CrossQTd(TdLearner):
    """CrossQ (arXiv 1902.05605): BatchRenorm over both halves of a transition, no targets.

    Values of (s, a) and (s', a') come from one pass over the joint batch, so that the batch
    statistics are of both distributions of actions; the second half carries no gradient.
    """

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int) -> None:
        super().__init__(config)
        self._critics = RenormCritics(n_obs, n_act, config.critic_hidden)
        self.network = Network(self._critics)

    def initial(self) -> Vectors:
        vector = self.network.vector
        return {
            "critics": vector,
            "critic_statistics": self._critics.initial_statistics(),
            **adam_slots("critics", vector),
        }

    def rating(self, critics: Any, state: Vectors) -> ActionValue:
        statistics = state["critic_statistics"]
        return lambda observation, actions: critics.least(observation, actions, statistics)

    def next_value(self, state: Vectors) -> ActionValue:
        return self.value(state)

    def learn(
        self, state: Vectors, batch: Batch, next_action: Tensor, next_q: Tensor, bonus: Tensor
    ) -> tuple[Vectors, dict[str, Tensor]]:
        observation = torch.cat([batch.observation, batch.next_observation])
        action = torch.cat([batch.action, next_action])
        rows = len(batch.reward)

        def loss_of(vector: Tensor) -> tuple[Tensor, Tensor]:
            both, statistics = self.network.at(vector).train_values(
                observation, action, state["critic_statistics"]
            )
            q, following = both[:, :rows], both[:, rows:].detach()
            target = batch.reward + batch.bootstrap * (following.amin(0) + bonus)
            return (q - target).square().mean(-1).sum(), statistics

        gradient, (loss, statistics) = torch.func.grad_and_value(loss_of, has_aux=True)(
            state["critics"]
        )
        new = self._descend(state, gradient)
        new["critic_statistics"] = statistics
        return new, {"critic_loss": loss}


def make_td(config: TrainConfig, n_obs: int, n_act: int) -> TdLearner:
    """The learner that ``config.critic`` names."""
    kind = {"twin": TwinTd, "crossq": CrossQTd}[config.critic]
    return kind(config, n_obs, n_act)
