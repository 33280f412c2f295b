# SPDX-License-Identifier: Apache-2.0
"""Twin action-value networks with LayerNorm, evaluated as one batched product."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class _EnsembleLinear(nn.Module):
    """``members`` linear layers side by side: [members, N, a] to [members, N, b]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Critics(nn.Module):
    """Q_i(s, a) of ``members`` independent networks: Linear, LayerNorm, ReLU, ..., Linear."""

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...], members: int = 2) -> None:
        super().__init__()
        self.members = members
        sizes = (n_obs + n_act, *hidden)
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(_EnsembleLinear(members, a, b) for a, b in pairs)
        self.scales = nn.ParameterList(torch.ones(members, 1, b) for b in hidden)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, b) for b in hidden)
        self.out = _EnsembleLinear(members, hidden[-1], 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Values [members, N] for observations [N, n_obs] and actions [N, n_act]."""
        x = torch.cat([observation, action], -1).expand(self.members, -1, -1)
        for layer, scale, shift in zip(self.layers, self.scales, self.shifts, strict=True):
            x = layer(x)
            x = functional.relu(functional.layer_norm(x, x.shape[-1:]) * scale + shift)
        return self.out(x).squeeze(-1)

    def least(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Least of the members' values, [B, J], for actions [B, J, n_act] of each state."""
        b, j, n = actions.shape
        repeated = observation.unsqueeze(1).expand(b, j, -1).reshape(b * j, -1)
        return self(repeated, actions.reshape(b * j, n)).amin(0).view(b, j)
