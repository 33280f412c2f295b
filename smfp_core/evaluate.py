# SPDX-License-Identifier: Apache-2.0
"""Evaluate a run or a policy file: python -m smfp_core.evaluate RUN_OR_ONNX --episodes 200

Three modes, never mixed. *deterministic*: one fixed noise vector for every step, chosen at each
evaluation of a training from a few, by episodes of their own (zero noise need not be a good action
of a multimodal policy: between two modes it is neither). *sampled*: new noise at every step. Both
are the deployed sample, of one network evaluation for SMFP. *best_of_k*: of K such samples the one
with the highest Q; it needs the critics, which a policy file has not.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import gymnasium
import imageio.v3 as imageio
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smfp_core import checkpoint
from smfp_core.atomic import write_atomically
from smfp_core.collector import EVALUATION, episode_seed, make_env, set_training, sizes
from smfp_core.config import TrainConfig, load_config
from smfp_core.policy_file import PolicyFile
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, from_mapping, to_mapping

if TYPE_CHECKING:
    from smfp_core.agents import Agent

Policy = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""(observation [n_obs], the episode's generator) to action [n_act]."""
ActionValue = Callable[[NDArray[np.float32], NDArray[np.float32]], float]
Mode = Literal["deterministic", "sampled", "best_of_k"]


