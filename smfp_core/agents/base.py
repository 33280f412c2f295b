# SPDX-License-Identifier: Apache-2.0
"""What all agents share: their vectors, acting, compilation, checkpoints.

An algorithm is one pure function, ``learn``: (vectors, batch, noise) to new vectors. All of its
random numbers come in as ``noise``, so that the same function runs eagerly, compiled as one graph,
or batched over seeds, and gives the same numbers.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smfp_core.checkpoint import CheckpointError, under
from smfp_core.compiled import compiled
from smfp_core.config import TrainConfig
from smfp_core.critics import ActionValue
from smfp_core.entropy import gaussian_entropy
from smfp_core.network import Network, Vectors, adam
from smfp_core.normalizer import ObservationNormalizer
from smfp_core.process import multiplies_bfloat16
from smfp_core.replay import Batch
from smfp_core.strict import ConfigError
from smfp_core.td_learning import TdLearner

Learned = tuple[Vectors, dict[str, Tensor]]


class Agent(ABC):
    """Actor, critics and their vectors.

    Not thread safe. ``state`` holds everything that learning changes, by name; networks compute
    with views of it. All randomness comes from ``generator``, so that a restored agent goes on
    with the same numbers.
    """

    POLICY_DELAY = 1
    """Critic updates for each one of the actor, unless the configuration says otherwise."""
    CHOOSES_NOISE = False
    """Whether the deterministic mode's noise is chosen by its return; if not it is zero."""

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int) -> None:
        self.config, self.n_obs, self.n_act = config, n_obs, n_act
        self.normalizer = ObservationNormalizer(n_obs)
        self.actor: Network
        self.td: TdLearner
        self.policy_delay = config.policy_delay or self.POLICY_DELAY
        self.device = device_of(config)
        self.bfloat16 = learns_in_bfloat16(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            initial = self.build()
        self.state: Vectors
        self.attach({name: value.to(self.device) for name, value in initial.items()})
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.updates = 0
        self.metrics: dict[str, Tensor] = {}
        self._step, self._choose = in_place(self.learn_in_precision), self.explored
        if config.compile:
            self._step, self._choose = compiled(self._step), compiled(self._choose)

    # --- what an algorithm defines ----------------------------------------------------------

    @abstractmethod
    def build(self) -> Vectors:
        """Make the networks; the initial vectors."""

    @abstractmethod
    def draw(self, rows: int) -> Any:
        """All random numbers of one ``learn`` on a batch of ``rows``."""

    @abstractmethod
    def learn(self, state: Vectors, batch: Batch, noise: Any, with_actor: bool) -> Learned:
        """One update, as a pure function: the entries of ``state`` that change, and metrics."""

    @abstractmethod
    def policy(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Deployed samples in the box, [B, K, n_act], for noise [B, K, n_act]."""

    @abstractmethod
    def draw_explore(self, rows: int) -> Any:
        """All random numbers of one ``explore`` of ``rows`` observations."""

    @abstractmethod
    def explore(self, actor: Any, value: ActionValue, observation: Tensor, noise: Any) -> Tensor:
        """Actions to collect with, in the box, [B, n_act].

        Args:
            actor: the policy's network.
            value: Q(s, a).
            observation: [B, n_obs], normalised.
            noise: ``draw_explore(B)``.
        """

    # --- acting -----------------------------------------------------------------------------

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Action [n_act] for collecting."""
        normal = self.normal_rows(observation[None])
        return self._choose(self.state, normal, self.draw_explore(1))[0].cpu().numpy()

    @torch.no_grad()
    def explored(self, state: Vectors, observation: Tensor, noise: Any) -> Tensor:
        """``explore`` with the networks of ``state``."""
        actor, value = self.actor.at(state["actor"]), self.td.value(state)
        return self.explore(actor, value, observation, noise)

    def sample(
        self, observation: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The deployed sample [n_act] for given noise [n_act]."""
        return self.sample_batch(observation[None], noise[None])[0]

    @torch.no_grad()
    def sample_batch(
        self, observation: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Deployed samples [N, n_act] for observations [N, n_obs] and noise [N, n_act]."""
        action = self.policy(self.normal_rows(observation), self._on_device(noise).unsqueeze(1))
        return action.squeeze(1).cpu().numpy()

    @torch.no_grad()
    def best_of(
        self, observation: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Of the samples for noise [N, K, n_act] those with the highest Q, [N, n_act]."""
        normal = self.normal_rows(observation)
        actions = self.policy(normal, self._on_device(noise))
        best = self.value(normal, actions).argmax(-1)[:, None, None]
        return torch.take_along_dim(actions, best, 1).squeeze(1).cpu().numpy()

    @torch.no_grad()
    def q(
        self, observation: NDArray[np.float32], action: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Least of the critics' values, [N], of N pairs."""
        actions = self._on_device(action).unsqueeze(1)
        return self.value(self.normal_rows(observation), actions).squeeze(1).cpu().numpy()

    def value(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Q of actions [B, J, n_act] at normalised observations, [B, J]."""
        # The module itself, whose parameters are views of ``state``: no copy.
        return self.td.rating(self.td.network.module, self.state)(observation, actions)

    # --- learning ---------------------------------------------------------------------------

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of critics and, every so often, actor and temperature; scalars to log."""
        noise = self.draw(len(batch.reward))
        metrics = self._step(self.state, self.prepared(batch), noise, self.acts_next)
        return self.updated(metrics)

    def prepared(self, batch: Batch) -> Batch:
        """A batch as ``learn`` takes it: observations normalised, on the device."""
        batch = batch._replace(
            observation=self._normal(batch.observation),
            next_observation=self._normal(batch.next_observation),
        )
        return Batch(*(part.to(self.device) for part in batch))

    @property
    def acts_next(self) -> bool:
        """Whether the next update is one of the actor as well."""
        return self.updates % self.policy_delay == 0

    def updated(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count an update; the newest of every metric."""
        self.updates += 1
        self.metrics |= metrics
        return self.metrics

    def learn_in_precision(
        self, state: Vectors, batch: Batch, noise: Any, with_actor: bool
    ) -> Learned:
        """``learn`` with the products in the configured precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.learn(state, batch, noise, with_actor)

    def attach(self, state: Vectors) -> None:
        """Compute with these tensors, whatever they are views of, from now on."""
        self.state = state
        self.actor.bind(state["actor"])
        self.td.network.bind(state["critics"])

    def learn_temperature(self, state: Vectors, entropy: Tensor) -> Vectors:
        """alpha rises while the policy's entropy is below its target, and falls above it."""
        config = self.config
        target = gaussian_entropy(config.target_std, self.n_act)
        gradient = state["log_alpha"].exp() * (entropy - target)
        return adam(state, "log_alpha", gradient, config.temperature_learning_rate)

    def descend_actor(self, state: Vectors, gradient: Tensor) -> Vectors:
        """Adam on the actor's vector."""
        config = self.config
        return adam(state, "actor", gradient, config.actor_learning_rate, config.adam_momentum)

    def randn(self, rows: int, draws: int) -> Tensor:
        """Standard normal numbers [rows, draws, n_act]."""
        return torch.randn(rows, draws, self.n_act, generator=self.generator, device=self.device)

    def _normal(self, observation: Tensor) -> Tensor:
        return self.normalizer(observation) if self.config.normalize_observations else observation

    def normal_rows(self, observation: NDArray[np.float32]) -> Tensor:
        """Observations [N, n_obs] normalised, on the device."""
        return self._normal(torch.from_numpy(observation)).to(self.device)

    def _on_device(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def non_finite(self) -> list[str]:
        """Names of the vectors, and of the observations' statistics, that are not finite."""
        tensors = self.state | {"observation statistics": self.normalizer.statistics["sum_squares"]}
        return [name for name, value in tensors.items() if not torch.isfinite(value).all()]

    # --- checkpoints ------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that decides what comes next, by name."""
        tensors = self._learned()
        tensors["generator"] = self.generator.get_state()
        tensors["updates"] = torch.tensor(self.updates)
        return tensors | {f"metrics.{name}": value for name, value in self.metrics.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave.

        Raises:
            CheckpointError: see ``restore_learned``.
        """
        self.restore_learned(tensors)
        self.generator.set_state(tensors["generator"])
        self.updates = int(tensors["updates"])
        self.metrics = under(tensors, "metrics")

    def restore_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what was learned, from whatever device; random numbers go on as they are.

        Raises:
            CheckpointError: tensors are missing or of other shapes (another configuration).
        """
        for name, value in self._learned().items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise CheckpointError(
                    f"checkpoint: '{name}' is missing or of another shape: it is of another "
                    "version or configuration"
                )
            value.copy_(tensors[name])
        self.normalizer.refresh()

    def _learned(self) -> Vectors:
        """The vectors and the observations' statistics, as they are named in a checkpoint."""
        tensors = {f"state.{name}": value for name, value in self.state.items()}
        return tensors | {f"normalizer.{k}": v for k, v in self.normalizer.statistics.items()}


def in_place(learn: Callable[..., Learned]) -> Callable[..., dict[str, Tensor]]:
    """``learn`` as a function that writes to the state it is given, and returns the metrics."""

    def step(state: Vectors, *others: Any) -> dict[str, Tensor]:
        new, metrics = learn(state, *others)
        for name, value in new.items():
            state[name].copy_(value)
        return metrics

    return step


def learns_in_bfloat16(config: TrainConfig) -> bool:
    """Whether learning's products are in bfloat16; says so where that costs time."""
    on_cpu = config.device == "cpu"
    if config.precision == "auto":
        return on_cpu and multiplies_bfloat16()
    if config.precision == "bfloat16" and on_cpu and not multiplies_bfloat16():
        warnings.warn(
            "precision: this CPU multiplies bfloat16 in software, slower than float32; "
            "set precision: auto",
            stacklevel=2,
        )
    return config.precision == "bfloat16"


def device_of(config: TrainConfig) -> torch.device:
    """The device of a configuration.

    Raises:
        ConfigError: this machine has none of that kind.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: 'cuda' is not available: no NVIDIA GPU or driver, or this torch "
            f"({torch.__version__}) was built without CUDA; set device: cpu"
        )
    return torch.device(config.device)
