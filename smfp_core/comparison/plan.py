# SPDX-License-Identifier: Apache-2.0
"""A comparison's configuration, and the runs that follow from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from smfp_core.atomic import write_atomically
from smfp_core.config import EnvKwargs, TrainConfig
from smfp_core.strict import ConfigError, from_mapping, load_dataclass, load_yaml, to_mapping

PeerName = Literal["sb3_sac", "sb3_td3", "sbx_crossq", "random"]
# Added to every comparison: what it returns is the zero of normalised scores.
RANDOM = "random"
# Set by the comparison alone, so that no agent is judged by another rule than the rest.
PROTOCOL = ("env_id", "env_kwargs", "seed", "steps", "eval_every", "eval_episodes")
_TRAIN, _PEERS = "smfp_core.train", "smfp_core.comparison.peers"
_SETTINGS, _FINISHED = "run.yaml", "finished"


@dataclass(frozen=True)
class PeerConfig:
    """One run of a peer."""

    peer: PeerName
    env_id: str
    seed: int
    steps: int
    eval_every: int
    eval_episodes: int
    env_kwargs: EnvKwargs = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of the library's constructor. ``action_noise_std`` is TD3's exploration, in half-ranges of
    the action box (0.1, as in its paper); the library itself would not explore."""


@dataclass(frozen=True)
class Contender:
    """One agent of a comparison: a training YAML with changes, or a peer with parameters."""

    base: Path | None = None
    """Training YAML, relative to the comparison's YAML."""
    peer: PeerName | None = None
    """Another library's algorithm, instead of ``base``."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of the training YAML, or constructor parameters of the peer."""

    def __post_init__(self) -> None:
        if (self.base is None) == (self.peer is None):
            raise ConfigError("base, peer: give one of them")
        for name in PROTOCOL:
            if name in self.overrides:
                raise ConfigError(
                    f"overrides.{name}: is the same for all agents; set it for the comparison"
                )


