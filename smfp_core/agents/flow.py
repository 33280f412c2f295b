# SPDX-License-Identifier: Apache-2.0
"""A multi-step flow policy: SMFP's algorithm with the flow integrated in n steps.

It differs from SMFP in two places. The network learns the instantaneous velocity (flow matching,
arXiv 2210.02747) in place of the average one; and a sample takes n evaluations, through all of
which the pathwise gradient of L_SAC passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smfp_core.agents.smfp import SmfpAgent
from smfp_core.meanflow import MeanFlowActor


class FlowActor(MeanFlowActor):
    """The same network as SMFP's, read as a velocity field v(s, a_t, t) = a_t - g(s, a_t, t)."""

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...], steps: int) -> None:
        super().__init__(n_obs, n_act, hidden)
        self.steps = steps

    def mean(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Euler's method from t = 1 (noise) to t = 0 (action), [B, K, n_act]."""
        action = noise
        for k in range(self.steps):
            time = torch.full_like(noise[..., :1], 1.0 - k / self.steps)
            velocity = action - self(observation, action, time)
            action = action - velocity / self.steps
        return action

    def with_tangent(
        self, observation: Tensor, z: Tensor, t: Tensor, z_tangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """g, and the derivative that turns MeanFlow's target into flow matching's.

        With dg/dt = v the identity ``g = a_t + (t - 1) v - t dg/dt`` reads ``g = a_t - v``.
        """
        return self(observation, z, t), z_tangent


class FlowAgent(SmfpAgent):
    """SMFP with a policy of ``flow_steps`` network evaluations."""

    def make_actor(self) -> FlowActor:
        config = self.config
        return FlowActor(self.n_obs, self.n_act, config.actor_hidden, config.flow_steps)
