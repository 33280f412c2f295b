# SPDX-License-Identifier: Apache-2.0
"""Running normalisation of observations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ObservationNormalizer:
    """(o - mean) / std, clipped; mean and variance over everything collected so far.

    The statistics are float64, updated one observation at a time (Welford). They are NumPy arrays,
    as the environment's observations are: on rows this short torch takes three times as long, and
    there are several operations to every step.

    Attributes:
        mean: [n_obs], float32.
        scale: standard deviation [n_obs], float32; 1 where nothing has varied yet.
        statistics: the float64 statistics by name, of the memory that ``update`` writes to; call
            ``refresh`` after writing to them.
    """

    clip = 10.0

    def __init__(self, n_obs: int) -> None:
        self._mean = np.zeros(n_obs)
        self._sum_squares = np.zeros(n_obs)
        self._count = np.zeros(())
        # What networks see, of the same memory as the arrays that are written to.
        self._mean_out = np.zeros(n_obs, np.float32)
        self._scale_out = np.ones(n_obs, np.float32)
        self.mean = torch.from_numpy(self._mean_out)
        self.scale = torch.from_numpy(self._scale_out)
        self.statistics = {
            "mean": torch.from_numpy(self._mean),
            "sum_squares": torch.from_numpy(self._sum_squares),
            "count": torch.from_numpy(self._count),
        }

    def update(self, observation: NDArray[np.floating]) -> None:
        """Take one observation [n_obs] into the statistics."""
        self._count += 1
        delta = observation - self._mean
        self._mean += delta / self._count
        self._sum_squares += delta * (observation - self._mean)
        self.refresh()

    def __call__(self, observation: Tensor) -> Tensor:
        """Normalise float32 observations [..., n_obs]."""
        return ((observation - self.mean) / self.scale).clamp(-self.clip, self.clip)

    def refresh(self) -> None:
        """Take ``mean`` and ``scale`` from the statistics."""
        variance = self._sum_squares / max(1.0, float(self._count))
        self._mean_out[:] = self._mean
        self._scale_out[:] = np.sqrt(np.where(variance > 1e-8, variance, 1.0))
