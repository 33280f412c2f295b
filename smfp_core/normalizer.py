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

    def update(self, observation: NDArray[np.floating]) -> None:
        """Take one observation [n_obs] into the statistics."""
        self._count += 1
        delta = observation - self._mean
        self._mean += delta / self._count
        self._sum_squares += delta * (observation - self._mean)
        self._publish()

    def __call__(self, observation: Tensor) -> Tensor:
        """Normalise float32 observations [..., n_obs]."""
        return ((observation - self.mean) / self.scale).clamp(-self.clip, self.clip)

    def state(self) -> dict[str, Tensor]:
        """Copies of the statistics, by name: what ``restore`` takes back."""
        return {name: torch.from_numpy(array.copy()) for name, array in self._arrays().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            RuntimeError: something is missing or of another shape.
        """
        for name, array in self._arrays().items():
            if name not in state or tuple(state[name].shape) != array.shape:
                raise RuntimeError(
                    f"checkpoint: 'normalizer.{name}' is missing or of another shape"
                )
            array[...] = state[name].numpy()
        self._publish()

    def _arrays(self) -> dict[str, NDArray[np.float64]]:
        return {"mean": self._mean, "sum_squares": self._sum_squares, "count": self._count}

    def _publish(self) -> None:
        variance = self._sum_squares / max(1.0, float(self._count))
        self._mean_out[:] = self._mean
        self._scale_out[:] = np.sqrt(np.where(variance > 1e-8, variance, 1.0))
