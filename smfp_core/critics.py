# SPDX-License-Identifier: Apache-2.0
"""Action-value networks: twins evaluated as one batched product, with LayerNorm or BatchRenorm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ActionValue = Callable[[Tensor, Tensor], Tensor]
"""Q(s, a), [B, J], of observations [B, n_obs] and actions [B, J, n_act] in the box."""


class _EnsembleLinear(nn.Module):
    """``members`` linear layers side by side: [members, N, a] to [members, N, b]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight) + self.bias


class Critics(nn.Module):
    """Q_i(s, a) of ``members`` independent networks: Linear, LayerNorm, ReLU, ..., Linear."""

    def __init__(
        self,
        n_obs: int,
        n_act: int,
        hidden: tuple[int, ...],
        layer_norm: bool = True,
        members: int = 2,
    ) -> None:
        super().__init__()
        self.members = members
        sizes = (n_obs + n_act, *hidden)
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(_EnsembleLinear(members, a, b) for a, b in pairs)
        normed = hidden if layer_norm else ()
        self.scales = nn.ParameterList(torch.ones(members, 1, b) for b in normed)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, b) for b in normed)
        self.out = _EnsembleLinear(members, hidden[-1], 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Values [members, N] for observations [N, n_obs] and actions [N, n_act]."""
        x = torch.cat([observation, action], -1).expand(self.members, -1, -1)
        return self._from_first(self.layers[0](x)).to(observation.dtype)

    def _from_first(self, x: Tensor) -> Tensor:
        """Values [members, N] from what the first layer gave, [members, N, width]."""
        x = self._activated(0, x)
        for i, layer in enumerate(self.layers[1:], 1):
            x = self._activated(i, layer(x))
        return self.out(x).squeeze(-1)

    def _activated(self, i: int, x: Tensor) -> Tensor:
        if len(self.scales):
            x = functional.layer_norm(x, x.shape[-1:]) * self.scales[i] + self.shifts[i]
        return functional.relu(x)

    def least(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Least of the members' values, [B, J], for actions [B, J, n_act] of each state.

        The observation's part of the first layer is computed once and shared by the J actions.
        """
        b, j, n_act = actions.shape
        if j == 1:
            return self(observation, actions.squeeze(1)).amin(0).unsqueeze(1)
        first = self.layers[0]
        assert isinstance(first, _EnsembleLinear)
        of_state, of_action = first.weight.split([observation.shape[1], n_act], 1)
        shared = torch.bmm(observation.expand(self.members, -1, -1), of_state) + first.bias
        own = torch.bmm(actions.reshape(-1, n_act).expand(self.members, -1, -1), of_action)
        x = (shared.unsqueeze(2) + own.unflatten(1, (b, j))).flatten(1, 2)
        return self._from_first(x).amin(0).view(b, j).to(observation.dtype)


class RenormCritics(nn.Module):
    """Q_i(s, a) with BatchRenorm before every layer, for CrossQ (arXiv 1902.05605).

    The running statistics are no buffers of the module but an argument, [2, members, W]: mean and
    variance of the W inputs of all layers. Whoever trains passes them on, so that a learning step
    stays a pure function.
    """

    MOMENTUM = 0.99
    EPSILON = 1e-3
    # Bounds of the correction from batch to running statistics (arXiv 1702.03275, section 3).
    R_MAX, D_MAX = 3.0, 5.0

    def __init__(self, n_obs: int, n_act: int, hidden: tuple[int, ...], members: int = 2) -> None:
        super().__init__()
        self.members = members
        sizes = (n_obs + n_act, *hidden)
        self.widths = sizes
        self.layers = nn.ModuleList(
            _EnsembleLinear(members, a, b) for a, b in itertools.pairwise((*sizes, 1))
        )
        self.scales = nn.ParameterList(torch.ones(members, 1, a) for a in sizes)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, a) for a in sizes)

    def initial_statistics(self) -> Tensor:
        """Mean 0 and variance 1, [2, members, W]."""
        statistics = torch.zeros(2, self.members, sum(self.widths))
        statistics[1] = 1.0
        return statistics

    def forward(self, observation: Tensor, action: Tensor, statistics: Tensor) -> Tensor:
        """Values [members, N] with the running statistics: for acting and for the policy."""
        x = torch.cat([observation, action], -1).expand(self.members, -1, -1)
        for i, part in enumerate(statistics.split(self.widths, -1)):
            normal = (x - part[0].unsqueeze(1)) / (part[1].unsqueeze(1) + self.EPSILON).sqrt()
            x = self._layer(i, normal)
        return x.squeeze(-1).to(observation.dtype)

    def least(self, observation: Tensor, actions: Tensor, statistics: Tensor) -> Tensor:
        """Least of the members' values, [B, J], with the running statistics."""
        b, j, _ = actions.shape
        return self(*_pairs(observation, actions), statistics).amin(0).view(b, j)

    def train_values(
        self, observation: Tensor, action: Tensor, statistics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values [members, N] with the batch's statistics, renormed, and the new running ones."""
        x = torch.cat([observation, action], -1).expand(self.members, -1, -1)
        fresh = []
        for i, part in enumerate(statistics.split(self.widths, -1)):
            mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
            std = (variance + self.EPSILON).sqrt()
            with torch.no_grad():
                running_std = (part[1].unsqueeze(1) + self.EPSILON).sqrt()
                r = (std / running_std).clamp(1 / self.R_MAX, self.R_MAX)
                d = ((mean - part[0].unsqueeze(1)) / running_std).clamp(-self.D_MAX, self.D_MAX)
            fresh.append(torch.stack([mean.detach().squeeze(1), variance.detach().squeeze(1)]))
            x = self._layer(i, (x - mean) / std * r + d)
        moved = torch.lerp(torch.cat(fresh, -1), statistics, self.MOMENTUM)
        return x.squeeze(-1).to(observation.dtype), moved

    def _layer(self, i: int, normal: Tensor) -> Tensor:
        x = self.layers[i](normal * self.scales[i] + self.shifts[i])
        return functional.relu(x) if i + 1 < len(self.layers) else x


def _pairs(observation: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Each state's observation beside each of its actions: [B J, n_obs] and [B J, n_act]."""
    b, j, n = actions.shape
    repeated = observation.unsqueeze(1).expand(b, j, -1).reshape(b * j, -1)
    return repeated, actions.reshape(b * j, n)
