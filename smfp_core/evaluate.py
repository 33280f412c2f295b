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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import gymnasium
import imageio.v3 as imageio
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smfp_core import checkpoint
from smfp_core.atomic import check_writable, write_atomically
from smfp_core.collector import EVALUATION, episode_seed, evaluation_env, evaluation_envs, sizes
from smfp_core.config import TrainConfig, load_config
from smfp_core.contract import keep_contract, require_same_task
from smfp_core.episodes import Episode, Policy, play
from smfp_core.policy_file import PolicyFile
from smfp_core.provenance import here
from smfp_core.specs import Float32
from smfp_core.strict import ConfigError, from_mapping, to_mapping

if TYPE_CHECKING:
    from smfp_core.agents import Agent

ActionValue = Callable[[Float32, Float32], Float32]
"""Q [N] of observations [N, n_obs] and actions [N, n_act]."""
Mode = Literal["deterministic", "sampled", "best_of_k"]


class Sampler(Protocol):
    """An agent, or a policy file: observations [N, n_obs], noise [N, n_act] to actions."""

    def sample_batch(self, observation: Float32, noise: Float32) -> Float32: ...


class OneByOne:
    """A policy file that is asked for one action at a time, as a robot's node asks it."""

    def __init__(self, file: PolicyFile) -> None:
        self._file = file

    def sample_batch(self, observation: Float32, noise: Float32) -> Float32:
        """Actions [N, n_act] for observations [N, n_obs] and noise [N, n_act]."""
        pairs = zip(observation, noise, strict=True)
        return np.stack([self._file.sample(o, e).copy() for o, e in pairs])


@dataclass(frozen=True)
class Evaluation:
    """Outcome of a number of episodes in one mode. None where undefined.

    ``q_excess`` is by how much Q of the first state and action exceeds the episode's discounted
    return, on average: the critics' overestimation, their entropy bonus included. Of an episode
    that a time limit ended Q counts what would have come as well: little, where it was long.
    """

    mode: Mode
    episodes: int
    return_mean: float
    return_std: float
    success_rate: float | None
    final_error_median_m: float | None
    q_excess: float | None
    final_angle_median_rad: float | None = None


def deterministic(sampler: Sampler, noise: Float32) -> Policy:
    """The policy with one fixed noise [n_act]."""
    return lambda observation, episodes: sampler.sample_batch(
        observation, np.tile(noise, (len(episodes), 1))
    )


def policies(sampler: Sampler, noise: Float32) -> dict[Mode, Policy]:
    """The modes that need no critics; ``noise`` [n_act] is that of the deterministic one."""
    return {
        "deterministic": deterministic(sampler, noise),
        "sampled": lambda o, episodes: sampler.sample_batch(o, draw(episodes, noise.shape)),
    }


def agent_policies(agent: Agent, noise: Float32) -> dict[Mode, Policy]:
    """All modes of an agent."""
    shape = (agent.config.best_of_k, agent.n_act)
    return {
        **policies(agent, noise),
        "best_of_k": lambda o, episodes: agent.best_of(o, draw(episodes, shape)),
    }


def draw(episodes: Sequence[Episode], shape: tuple[int, ...]) -> Float32:
    """Normal noise of this shape for each episode, from its own generator, [N, *shape]."""
    return np.stack([episode.rng.standard_normal(shape, np.float32) for episode in episodes])


def summed_up(
    mode: Mode, episodes: Sequence[Episode], value: tuple[ActionValue, float] | None = None
) -> Evaluation:
    """The outcome of episodes that have ended, played in ``mode``.

    ``value`` is Q and the discount that it was learned with, for ``q_excess``.
    """
    returns = [episode.total for episode in episodes]

    def told(name: str) -> list[float]:
        return [float(e.info[name]) for e in episodes if name in e.info]

    successes, errors, angles = told("is_success"), told("distance_m"), told("angle_rad")
    return Evaluation(
        mode,
        len(episodes),
        float(np.mean(returns)),
        float(np.std(returns)),
        float(np.mean(successes)) if successes else None,
        float(np.median(errors)) if errors else None,
        _q_excess(episodes, *value) if value else None,
        float(np.median(angles)) if angles else None,
    )


def _q_excess(episodes: Sequence[Episode], q: ActionValue, discount: float) -> float:
    first = [episode.first for episode in episodes if episode.first is not None]
    predicted = q(np.stack([o for o, _ in first]), np.stack([a for _, a in first]))
    observed = [discount ** np.arange(len(e.rewards)) @ np.array(e.rewards) for e in episodes]
    return float(np.mean(predicted - np.array(observed)))


