# SPDX-License-Identifier: Apache-2.0
"""Networks whose parameters lie in one vector, and the optimiser step on such a vector.

A learning step is a pure function of vectors: its gradient, Adam, and the moving averages are one
elementwise kernel each however many layers a network has, and the whole step compiles as one graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Vectors = dict[str, Tensor]


class _Named(nn.Module):
    """Calls any method of a module, so that ``functional_call`` reaches all of them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *arguments: Any) -> Any:
        return getattr(self.module, method)(*arguments)


class Bound:
    """A network with the parameters of one vector: its methods, as functions of that vector."""

    def __init__(self, network: Network, vector: Tensor) -> None:
        self._network, self._parameters = network, network.split(vector)

    def __call__(self, *arguments: Any) -> Any:
        return self._call("forward", *arguments)

    def _call(self, method: str, *arguments: Any) -> Any:
        return torch.func.functional_call(
            self._network.named, self._parameters, (method, *arguments), tie_weights=False
        )

    def mean(self, *arguments: Tensor) -> Tensor:
        """``mean`` of the module."""
        return self._call("mean", *arguments)

    def log_std(self, *arguments: Tensor) -> Tensor:
        """``log_std`` of the module."""
        return self._call("log_std", *arguments)

    def with_tangent(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """``with_tangent`` of the module."""
        return self._call("with_tangent", *arguments)

    def least(self, *arguments: Tensor) -> Tensor:
        """``least`` of the module."""
        return self._call("least", *arguments)

    def train_values(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """``train_values`` of the module."""
        return self._call("train_values", *arguments)


class Network:
    """A module and the vector [P] that its parameters are views of.

    Whoever writes to ``vector`` in place changes what ``module`` computes: acting uses the
    weights that learning has just written, without a copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.named = _Named(module)
        named = list(self.named.named_parameters())
        self._names = [name for name, _ in named]
        self._shapes = [parameter.shape for _, parameter in named]
        self._sizes = [parameter.numel() for _, parameter in named]
        self.vector: Tensor
        self.bind(torch.cat([parameter.detach().reshape(-1) for _, parameter in named]))

    def bind(self, vector: Tensor) -> None:
        """Make the module's parameters views of ``vector`` [P]."""
        self.vector = vector
        views = self.split(vector)
        for name, parameter in self.named.named_parameters():
            parameter.requires_grad_(False)
            parameter.data = views[name]

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views of a vector [P]."""
        parts = zip(self._names, vector.split(self._sizes), self._shapes, strict=True)
        return {name: part.view(shape) for name, part, shape in parts}

    def at(self, vector: Tensor) -> Bound:
        """The network with the parameters of ``vector`` [P]."""
        return Bound(self, vector)


def adam_slots(name: str, parameter: Tensor) -> Vectors:
    """What Adam keeps for a vector [P], or for each of several [S, P], before its first step."""
    unseen = parameter.new_zeros(parameter.shape[:-1])
    return {
        f"{name}.mean": torch.zeros_like(parameter),
        f"{name}.square": torch.zeros_like(parameter),
        f"{name}.mean_weight": unseen,
        f"{name}.square_weight": unseen.clone(),
    }


def adam(
    state: Vectors, name: str, gradient: Tensor, rate: float, momentum: float = 0.9
) -> Vectors:
    """The entries that one step of Adam (arXiv 1412.6980) on ``state[name]`` changes.

    Its moving averages start at 0, and 1 - beta^t is the weight of what they have seen: the same
    average of the number 1. It is kept and not computed from t, because the fused kernel would
    compute a power of t anew for every eight parameters, at a twentieth of an update's time.
    """
    mean = torch.lerp(state[f"{name}.mean"], gradient, 1 - momentum)
    square = torch.lerp(state[f"{name}.square"], gradient.square(), 1e-3)
    mean_weight = state[f"{name}.mean_weight"]
    mean_weight = mean_weight + (1 - momentum) * (1 - mean_weight)
    square_weight = state[f"{name}.square_weight"]
    square_weight = square_weight + 1e-3 * (1 - square_weight)
    corrected = (square / square_weight).sqrt() + 1e-8
    return {
        name: state[name] - rate / mean_weight * mean / corrected,
        f"{name}.mean": mean,
        f"{name}.square": square,
        f"{name}.mean_weight": mean_weight,
        f"{name}.square_weight": square_weight,
    }
