# SPDX-License-Identifier: Apache-2.0
"""The residual MeanFlow policy: its map, the MeanFlow identity, its one-step sample.

Along the straight path ``a_t = (1 - t) x + t e`` from an action x to noise e ~ N(0, I), MeanFlow
(arXiv 2505.13447) learns the average velocity u over [0, t]. With the residual map
``g(s, a_t, t) = a_t - u`` the identity ``u = v - t du/dt``, v = e - x, reads

    g = a_t + (t - 1) v - t dg/dt                                                    (identity)

where dg/dt is the total derivative along the path: the Jacobian of g in (a_t, t) times (v, 1).
At t = 1 the map takes noise to an action in one evaluation: ``mu = g(s, e, 1)``. A Gaussian of
state-dependent scale around it, ``a = mu + sigma(s) eps``, gives the policy a density.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -5.0, -0.7
TARGET_CLIP = 5.0


class FlowPolicy(Protocol):
    """What a loss asks of a policy: ``MeanFlowActor``, or a functional view of one."""

    def mean(self, observation: Tensor, noise: Tensor) -> Tensor: ...

    def log_std(self, observation: Tensor) -> Tensor: ...

    def with_tangent(
        self, observation: Tensor, z: Tensor, t: Tensor, z_tangent: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class MeanFlowActor(nn.Module):
    """g(s, z, t) and sigma(s).

    Observations are [B, n_obs]; z is [B, K, n_act] and t [B, K, 1], K draws a state: the
    observation passes the first layer once and is shared by its K draws.
    """

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.observation_in = nn.Linear(n_obs, hidden[0])
        self.flow_in = nn.Linear(n_act + 1, hidden[0], bias=False)
        pairs = itertools.pairwise(hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.out = nn.Linear(hidden[-1], n_act)
        self.log_std_in = nn.Linear(n_obs, hidden[0] // 4)
        self.log_std_out = nn.Linear(hidden[0] // 4, n_act)
        # Gain of a rectifier: with torch's default the hidden units start small, where SiLU is all
        # but linear.
        for layer in (self.observation_in, *self.hidden, self.log_std_in):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        # g starts close to its skip connection z, so that the first policy covers the box.
        for layer in (self.out, self.log_std_out):
            nn.init.uniform_(layer.weight, -1e-2, 1e-2)
            nn.init.zeros_(layer.bias)

    def forward(self, observation: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """g(s, z, t), [B, K, n_act]."""
        x = self.observation_in(observation).unsqueeze(-2) + self.flow_in(torch.cat([z, t], -1))
        for layer in self.hidden:
            x = layer(functional.silu(x))
        return z + self.out(functional.silu(x))

    def with_tangent(
        self, observation: Tensor, z: Tensor, t: Tensor, z_tangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """g and its derivative along (z_tangent, 1) in (z, t), both [B, K, n_act].

        The tangent is carried beside the value, layer by layer: what ``torch.func.jvp`` computes,
        at about half the cost. It carries no gradient, as the regression target needs none.
        """
        x = self.observation_in(observation).unsqueeze(-2) + self.flow_in(torch.cat([z, t], -1))
        with torch.no_grad():
            dx = functional.linear(
                torch.cat([z_tangent, torch.ones_like(t)], -1), self.flow_in.weight
            )
        for layer in [*self.hidden, self.out]:
            assert isinstance(layer, nn.Linear)
            with torch.no_grad():
                gate = torch.sigmoid(x)
                dx = functional.linear(dx * gate * (1 + x * (1 - gate)), layer.weight)
            x = layer(functional.silu(x))
        return z + x, z_tangent + dx

    def mean(self, observation: Tensor, noise: Tensor) -> Tensor:
        """One-step sample mu = g(s, e, 1), [B, K, n_act], for noise [B, K, n_act]."""
        return self(observation, noise, torch.ones_like(noise[..., :1]))

    def log_std(self, observation: Tensor) -> Tensor:
        """log sigma(s), [B, n_act], smoothly bounded to [LOG_STD_MIN, LOG_STD_MAX]."""
        x = self.log_std_out(functional.silu(self.log_std_in(observation))).to(observation.dtype)
        half = 0.5 * (LOG_STD_MAX - LOG_STD_MIN)
        return LOG_STD_MIN + half * (torch.tanh(x) + 1.0)


def meanflow_loss(
    actor: FlowPolicy,
    observation: Tensor,
    target: Tensor,
    noise: Tensor,
    time: Tensor,
    *,
    velocity: Tensor | None = None,
    weight_power: float = 0.2,
) -> Tensor:
    """MeanFlow regression of ``actor`` onto target actions.

    Args:
        actor: the map g.
        observation: [B, n_obs], normalised.
        target: actions x, [B, M, n_act].
        noise: e, standard normal, [B, M, n_act].
        time: t in [0, 1], [B, M, 1].
        velocity: v, [B, M, n_act], where it is better known than e - x; see ``mean_velocity``.
        weight_power: 0 gives the square, whose minimiser is the mean; more of it leans to the
            majority of the targets.

    Returns:
        Scalar: mean of ``d2 * (d2 + 1e-4)**-weight_power`` with the weight held constant.
    """
    path = (1 - time) * target + time * noise  # a_t = (1 - t) x + t e
    if velocity is None:
        velocity = noise - target  # v = e - x
    g, dg_dt = actor.with_tangent(observation, path, time, velocity)
    with torch.no_grad():  # identity: g = a_t + (t - 1) v - t dg/dt
        wanted = (path + (time - 1) * velocity - time * dg_dt).clamp(-TARGET_CLIP, TARGET_CLIP)
    d2 = (g - wanted).square().sum(-1)
    return (d2 * (d2.detach() + 1e-4).pow(-weight_power)).mean()


def mean_velocity(path: Tensor, time: Tensor, candidates: Tensor, weights: Tensor) -> Tensor:
    """E[e - x | a_t] where x is one of a state's candidates, drawn by their weights.

    The regression's target is linear in v, so that this expectation in the place of the drawn v
    leaves the target's mean as it is and takes the variance of the choice away.

    Args:
        path: a_t, [B, M, n_act].
        time: t in [0, 1], [B, M, 1].
        candidates: x_j, [B, J, n_act].
        weights: [B, J], of sum 1.

    Returns:
        [B, M, n_act].
    """
    t = time.unsqueeze(-2).clamp_min(1e-3)
    x = candidates.unsqueeze(-3)
    e = (path.unsqueeze(-2) - (1 - t) * x) / t  # the noise that leads from x_j through a_t
    logits = weights.clamp_min(1e-30).log().unsqueeze(-2) - 0.5 * e.square().sum(-1)
    share = torch.softmax(logits, -1).unsqueeze(-1)
    return (share * (e - x)).sum(-2)