def load_agent(run: Path) -> Agent:
    """The agent of a run's newest checkpoint, to act with.

    Raises:
        ConfigError, CheckpointError: the run is incomplete or of another version.
    """
    from smfp_core.agents import make_agent  # torch: a policy file is evaluated without it

    config = load_config(run / "config.yaml")
    # On the CPU, whatever it was trained on: the weights are the same, and a GPU may not be there.
    # Nor is there anything to learn, which is all that the precision is for.
    config = dataclasses.replace(config, compile=False, device="cpu", precision="float32")
    env = evaluation_env(config)
    keep_contract(run, env)
    agent = make_agent(config, *sizes(env))
    env.close()
    agent.restore_learned(checkpoint.load_agent_tensors(checkpoint.latest(run / "checkpoints")))
    return agent


def film(
    config: TrainConfig,
    policy: Policy,
    seeds: list[int],
    path: Path,
) -> None:
    """Write one episode a seed to a film; its suffix says the format."""
    env = evaluation_env(config, render_mode="rgb_array")
    stride = 4 if path.suffix == ".gif" else 2  # a GIF at full rate and size would be huge
    frames: list[NDArray[np.uint8]] = []
    for i, seed in enumerate(seeds):
        episode = Episode(i, seed, env)
        while not episode.done:
            if len(episode.rewards) % stride == 0:
                frame = np.asarray(env.render(), np.uint8)
                frames.append(frame[::2, ::2] if path.suffix == ".gif" else frame)
            (action,) = policy(episode.observation[None], [episode])
            episode.step(action)
    rate_hz = env.metadata["render_fps"] / stride
    env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.imwrite(path, frames, duration=1000 / rate_hz, loop=0)
    else:
        imageio.imwrite(path, frames, fps=rate_hz)


def deterministic_noise(run: Path, agent: Agent) -> NDArray[np.float32]:
    """The noise [n_act] that training last chose for the deterministic mode; zeros before it has,
    and for agents that choose none.
    """
    path = run / "deterministic_noise.json"
    if not agent.CHOOSES_NOISE or not path.is_file():
        return np.zeros(agent.n_act, np.float32)
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


class _Judged(NamedTuple):
    """What is evaluated: in which task, how it acts, and which file or checkpoint it is."""

    config: TrainConfig
    envs: list[gymnasium.Env]
    modes: dict[Mode, Policy]
    identity: dict[str, Any]


def _load(path: Path, episodes: int) -> _Judged:
    if path.suffix == ".onnx":
        file = PolicyFile.load(path)
        config = from_mapping(TrainConfig, file.metadata.training.config)
        env = evaluation_env(config)
        require_same_task(file, env)
        modes = policies(OneByOne(file), file.deterministic_noise)
        identity = {
            "policy_sha256": file.sha256,
            "env_steps": file.metadata.training.env_steps,
        }
        return _Judged(config, [env], modes, identity)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run or policy file")
    from smfp_core.process import set_up_training_process  # torch, as load_agent

    set_up_training_process()
    agent = load_agent(path)
    modes = agent_policies(agent, deterministic_noise(path, agent))
    steps = max(checkpoint.steps(path / "checkpoints"))
    envs = evaluation_envs(agent.config, episodes)
    return _Judged(agent.config, envs, modes, {"policy_sha256": None, "env_steps": steps})


def main() -> None:
    """Entry point of ``python -m smfp_core.evaluate``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.evaluate")
    try:
        _check(arguments)
        config, envs, modes, identity = _load(arguments.policy, arguments.episodes)
    except ValueError as error:
        sys.exit(f"error: {error}")
    started = time.monotonic()
    seeds = [episode_seed(arguments.seed, EVALUATION, i) for i in range(arguments.episodes)]
    results = [summed_up(mode, play(envs, policy, seeds)) for mode, policy in modes.items()]
    wall_s = time.monotonic() - started
    for env in envs:
        env.close()
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
            **identity,
            "env_id": config.env_id,
            "seed": arguments.seed,
            "wall_s": round(wall_s, 1),
            "results": [asdict(r) for r in results],
        }
        write_atomically(arguments.json, json.dumps(record, indent=2) + "\n")
    if arguments.video:
        # Last: whatever becomes of the film, what was measured is told and kept.
        try:
            chosen = seeds[: arguments.video_episodes]
            film(config, modes["deterministic"], chosen, arguments.video)
        except Exception as error:  # no OpenGL, no pygame, a task without pictures: each its own
            sys.exit(f"error: --video: {error}")


def _check(arguments: Arguments) -> None:
    for name in ("episodes", "video_episodes"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: must be at least 1, got {getattr(arguments, name)}")
    if arguments.seed < 0:
        raise ConfigError(f"--seed: must not be negative, got {arguments.seed}")
    check_writable("--json", arguments.json)
    check_writable("--video", arguments.video)
    if arguments.video and arguments.video.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"--video: must end in .mp4 or .gif, got '{arguments.video}'")


if __name__ == "__main__":
    main()
