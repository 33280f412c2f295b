# SPDX-License-Identifier: Apache-2.0
"""The replay buffer: preallocated, one row a transition."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smfp_core.strict import ConfigError


class Batch(NamedTuple):
    """Transitions over one or more steps.

    The TD target is ``reward + bootstrap * value(next_observation)``: ``bootstrap`` is the discount
    to the power of the steps taken, and 0 where the task ended; where it was merely cut off by a
    time limit, it is not.
    """

    observation: Tensor  # [B, n_obs]
    action: Tensor  # [B, n_act]
    reward: Tensor  # [B], discounted sum over the steps
    next_observation: Tensor  # [B, n_obs]
    bootstrap: Tensor  # [B]


class ReplayError(ValueError):
    """A transition cannot be stored; the buffer is as it was."""


# Share of the free memory that a buffer may claim: networks and environments need some as well.
_MEMORY_SHARE = 0.8


class ReplayBuffer:
    """A ring of rows (observation, action, reward, next observation), and their bootstraps.

    A transition lies in one row, so that a draw is one gather of contiguous memory. Bootstraps are
    kept apart, in float32 whatever the rows are: half precision knows nothing between 0.9995 and 1.

    Args:
        capacity: rows kept.
        n_obs: size of an observation.
        n_act: size of an action.
        dtype: of the rows; float16 takes half the memory and keeps three digits. Values
            beyond its range of 65,504 are refused when they come.

    Raises:
        ConfigError: the rows would not fit into the memory that is free.
    """

    def __init__(
        self, capacity: int, n_obs: int, n_act: int, dtype: type[np.floating] = np.float32
    ) -> None:
        self.capacity, self.n_obs, self.n_act = capacity, n_obs, n_act
        width = 2 * n_obs + n_act + 1
        needed, free = capacity * (width * np.dtype(dtype).itemsize + 4), _free_memory()
        if needed > _MEMORY_SHARE * free:
            raise ConfigError(
                f"replay_capacity: {capacity} transitions of {width + 1} numbers need "
                f"{needed / 1e9:.1f} GB, of {free / 1e9:.1f} GB that are free; lower it"
                + ("" if dtype is np.float16 else ", or set replay_dtype: float16")
            )
        self._rows = np.zeros((capacity, width), dtype)
        self._bootstraps = np.zeros(capacity, np.float32)
        self._next = 0
        self.size = 0

    def add(
        self,
        observation: NDArray[np.floating],
        action: NDArray[np.floating],
        reward: float,
        next_observation: NDArray[np.floating],
        bootstrap: float,
    ) -> None:
        """Append one transition, in place of the oldest once full."""
        n, m = self.n_obs, self.n_act
        row = np.empty_like(self._rows[0])
        with np.errstate(over="ignore"):  # of float16: told below, with the numbers
            row[:n] = observation
            row[n : n + m] = action
            row[n + m] = reward
            row[n + m + 1 :] = next_observation
        if not (np.isfinite(row).all() and math.isfinite(bootstrap)):
            raise ReplayError(
                f"replay: a transition is not finite as {row.dtype} (reward {reward:.4g}, greatest "
                f"observation {np.abs(next_observation).max():.4g})"
                + ("; set replay_dtype: float32" if row.dtype == np.float16 else "")
            )
        self._rows[self._next] = row
        self._bootstraps[self._next] = bootstrap
        self._next = (self._next + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly, with replacement."""
        drawn = rng.integers(self.size, size=batch_size)
        rows = torch.from_numpy(self._rows[drawn].astype(np.float32, copy=False))
        n, m = self.n_obs, self.n_act
        return Batch(
            rows[:, :n],
            rows[:, n : n + m],
            rows[:, n + m],
            rows[:, n + m + 1 :],
            torch.from_numpy(self._bootstraps[drawn]),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that ``restore`` takes back."""
        return {
            "rows": self._rows[: self.size],
            "bootstraps": self._bootstraps[: self.size],
            "next": np.array([self._next]),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Take over the content of another buffer with rows of the same width.

        A larger buffer takes over a full one in order of age, and goes on behind it.

        Raises:
            ValueError: the content does not fit.
        """
        rows = state["rows"]
        if "bootstraps" in state:
            bootstraps = state["bootstraps"]
        else:  # older checkpoints have them in the rows
            rows, bootstraps = rows[:, :-1], rows[:, -1]
        if rows.shape[1] != self._rows.shape[1] or len(rows) > self.capacity:
            raise ValueError(f"replay: {rows.shape} does not fit a buffer of {self._rows.shape}")
        following = int(state["next"][0])
        self.size = len(rows)
        if self.size < self.capacity and following < self.size:
            rows, bootstraps = np.roll(rows, -following, axis=0), np.roll(bootstraps, -following)
            following = self.size
        self._rows[: self.size] = rows
        self._bootstraps[: self.size] = bootstraps
        self._next = following


def _free_memory() -> float:
    """Bytes that can be claimed without swapping; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return 1024.0 * int(kilobytes)


class MultiStep:
    """Joins the last ``steps`` transitions of an episode into one before they enter a buffer.

    A reward then reaches the value of earlier states ``steps`` times as fast, which matters where
    one action of 20 ms changes little. The intermediate actions are those of the policy that
    collected them; like most multi-step learners, this one does not correct for that.
    """

    def __init__(self, buffer: ReplayBuffer, steps: int, discount: float) -> None:
        self._buffer, self._steps, self._discount = buffer, steps, discount
        # Waiting transitions: (observation, action, rewards so far).
        self._waiting: deque[tuple[NDArray[np.float32], NDArray[np.float32], list[float]]] = deque()

    def add(
        self,
        observation: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: float,
        next_observation: NDArray[np.float32],
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Take one step of an episode; whatever is complete goes to the buffer."""
        self._waiting.append((observation, action, []))
        for _, _, rewards in self._waiting:
            rewards.append(reward)
        ended = terminated or truncated
        while self._waiting and (ended or len(self._waiting[0][2]) == self._steps):
            start, first_action, rewards = self._waiting.popleft()
            total = sum(r * self._discount**k for k, r in enumerate(rewards))
            bootstrap = 0.0 if terminated else self._discount ** len(rewards)
            self._buffer.add(start, first_action, total, next_observation, bootstrap)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that ``restore`` takes back."""
        n, m = self._buffer.n_obs, self._buffer.n_act
        rewards = np.full((len(self._waiting), self._steps), np.nan)
        for row, item in zip(rewards, self._waiting, strict=True):
            row[: len(item[2])] = item[2]
        return {
            "observations": np.array([w[0] for w in self._waiting], np.float32).reshape(-1, n),
            "actions": np.array([w[1] for w in self._waiting], np.float32).reshape(-1, m),
            "rewards": rewards,
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Take over the waiting transitions of another instance."""
        self._waiting.clear()
        rows = zip(state["observations"], state["actions"], state["rewards"], strict=True)
        for observation, action, rewards in rows:
            kept = [float(r) for r in rewards if not np.isnan(r)]
            self._waiting.append((observation, action, kept))