class Sampler(Protocol):
    """An agent, or a policy file: (observation [n_obs], noise [n_act]) to action [n_act]."""

    def sample(
        self, observation: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Evaluation:
    """Outcome of a number of episodes in one mode. None where undefined.

    ``q_excess`` is by how much Q of the first state and action exceeds the episode's discounted
    return, on average: the critics' overestimation, their entropy bonus included.
    """

    mode: Mode
    episodes: int
    return_mean: float
    return_std: float
    success_rate: float | None
    final_error_median_m: float | None
    q_excess: float | None
    final_angle_median_rad: float | None = None


def deterministic(sampler: Sampler, noise: NDArray[np.float32]) -> Policy:
    """The policy with one fixed noise [n_act]."""
    return lambda observation, rng: sampler.sample(observation, noise)


def policies(sampler: Sampler, noise: NDArray[np.float32]) -> dict[Mode, Policy]:
    """The modes that need no critics; ``noise`` [n_act] is that of the deterministic one."""
    size = len(noise)
    return {
        "deterministic": deterministic(sampler, noise),
        "sampled": lambda o, rng: sampler.sample(o, rng.standard_normal(size, np.float32)),
    }


def agent_policies(agent: Agent, noise: NDArray[np.float32]) -> dict[Mode, Policy]:
    """All modes of an agent."""
    shape = (agent.config.best_of_k, agent.n_act)
    return {
        **policies(agent, noise),
        "best_of_k": lambda o, rng: agent.best_of(o, rng.standard_normal(shape, np.float32)),
    }


def run_episodes(
    env: gymnasium.Env,
    mode: Mode,
    policy: Policy,
    seeds: list[int],
    value: tuple[ActionValue, float] | None = None,
) -> Evaluation:
    """Run one episode a seed.

    Args:
        env: from ``make_env``.
        mode: name of the policy's mode.
        policy: what acts.
        seeds: seeds of the episodes, and of the policy's noise in them.
        value: Q and the discount that it was learned with, for ``q_excess``.
    """
    returns, successes, errors, angles, excesses = [], [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation = np.asarray(env.reset(seed=seed)[0], np.float32)
        rewards: list[float] = []
        done, predicted = False, 0.0
        info: dict[str, Any] = {}
        while not done:
            action = policy(observation, rng)
            if value and not rewards:
                predicted = value[0](observation, action)
            raw, reward, terminated, truncated, info = env.step(action)
            observation = np.asarray(raw, np.float32)
            rewards.append(float(reward))
            done = terminated or truncated
        returns.append(sum(rewards))
        if value:
            discounts = value[1] ** np.arange(len(rewards))
            excesses.append(predicted - float(discounts @ np.array(rewards)))
        if "is_success" in info:
            successes.append(float(info["is_success"]))
        if "distance_m" in info:
            errors.append(float(info["distance_m"]))
        if "angle_rad" in info:
            angles.append(float(info["angle_rad"]))
    return Evaluation(
        mode,
        len(seeds),
        float(np.mean(returns)),
        float(np.std(returns)),
        float(np.mean(successes)) if successes else None,
        float(np.median(errors)) if errors else None,
        float(np.mean(excesses)) if excesses else None,
        float(np.median(angles)) if angles else None,
    )


def load_agent(run: Path) -> tuple[Agent, gymnasium.Env]:
    """The agent of a run's newest checkpoint, and an environment for it.

    Raises:
        ConfigError, CheckpointError: the run is incomplete or of another version.
    """
    from smfp_core.agents import make_agent  # torch: a policy file is evaluated without it

    config = dataclasses.replace(load_config(run / "config.yaml"), compile=False)
    env = make_env(config.env_id, config.env_kwargs)
    set_training(env, config.seed)
    agent = make_agent(config, *sizes(env))
    agent.restore(checkpoint.load_agent_tensors(checkpoint.latest(run / "checkpoints")))
    return agent, env


def film(
    config: TrainConfig,
    policy: Policy,
    seeds: list[int],
    path: Path,
) -> None:
    """Write one episode a seed to a film; its suffix says the format."""
    env = make_env(config.env_id, config.env_kwargs, render_mode="rgb_array")
    set_training(env, config.seed)
    stride = 4 if path.suffix == ".gif" else 2  # a GIF at full rate and size would be huge
    frames: list[NDArray[np.uint8]] = []
    for seed in seeds:
        raw, _ = env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        done, step = False, 0
        while not done:
            if step % stride == 0:
                frame = np.asarray(env.render(), np.uint8)
                frames.append(frame[::2, ::2] if path.suffix == ".gif" else frame)
            raw, _, terminated, truncated, _ = env.step(policy(np.asarray(raw, np.float32), rng))
            done, step = terminated or truncated, step + 1
    rate_hz = env.metadata["render_fps"] / stride
    env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.imwrite(path, frames, duration=1000 / rate_hz, loop=0)
    else:
        imageio.imwrite(path, frames, fps=rate_hz)


def deterministic_noise(run: Path, n_act: int) -> NDArray[np.float32]:
    """The noise that training last chose for the deterministic mode; zeros before it has."""
    path = run / "deterministic_noise.json"
    if not path.is_file():
        return np.zeros(n_act, np.float32)
    return np.array(json.loads(path.read_text(encoding="utf-8"))["noise"], np.float32)


@dataclass
class Arguments:
    """Evaluate a run's newest checkpoint, or a policy file, on fresh episodes."""

    policy: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run, or a policy .onnx."""
    episodes: int = 200
    """Episodes in each mode."""
    seed: int = 1_000_000
    """Seed of the episodes; training and the choice of noise never use these episodes."""
    json: Path | None = None
    """Also write the result to this file."""
    video: Path | None = None
    """Also film the first episodes of the deterministic mode, to this .mp4 or .gif."""
    video_episodes: int = 3
    """Episodes in the film."""


def _load(path: Path) -> tuple[TrainConfig, gymnasium.Env, dict[Mode, Policy]]:
    if path.suffix == ".onnx":
        file = PolicyFile.load(path)
        config = from_mapping(TrainConfig, file.metadata.training.config)
        env = make_env(config.env_id, config.env_kwargs)
        set_training(env, config.seed)
        return config, env, policies(file, file.deterministic_noise)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run or policy file")
    agent, env = load_agent(path)
    return agent.config, env, agent_policies(agent, deterministic_noise(path, agent.n_act))


def main() -> None:
    """Entry point of ``python -m smfp_core.evaluate``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.evaluate")
    try:
        config, env, modes = _load(arguments.policy)
    except ValueError as error:
        sys.exit(f"error: {error}")
    started = time.monotonic()
    seeds = [episode_seed(arguments.seed, EVALUATION, i) for i in range(arguments.episodes)]
    results = [run_episodes(env, mode, policy, seeds) for mode, policy in modes.items()]
    env.close()
    if arguments.video:
        try:
            chosen = seeds[: arguments.video_episodes]
            film(config, modes["deterministic"], chosen, arguments.video)
        except RuntimeError as error:  # a computer without OpenGL: the text says what to install
            sys.exit(f"error: --video: {error}")
    table = Table(title=f"{config.env_id}, {arguments.episodes} episodes a mode")
    for column in ("mode", "return", "success", "median final error"):
        table.add_column(column)
    for r in results:
        success = "-" if r.success_rate is None else f"{r.success_rate:.1%}"
        median = "-" if r.final_error_median_m is None else f"{1e3 * r.final_error_median_m:.1f} mm"
        if r.final_angle_median_rad is not None:
            median += f", {r.final_angle_median_rad:.3f} rad"
        table.add_row(r.mode, f"{r.return_mean:.1f} +- {r.return_std:.1f}", success, median)
    Console().print(table)
    if arguments.json:
        record = {
            "measured_by": to_mapping(here("smfp_core.evaluate")),
            "env_id": config.env_id,
            "seed": arguments.seed,
            "wall_s": round(time.monotonic() - started, 1),
            "results": [asdict(r) for r in results],
        }
        write_atomically(arguments.json, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
