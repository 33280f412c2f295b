# SPDX-License-Identifier: Apache-2.0
"""Linear layers, alone and side by side, that multiply in bfloat16 where that saves time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROW = 32
"""Below so many inputs or outputs a product stays in float32 under autocast: setting up one of
bfloat16, whose tiles are this wide, costs more than it saves (``benchmarks/training.py``)."""


class Linear(nn.Linear):
    """``nn.Linear``, the narrow ones in their weights' precision under autocast, too."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class EnsembleLinear(nn.Module):
    """``members`` linear layers side by side: [members, N, a] to [members, N, b]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return bmm(x, self.weight) + self.bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` in the precision that serves it: [..., a] to [..., b]."""
    return _in_precision(functional.linear, x, weight, bias)


def bmm(x: Tensor, weight: Tensor) -> Tensor:
    """``torch.bmm`` in the precision that serves it: [M, N, a] and [M, a, b] to [M, N, b]."""
    return _in_precision(torch.bmm, x, weight)


def _in_precision(
    product: Callable[..., Tensor], x: Tensor, weight: Tensor, *rest: Tensor | None
) -> Tensor:
    if min(weight.shape[-2:]) >= NARROW:
        return product(x, weight, *rest)
    with torch.autocast(x.device.type, enabled=False):
        return product(x.to(weight.dtype), weight, *rest)
