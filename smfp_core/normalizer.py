# SPDX-License-Identifier: Apache-2.0
"""Running normalisation of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ObservationNormalizer(nn.Module):
    """(o - mean) / std, clipped; mean and variance over everything collected so far.

    The statistics are float64 buffers, updated one observation at a time (Welford), and used as
    constants: no gradient and no tangent passes through their update.
    """

    clip = 10.0

    def __init__(self, n_obs: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.sum_squares: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(n_obs, dtype=torch.float64))
        self.register_buffer("sum_squares", torch.zeros(n_obs, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, observation: Tensor) -> None:
        """Take one observation [n_obs] into the statistics."""
        self.count += 1
        delta = observation - self.mean
        self.mean += delta / self.count
        self.sum_squares += delta * (observation - self.mean)

    def scale(self) -> Tensor:
        """Standard deviation [n_obs], float64; 1 where nothing has varied yet."""
        variance = self.sum_squares / self.count.clamp_min(1)
        return torch.where(variance > 1e-8, variance, torch.ones_like(variance)).sqrt()

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise float32 observations [..., n_obs]."""
        normal = (observation - self.mean.float()) / self.scale().float()
        return normal.clamp(-self.clip, self.clip)
