# SPDX-License-Identifier: Apache-2.0
"""The replay buffer: one preallocated array, one row a transition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Batch(NamedTuple):
    """Transitions; ``terminated`` is 1 where the task ended, 0 where it was merely cut off."""

    observation: Tensor  # [B, n_obs]
    action: Tensor  # [B, n_act]
    reward: Tensor  # [B]
    next_observation: Tensor  # [B, n_obs]
    terminated: Tensor  # [B]


class ReplayBuffer:
    """A ring of float32 rows (observation, action, reward, next observation, terminated).

    A transition lies in one row, so that a draw is one gather of contiguous memory.
    """

    def __init__(self, capacity: int, n_obs: int, n_act: int) -> None:
        self.capacity, self.n_obs, self.n_act = capacity, n_obs, n_act
        self._rows = np.zeros((capacity, 2 * n_obs + n_act + 2), np.float32)
        self._next = 0
        self.size = 0

    def add(
        self,
        observation: NDArray[np.floating],
        action: NDArray[np.floating],
        reward: float,
        next_observation: NDArray[np.floating],
        terminated: bool,
    ) -> None:
        """Append one transition, in place of the oldest once full."""
        row, n, m = self._rows[self._next], self.n_obs, self.n_act
        row[:n] = observation
        row[n : n + m] = action
        row[n + m] = reward
        row[n + m + 1 : -1] = next_observation
        row[-1] = terminated
        self._next = (self._next + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly, with replacement."""
        rows = torch.from_numpy(self._rows[rng.integers(self.size, size=batch_size)])
        n, m = self.n_obs, self.n_act
        return Batch(
            rows[:, :n],
            rows[:, n : n + m],
            rows[:, n + m],
            rows[:, n + m + 1 : -1],
            rows[:, -1],
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that ``restore`` takes back."""
        return {"rows": self._rows[: self.size], "next": np.array([self._next])}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Take over the content of another buffer of the same shape.

        Raises:
            ValueError: the content does not fit.
        """
        rows = state["rows"]
        if rows.shape[1] != self._rows.shape[1] or len(rows) > self.capacity:
            raise ValueError(f"replay: {rows.shape} does not fit a buffer of {self._rows.shape}")
        self.size = len(rows)
        self._rows[: self.size] = rows
        self._next = int(state["next"][0])
