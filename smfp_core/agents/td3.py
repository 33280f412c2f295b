# SPDX-License-Identifier: Apache-2.0
"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al., arXiv 1802.09477).

critics  y = R + bootstrap min_i Q'_i(s', clip(mu'(s') + clip(eps, +-0.5)))
actor    L = -Q(s, mu(s)), after every second update of the critics
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smfp_core.agents.base import Agent, Learned
from smfp_core.critics import ActionValue
from smfp_core.gaussian import DeterministicActor
from smfp_core.network import Network, Vectors, adam_slots
from smfp_core.replay import Batch
from smfp_core.td_learning import TwinTd

# Smoothing of the target policy, from the paper (section 6.1).
TARGET_STD, TARGET_CLIP = 0.2, 0.5


class Noise(NamedTuple):
    """Random numbers of one update."""

    next_action: Tensor  # [B, n_act]


class Td3Agent(Agent):
    """The deterministic baseline."""

    POLICY_DELAY = 2

    def build(self) -> Vectors:
        self.actor = Network(DeterministicActor(self.n_obs, self.n_act, self.config.actor_hidden))
        # The paper moves all targets with the actor; the critics' are moved by as much in all.
        rate = self.config.target_rate / self.policy_delay
        self.td = TwinTd(self.config, self.n_obs, self.n_act, rate)
        actor = self.actor.vector
        return {
            "actor": actor,
            "target_actor": actor.clone(),
            **adam_slots("actor", actor),
            **self.td.initial(),
        }

    def draw(self, rows: int) -> Noise:
        return Noise(next_action=self.randn(rows, 1)[:, 0])

    def learn(self, state: Vectors, batch: Batch, noise: Noise, with_actor: bool) -> Learned:
        # Critics.
        smoothing = (TARGET_STD * noise.next_action).clamp(-TARGET_CLIP, TARGET_CLIP)
        next_action = self.actor.at(state["target_actor"])(batch.next_observation) + smoothing
        next_action = next_action.clamp(-1.0, 1.0)
        next_q = self.td.next_value(state)(batch.next_observation, next_action.unsqueeze(1))
        next_q = next_q.squeeze(1)
        new, metrics = self.td.learn(
            state, batch, next_action, next_q, bonus=torch.zeros_like(next_q)
        )
        if not with_actor:
            return new, metrics

        # Actor. The paper takes the first critic; the least of both is as good and is at hand.
        value = self.td.value(state | new)

        def loss_of(vector: Tensor) -> tuple[Tensor, Tensor]:
            action = self.actor.at(vector)(batch.observation)
            return -value(batch.observation, action.unsqueeze(1)).mean(), action

        gradient, (loss, action) = torch.func.grad_and_value(loss_of, has_aux=True)(state["actor"])
        new |= self.descend_actor(state, gradient)
        new["target_actor"] = torch.lerp(
            state["target_actor"], new["actor"], self.config.target_rate
        )
        clipped = (action.abs() > 0.99).float().mean()
        return new, metrics | {"actor_loss": loss, "q_mean": -loss, "clipped_share": clipped}

    def policy(self, observation: Tensor, noise: Tensor) -> Tensor:
        """mu(s), whatever the noise."""
        return self.actor.module(observation).unsqueeze(1).expand_as(noise)

    def draw_explore(self, rows: int) -> Tensor:
        return self.randn(rows, 1).squeeze(1)

    def explore(self, actor: Any, value: ActionValue, observation: Tensor, noise: Tensor) -> Tensor:
        """mu(s) with Gaussian noise of ``exploration_std``."""
        return (actor(observation) + self.config.exploration_std * noise).clamp(-1.0, 1.0)
