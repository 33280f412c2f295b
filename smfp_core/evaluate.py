# SPDX-License-Identifier: Apache-2.0
"""Evaluate a run or a policy file: python -m smfp_core.evaluate RUN_OR_ONNX --episodes 200

Two modes, never mixed. *deterministic*: one fixed noise vector for every step, chosen at the end
of training (zero noise need not be a good action of a multimodal policy: between two modes it is
neither). *sampled*: new noise at every step. Both are the deployed one-step sample g(s, e, 1).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import imageio.v3 as imageio
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smfp_core import checkpoint
from smfp_core.atomic import write_atomically
from smfp_core.collector import EVALUATION, episode_seed, make_env
from smfp_core.config import TrainConfig, load_config
from smfp_core.policy_file import PolicyFile
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, from_mapping, to_mapping

Sampler = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
Mode = Literal["deterministic", "sampled"]
MODES: tuple[Mode, ...] = ("deterministic", "sampled")


@dataclass(frozen=True)
class Evaluation:
    """Outcome of a number of episodes in one mode. Success and error: None where undefined."""

    mode: Mode
    episodes: int
    return_mean: float
    return_std: float
    success_rate: float | None
    final_error_median_m: float | None


def run_episodes(
    env: gymnasium.Env,
    sampler: Sampler,
    mode: Mode,
    fixed_noise: NDArray[np.float32],
    seeds: list[int],
) -> Evaluation:
    """Run one episode a seed.

    Args:
        env: from ``make_env``.
        sampler: (observation [n_obs], noise [n_act]) to action [n_act].
        mode: which noise the sampler is given.
        fixed_noise: noise of the deterministic mode, [n_act].
        seeds: seeds of the episodes; they also seed the sampled noise.
    """
    returns, successes, errors = [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        raw, _ = env.reset(seed=seed)
        total, done = 0.0, False
        info: dict[str, Any] = {}
        while not done:
            noise = fixed_noise
            if mode == "sampled":
                noise = rng.standard_normal(len(fixed_noise), np.float32)
            action = sampler(np.asarray(raw, np.float32), noise)
            raw, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
        if "is_success" in info:
            successes.append(float(info["is_success"]))
        if "distance_m" in info:
            errors.append(float(info["distance_m"]))
    return Evaluation(
        mode,
        len(seeds),
        float(np.mean(returns)),
        float(np.std(returns)),
        float(np.mean(successes)) if successes else None,
        float(np.median(errors)) if errors else None,
    )


def film(
    config: TrainConfig,
    sampler: Sampler,
    noise: NDArray[np.float32],
    seeds: list[int],
    path: Path,
) -> None:
    """Write one deterministic episode a seed to a film; its suffix says the format."""
    env = make_env(config.env_id, config.env_kwargs, render_mode="rgb_array")
    stride = 4 if path.suffix == ".gif" else 2  # a GIF at full rate and size would be huge
    frames: list[NDArray[np.uint8]] = []
    for seed in seeds:
        raw, _ = env.reset(seed=seed)
        done, step = False, 0
        while not done:
            if step % stride == 0:
                frame = np.asarray(env.render(), np.uint8)
                frames.append(frame[::2, ::2] if path.suffix == ".gif" else frame)
            raw, _, terminated, truncated, _ = env.step(sampler(np.asarray(raw, np.float32), noise))
            done, step = terminated or truncated, step + 1
    rate_hz = env.metadata["render_fps"] / stride
    env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.imwrite(path, frames, duration=1000 / rate_hz, loop=0)
    else:
        imageio.imwrite(path, frames, fps=rate_hz)


def deterministic_noise(run: Path, n_act: int) -> NDArray[np.float32]:
    """The noise that training chose for the deterministic mode; zeros before it has."""
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


def _load(
    path: Path,
) -> tuple[TrainConfig, Sampler, NDArray[np.float32], gymnasium.Env]:
    if path.suffix == ".onnx":
        file = PolicyFile.load(path)
        config = from_mapping(TrainConfig, file.metadata.training.config)
        return (
            config,
            file.sample,
            file.deterministic_noise,
            make_env(config.env_id, config.env_kwargs),
        )
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run or policy file")
    from smfp_core.agents.smfp import SmfpAgent

    config = load_config(path / "config.yaml")
    env = make_env(config.env_id, config.env_kwargs)
    assert env.observation_space.shape is not None
    assert env.action_space.shape is not None
    n_act = env.action_space.shape[0]
    agent = SmfpAgent(config, env.observation_space.shape[0], n_act)
    agent.restore(checkpoint.load_agent_tensors(checkpoint.latest(path / "checkpoints")))
    return config, agent.sample, deterministic_noise(path, n_act), env


def main() -> None:
    """Entry point of ``python -m smfp_core.evaluate``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.evaluate")
    try:
        config, sampler, noise, env = _load(arguments.policy)
    except ValueError as error:
        sys.exit(f"error: {error}")
    started = time.monotonic()
    seeds = [episode_seed(arguments.seed, EVALUATION, i) for i in range(arguments.episodes)]
    results = [run_episodes(env, sampler, mode, noise, seeds) for mode in MODES]
    env.close()
    if arguments.video:
        try:
            film(config, sampler, noise, seeds[: arguments.video_episodes], arguments.video)
        except RuntimeError as error:  # a computer without OpenGL: the text says what to install
            sys.exit(f"error: --video: {error}")
    table = Table(title=f"{config.env_id}, {arguments.episodes} episodes a mode")
    for column in ("mode", "return", "success", "median final error"):
        table.add_column(column)
    for r in results:
        success = "-" if r.success_rate is None else f"{r.success_rate:.1%}"
        median = "-" if r.final_error_median_m is None else f"{1e3 * r.final_error_median_m:.1f} mm"
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
