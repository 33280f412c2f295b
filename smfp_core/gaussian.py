# SPDX-License-Identifier: Apache-2.0
"""Unimodal policies: the tanh Gaussian of SAC and CrossQ, the deterministic one of TD3."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class _Trunk(nn.Module):
    def __init__(self, n_in: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise((n_in, *hidden)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.relu(layer(x))
        return x


class TanhGaussianActor(nn.Module):
    """a = tanh(mean(s) + std(s) eps) (Haarnoja et al., arXiv 1812.05905)."""

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _Trunk(n_obs, hidden)
        self.out = nn.Linear(hidden[-1], 2 * n_act)

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, K, n_act] and their log densities [B, K], for noise [B, K, n_act]."""
        mean, log_std = (
            self.out(self.trunk(observation)).to(observation.dtype).unsqueeze(1).chunk(2, -1)
        )
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        raw = mean + log_std.exp() * noise
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2), in the form that does not cancel for large x.
        squeeze = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return torch.tanh(raw), (normal - squeeze).sum(-1)


class DeterministicActor(nn.Module):
    """a = tanh(mean(s)) (Fujimoto et al., arXiv 1802.09477)."""

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _Trunk(n_obs, hidden)
        self.out = nn.Linear(hidden[-1], n_act)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions [B, n_act]."""
        return torch.tanh(self.out(self.trunk(observation)).to(observation.dtype))