@dataclass(frozen=True)
class CompareConfig:
    """Tasks x agents x seeds, all under one evaluation protocol."""

    tasks: tuple[str, ...]
    """Ids as in ``env_id`` of a training YAML."""
    agents: dict[str, Contender]
    """By the name that tables and figures show; the first is set against the others."""
    seeds: tuple[int, ...]
    """Every agent runs once with each, in every task."""
    steps: int
    """Environment steps of a run."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """Keyword arguments of the environments, the same in all tasks and for all agents."""
    eval_every: int = 5_000
    """Steps between evaluations."""
    eval_episodes: int = 10
    """Episodes of an evaluation, in each protocol."""
    reference: str = "sac"
    """Agent whose return at the end is the one of normalised scores."""

    def __post_init__(self) -> None:
        for name in ("tasks", "agents", "seeds"):
            values = list(getattr(self, name))
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: needs at least one, and none twice, got {values}")
        for name in ("steps", "eval_every", "eval_episodes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: must be positive, got {getattr(self, name)}")
        if RANDOM in self.agents:
            raise ConfigError(f"agents.{RANDOM}: the random policy takes part by itself")
        if self.reference not in self.agents:
            raise ConfigError(
                f"reference: '{self.reference}' is none of the agents {list(self.agents)}"
            )


@dataclass(frozen=True)
class Run:
    """One agent with one seed in one task, in a folder of its own."""

    task: str
    agent: str
    seed: int
    folder: Path
    module: str
    """What trains: ``python -m module --config ... --run-dir ...``."""
    settings: dict[str, Any]
    """The whole configuration of that module."""

    @property
    def name(self) -> str:
        return f"{self.task} {self.agent} seed {self.seed}"

    @property
    def last_step(self) -> int:
        """Step of its last evaluation; the random policy's is its only one, before any step."""
        return 0 if self.agent == RANDOM else int(self.settings["steps"])

    @property
    def finished(self) -> bool:
        """Whether it has come to its end, in this call or an earlier one of as many steps."""
        path = self.folder / _FINISHED
        return path.exists() and load_yaml(path) == self.settings

    def mark_finished(self) -> None:
        """Have later calls of this configuration skip it."""
        write_atomically(self.folder / _FINISHED, yaml.safe_dump(self.settings, sort_keys=False))

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from; a peer begins anew, to the same numbers."""
        return self.module == _TRAIN and any((self.folder / "checkpoints").glob("step_*"))

    def arguments(self) -> list[str]:
        """What python is to run, to begin or to go on."""
        if self.started:
            steps = str(self.settings["steps"])
            return ["-m", self.module, "--resume", str(self.folder), "--steps", steps]
        settings = str(self.folder / _SETTINGS)
        return ["-m", self.module, "--config", settings, "--run-dir", str(self.folder)]

    def check(self) -> None:
        """Make sure that the folder is new, or holds this run, or its first steps.

        Raises:
            ConfigError: it holds a run of another configuration, or of more steps.
        """
        before = self._before()
        if before is None:
            return
        if before.get("steps", 0) < self.settings["steps"]:
            before |= {"steps": self.settings["steps"]}
        for name in {**before, **self.settings}:
            if before.get(name) != self.settings.get(name):
                raise ConfigError(
                    f"{self.folder}: holds a run with {name} = {before.get(name)}, now "
                    f"{self.settings.get(name)}; remove that folder, or give another --out"
                )

    def prepare(self) -> None:
        """Write the configuration into the folder. The caller alone is at this run.

        Raises:
            ConfigError: see ``check``.
        """
        self.check()
        write_atomically(self.folder / _SETTINGS, yaml.safe_dump(self.settings, sort_keys=False))

    def _before(self) -> dict[str, Any] | None:
        """The configuration in the folder; None where it is new."""
        path = self.folder / _SETTINGS
        return load_yaml(path) if path.exists() else None


def plan(path: Path, out: Path) -> list[Run]:
    """The runs of the comparison in a YAML, seed by seed, so that a part of them is balanced.

    Raises:
        ConfigError: names the file and field, of the comparison or of a training YAML; or the
            folder below ``out`` that holds a run of another configuration.
    """
    config = load_dataclass(CompareConfig, path)
    contenders = {**config.agents, RANDOM: Contender(peer="random")}
    runs = []
    for seed in config.seeds:
        for task in config.tasks:
            for name, contender in contenders.items():
                folder = out / _as_file_name(task) / _as_file_name(name) / f"seed_{seed}"
                protocol = dict(
                    env_id=task,
                    env_kwargs=config.env_kwargs,
                    seed=seed,
                    steps=config.steps,
                    eval_every=config.eval_every,
                    eval_episodes=config.eval_episodes,
                )
                module, settings = _settings(path, name, contender, protocol)
                runs.append(Run(task, name, seed, folder, module, settings))
                runs[-1].check()
    return runs


def _settings(
    path: Path, name: str, contender: Contender, protocol: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    try:
        if contender.peer:
            data = {"peer": contender.peer, "parameters": contender.overrides, **protocol}
            settings = to_mapping(from_mapping(PeerConfig, data))
            return _PEERS, yaml.safe_load(yaml.safe_dump(settings))
        assert contender.base is not None
        base = load_yaml(path.parent / contender.base)
        if base.get("env_kwargs", {}) not in ({}, protocol["env_kwargs"]):
            raise ConfigError(
                f"env_kwargs: {base['env_kwargs']} in {contender.base}, {protocol['env_kwargs']} "
                "in the comparison, which gives them to all agents"
            )
        data = base | contender.overrides | protocol
        settings = to_mapping(from_mapping(TrainConfig, data))
        return _TRAIN, yaml.safe_load(yaml.safe_dump(settings))
    except ConfigError as error:
        raise ConfigError(f"{path}: agents.{name}: {error}") from error


def _as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
