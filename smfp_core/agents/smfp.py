# SPDX-License-Identifier: Apache-2.0
"""Stochastic MeanFlow Policies, trained off-policy by entropic mirror descent.

One update, top to bottom in ``SmfpAgent.learn``:

    critics      y = R + bootstrap (min_i Q'_i(s', a') - alpha log pi(a'|s'))
    actor        L = L_SAC + lambda (alpha + beta) L_Mirror + bound penalty      (objective.py)
    temperature  alpha moves the policy's entropy to its target
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smfp_core.agents.base import Agent, Learned
from smfp_core.critics import ActionValue
from smfp_core.meanflow import MeanFlowActor
from smfp_core.network import Network, Vectors, adam_slots
from smfp_core.objective import ActorNoise, ActorOptions, actor_objective, propose
from smfp_core.replay import Batch
from smfp_core.td_learning import make_td


class SmfpAgent(Agent):
    """The one-step policy of this project."""

    POLICY_DELAY = 2
    CHOOSES_NOISE = True

    def build(self) -> Vectors:
        config = self.config
        self.options = ActorOptions(
            entropy=config.entropy,
            mirror=config.mirror,
            candidates=config.loss_candidates,
            density_draws=config.density_draws,
            mirror_weight=config.mirror_weight,
            mirror_step=config.mirror_step,
            bound_penalty=config.bound_penalty,
        )
        self._module = self.make_actor()
        self.actor = Network(self._module)
        self.td = make_td(config, self.n_obs, self.n_act)
        actor = self.actor.vector
        log_alpha = torch.tensor(config.initial_temperature).log()
        return {
            "actor": actor,
            "previous_actor": actor.clone(),
            "log_alpha": log_alpha,
            "q_scale": torch.zeros(()),
            **adam_slots("actor", actor),
            **adam_slots("log_alpha", log_alpha),
            **self.td.initial(),
        }

    def make_actor(self) -> MeanFlowActor:
        """The policy's network."""
        return MeanFlowActor(self.n_obs, self.n_act, self.config.actor_hidden)

    def draw(self, rows: int) -> ActorNoise:
        return ActorNoise.draw(rows, self.n_act, self.options, self.generator, self.device)

    def learn(self, state: Vectors, batch: Batch, noise: ActorNoise, with_actor: bool) -> Learned:
        alpha = state["log_alpha"].exp()

        # K candidates of pi_k at s', for both the critics and the mirror step. Where the episode
        # ended nothing follows s', and no critic knows its value: there they are drawn at s.
        ended = (batch.bootstrap == 0).unsqueeze(1)
        proposals = propose(
            self.actor.at(state["previous_actor"]),
            torch.where(ended, batch.observation, batch.next_observation),
            self.td.next_value(state),
            noise,
            self.options,
        )

        # Critics: the next action is the best of half as many candidates as are drawn to act.
        best = proposals.q[:, : max(1, self.config.act_candidates // 2)].argmax(-1, keepdim=True)
        new, metrics = self.td.learn(
            state,
            batch,
            next_action=torch.take_along_dim(proposals.actions, best.unsqueeze(-1), 1).squeeze(1),
            next_q=torch.take_along_dim(proposals.q, best, 1).squeeze(1),
            bonus=-alpha * torch.take_along_dim(proposals.log_prob, best, 1).squeeze(1),
        )
        if not with_actor:
            return new, metrics

        # Actor: L_SAC and L_Mirror, with the critics just learned.
        value = self.td.value(state | new)

        def loss_of(vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return actor_objective(
                self.actor.at(vector),
                proposals,
                batch.observation,
                value,
                alpha,
                state["q_scale"],
                noise,
                self.options,
            )

        gradient, (_, watched) = torch.func.grad_and_value(loss_of, has_aux=True)(state["actor"])
        new |= self.descend_actor(state, gradient)
        new["q_scale"] = watched["q_scale"]
        # pi_k, the previous policy, is a moving average of the actor.
        new["previous_actor"] = torch.lerp(
            state["previous_actor"], new["actor"], self.config.previous_rate
        )

        # Temperature.
        entropy = -watched.pop("log_prob")
        new |= self.learn_temperature(state, entropy)
        return new, metrics | watched | {"alpha": alpha, "entropy": entropy}

    def policy(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The one-step sample clip(g(s, e, 1))."""
        return self._module.mean(observation, noise).clamp(-1.0, 1.0)

    def draw_explore(self, rows: int) -> tuple[Tensor, Tensor]:
        count = self.config.act_candidates
        return self.randn(rows, count), self.randn(rows, count)

    def explore(
        self, actor: Any, value: ActionValue, observation: Tensor, noise: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Of ``act_candidates`` draws the best by Q."""
        means, log_std = actor.mean(observation, noise[0]), actor.log_std(observation)
        actions = (means + log_std.exp().unsqueeze(1) * noise[1]).clamp(-1.0, 1.0)
        best = value(observation, actions).argmax(-1, keepdim=True)
        return torch.take_along_dim(actions, best.unsqueeze(-1), 1).squeeze(1)
