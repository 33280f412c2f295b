# SPDX-License-Identifier: Apache-2.0
"""Soft Actor-Critic (Haarnoja et al., arXiv 1812.05905), with an automatic temperature.

critics      y = R + bootstrap (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi
actor        L = alpha log pi(a|s) - min_i Q_i(s, a),  a ~ pi by reparameterisation
temperature  alpha moves the policy's entropy to its target
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smfp_core.agents.base import Agent, Learned
from smfp_core.critics import ActionValue
from smfp_core.gaussian import TanhGaussianActor
from smfp_core.network import Network, Vectors, adam_slots
from smfp_core.replay import Batch
from smfp_core.td_learning import TdLearner, TwinTd


class Noise(NamedTuple):
    """Random numbers of one update."""

    next_action: Tensor  # [B, 1, n_act]
    action: Tensor  # [B, 1, n_act]


class SacAgent(Agent):
    """The tanh Gaussian baseline."""

    def build(self) -> Vectors:
        self.actor = Network(TanhGaussianActor(self.n_obs, self.n_act, self.config.actor_hidden))
        self.td = self.make_td()
        actor = self.actor.vector
        log_alpha = torch.tensor(self.config.initial_temperature).log()
        return {
            "actor": actor,
            "log_alpha": log_alpha,
            **adam_slots("actor", actor),
            **adam_slots("log_alpha", log_alpha),
            **self.td.initial(),
        }

    def make_td(self) -> TdLearner:
        """Twin critics with targets."""
        return TwinTd(self.config, self.n_obs, self.n_act)

    def draw(self, rows: int) -> Noise:
        return Noise(next_action=self.randn(rows, 1), action=self.randn(rows, 1))

    def learn(self, state: Vectors, batch: Batch, noise: Noise, with_actor: bool) -> Learned:
        alpha = state["log_alpha"].exp()

        # Critics.
        next_action, next_log_prob = self.actor.at(state["actor"])(
            batch.next_observation, noise.next_action
        )
        next_q = self.td.next_value(state)(batch.next_observation, next_action)
        new, metrics = self.td.learn(
            state,
            batch,
            next_action=next_action.squeeze(1),
            next_q=next_q.squeeze(1),
            bonus=-alpha * next_log_prob.squeeze(1),
        )
        if not with_actor:
            return new, metrics

        # Actor.
        value = self.td.value(state | new)

        def loss_of(vector: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
            action, log_prob = self.actor.at(vector)(batch.observation, noise.action)
            q = value(batch.observation, action)
            return (alpha * log_prob - q).mean(), (log_prob.mean(), q.mean(), action)

        gradient, (loss, (log_prob, q, action)) = torch.func.grad_and_value(loss_of, has_aux=True)(
            state["actor"]
        )
        new |= self.descend_actor(state, gradient)

        # Temperature.
        new |= self.learn_temperature(state, -log_prob)
        clipped = (action.abs() > 0.99).float().mean()
        metrics |= {"sac_loss": loss, "q_mean": q, "alpha": alpha, "entropy": -log_prob}
        return new, metrics | {"clipped_share": clipped}

    def policy(self, observation: Tensor, noise: Tensor) -> Tensor:
        """tanh(mean + std e): zero noise is the mean action."""
        return self.actor.module(observation, noise)[0]

    def draw_explore(self, rows: int) -> Tensor:
        return self.randn(rows, 1)

    def explore(self, actor: Any, value: ActionValue, observation: Tensor, noise: Tensor) -> Tensor:
        """One draw of the policy."""
        return actor(observation, noise)[0].squeeze(1)
