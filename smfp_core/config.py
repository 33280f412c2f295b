# SPDX-License-Identifier: Apache-2.0
"""The training configuration: one frozen dataclass, one YAML, any field from the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from smfp_core.strict import ConfigError, load_dataclass

EnvKwargs = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Same configuration, same numbers (one thread)."""

    env_id: str
    """Gymnasium id; ``module:id`` imports the module that registers it."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """Keyword arguments of the environment."""
    agent: Literal["smfp", "flow", "sac", "td3", "crossq"] = "smfp"
    """Learning algorithm; ``flow`` is smfp with a policy of ``flow_steps`` evaluations."""
    seed: int = 0
    """Seed of networks, noise, replay draws and episodes."""
    steps: int = 100_000
    """Environment steps in all."""
    warmup_steps: int = 1_000
    """First steps, with uniform random actions and no updates."""
    update_every: int = 1
    """Environment steps between updates."""
    updates_per_round: int = 1
    """Updates made each time."""
    batch_size: int = 256
    """Transitions in an update."""
    replay_capacity: int = 1_000_000
    """Transitions kept; never more than ``steps``."""
    replay_dtype: Literal["float32", "float16"] = "float32"
    """How transitions are stored; float16 takes half the memory."""
    discount: float = 0.99
    """Discount factor of one policy step."""
    n_step: int = 1
    """Steps of reward in a TD target before it bootstraps."""
    target_rate: float = 0.005
    """Rate of the target critics' moving average."""
    actor_learning_rate: float = 3e-4
    """Adam step size of the actor."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics."""
    temperature_learning_rate: float = 1e-3
    """Adam step size of the temperature; 0 keeps ``initial_temperature``."""
    actor_hidden: tuple[int, ...] = (256, 256)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Widths of each critic's hidden layers."""
    critic: Literal["twin", "crossq"] = "twin"
    """Critics of smfp and flow: with target networks, or BatchRenorm without. sac and td3 have the
    former, crossq the latter."""
    critic_layer_norm: bool = True
    """LayerNorm in twin critics."""
    normalize_observations: bool = True
    """Whether networks see observations less their running mean, over their running deviation."""
    adam_momentum: float = 0.9
    """Adam's first-moment decay, of actor and critics."""
    policy_delay: int = 0
    """Critic updates for each one of the actor; 0: what the algorithm's paper has (sac 1, td3 2,
    crossq 3), and 2 for smfp and flow."""
    entropy: Literal["marginal", "conditional"] = "marginal"
    """Entropy estimator; ``conditional`` lets separated modes collapse."""
    mirror: bool = True
    """Whether the mirror-descent regression is part of the actor's loss."""
    flow_steps: int = 10
    """Network evaluations of one sample of ``flow``."""
    loss_candidates: int = 2
    """K: noise draws in the entropy estimate, and candidates of pi_k for the mirror step. The
    marginal estimate tells at most K modes."""
    density_draws: int = 0
    """Draws that the candidates' density is estimated from, where more than K; few overrate rare
    modes."""
    act_candidates: int = 8
    """Actions drawn when collecting; the best by Q is taken. TD targets take the best of half as
    many of the K candidates, of all if there are fewer: of one, if this is 2 or less."""
    mirror_weight: float = 3.0
    """lambda: weight of the mirror-descent regression, in the unit alpha + beta: far more, and it
    holds the policy wider than the temperature asks for."""
    mirror_step: float = 1.0
    """Temperature of the mirror step in units of the candidates' spread in Q."""
    previous_rate: float = 0.005
    """Rate of the moving average that stands for the previous policy."""
    bound_penalty: float = 1.0
    """Weight of the penalty on mean actions outside the box."""
    target_std: float = 0.03
    """Standard deviation, in half-ranges of the box, whose entropy the temperature aims at."""
    initial_temperature: float = 0.01
    """Temperature before the first update."""
    exploration_std: float = 0.1
    """Standard deviation of td3's exploration noise, in half-ranges of the box."""
    compile: bool = True
    """Compile the update as one graph; a minute once, then faster. Eager gives the same numbers up
    to rounding."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks compute while training. The replay buffer and the environments stay in
    main memory, and a finished run is evaluated and exported on the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of learning's matrix products; weights, sums, the optimiser and acting stay in
    float32. auto: bfloat16 on a CPU that multiplies it in hardware (AVX512-BF16, AMX, or BF16 of
    Arm), else float32. bfloat16 learns locomotion as well and faster; an arm reached fewer goals
    (docs/comparison.md)."""
    eval_every: int = 5_000
    """Steps between evaluations."""
    eval_episodes: int = 10
    """Episodes of an evaluation, in each mode."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints."""
    log_every: int = 500
    """Steps between rows of the training log."""
    best_of_k: int = 8
    """Draws that the evaluation mode ``best_of_k`` chooses from by Q."""
    noise_choices: int = 8
    """Noise vectors tried at each evaluation, zero among them, for the deterministic mode."""

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given |= {f"env_kwargs.{name}": value for name, value in self.env_kwargs.items()}
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name}: must be finite, got {value}")
        for name, value in self.env_kwargs.items():
            if isinstance(value, str) and value.lower() in ("true", "false"):
                # To Python any text but an empty one is true.
                raise ConfigError(
                    f"env_kwargs.{name}: '{value}' is text; write {value.lower()} without quotes "
                    f"in YAML, {value.capitalize()} on the command line"
                )
        positive = (
            "steps n_step updates_per_round update_every batch_size replay_capacity "
            "loss_candidates act_candidates eval_every eval_episodes checkpoint_every log_every "
            "noise_choices actor_learning_rate critic_learning_rate mirror_step target_std "
            "initial_temperature flow_steps best_of_k"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: must be positive, got {getattr(self, name)}")
        not_negative = (
            "warmup_steps mirror_weight bound_penalty seed policy_delay exploration_std "
            "temperature_learning_rate density_draws"
        )
        for name in not_negative.split():
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ConfigError(f"seed: must be less than 2^63, got {self.seed}")
        for name in ("discount", "target_rate", "previous_rate"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: must lie in (0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.adam_momentum < 1.0:
            raise ConfigError(f"adam_momentum: must lie in [0, 1), got {self.adam_momentum}")
        for name in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, name)
            if not widths or min(widths) < 4:
                raise ConfigError(f"{name}: at least one layer of at least 4 units, got {widths}")
        if self.warmup_steps < self.batch_size + self.n_step - 1:
            raise ConfigError(
                f"warmup_steps: {self.warmup_steps} is less than batch_size {self.batch_size} and "
                f"the {self.n_step - 1} steps that n_step holds back; the first update would draw "
                "more than was collected"
            )
        if self.steps <= self.warmup_steps:
            raise ConfigError(
                f"steps: {self.steps} is no more than warmup_steps {self.warmup_steps}; nothing "
                "would be learned"
            )


def load_config(path: str | Path) -> TrainConfig:
    """Read a training YAML.

    Raises:
        ConfigError: names the file and the field.
    """
    return load_dataclass(TrainConfig, path)
