# SPDX-License-Identifier: Apache-2.0
"""Which way round? python -m smfp_core.demos.around --json results/around.json

Trains agents on a task with an obstacle and several ways round it, and counts over sampled episodes
which way was taken and how often the goal was reached. Each start is repeated: a policy that holds
several ways takes more than one of them from the same start to the same goal. Where the task's info
says of an episode whether all ways were equally good from its start (``equal_ways``), ways are
counted over those that it is true of. The command trains into a folder and goes on where it was
interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import yaml
from rich.console import Console
from rich.table import Table

from smfp_core import checkpoint
from smfp_core.atomic import check_writable, write_atomically
from smfp_core.collector import EVALUATION, episode_seed, evaluation_envs
from smfp_core.config import TrainConfig, load_config
from smfp_core.episodes import Episode, play
from smfp_core.evaluate import load_agent
from smfp_core.process import set_up_training_process
from smfp_core.provenance import Provenance, here
from smfp_core.specs import Float32
from smfp_core.strict import ConfigError, from_mapping, to_mapping

EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class Ways:
    """Outcome of one trained agent over sampled episodes.

    Attributes:
        agent: name of the agent.
        seed: of its training.
        steps: of its training.
        episodes: starts, times the episodes from each.
        success: share of the episodes that reached the goal.
        equal_starts: how many of the starts ways are counted from.
        equal_success: share of the episodes from there that reached the goal. None without one.
        ways: of the successful episodes from there, the share that took each way.
        mixed: of those starts with two successful episodes or more, the share from which more than
            one way was taken. None without such a start.
        return_mean: mean return.
    """

    agent: str
    seed: int
    steps: int
    episodes: int
    success: float
    equal_starts: int
    equal_success: float | None
    ways: dict[str, float]
    mixed: float | None
    return_mean: float


@dataclass
class Arguments:
    """Train agents on a task with several ways round an obstacle; count the ways they take."""

    config: Path = Path("config/train/point_around.yaml")
    """Training configuration, common to all agents; the task's info names the way."""
    agents: tuple[str, ...] = ("smfp", "flow", "sac")
    """Agents to train; ``smfp-conditional`` is smfp with the conditional entropy."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    steps: int | None = None
    """Environment steps of each run, if not those of the configuration; a shorter run goes on."""
    starts: int = 400
    """Starts from which sampled episodes are counted."""
    repeats: int = 8
    """Sampled episodes from each start."""
    runs: Path = Path("runs/around")
    """Folder of the runs, one for each configuration; finished runs are not trained again."""
    json: Path | None = None
    """Also write the result to this file, and a Markdown table beside it."""


def configuration(arguments: Arguments, agent: str, seed: int) -> TrainConfig:
    """That of one run.

    Raises:
        ConfigError: there is no such agent, or the YAML cannot be used.
    """
    name, _, entropy = agent.partition("-")
    fields = {"agent": name, "seed": seed} | ({"entropy": entropy} if entropy else {})
    fields |= {} if arguments.steps is None else {"steps": arguments.steps}
    base = to_mapping(load_config(arguments.config))
    return from_mapping(TrainConfig, yaml.safe_load(yaml.safe_dump(base | fields)))


def train(arguments: Arguments, agent: str, seed: int) -> Path:
    """Train one agent, unless its run is finished; the run's folder.

    Raises:
        ConfigError: the folder holds a run of another configuration, or see ``configuration``.
    """
    folder = arguments.runs / f"{agent}_seed{seed}"
    config = configuration(arguments, agent, seed)
    command = [sys.executable, "-m", "smfp_core.train"]
    if checkpoint.steps(folder / "checkpoints"):
        before = load_config(folder / "config.yaml")
        if dataclasses.replace(before, steps=config.steps) != config:
            raise ConfigError(
                f"{folder}: holds a run of another configuration; give another --runs, or remove it"
            )
        command += ["--resume", str(folder)]
    else:
        fields = ["--agent", config.agent, "--seed", str(seed), "--entropy", config.entropy]
        command += ["--config", str(arguments.config), "--run-dir", str(folder), *fields]
    command += ["--steps", str(config.steps)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def check_task(config: TrainConfig) -> None:
    """Whether the task says of its episodes what is counted here.

    Raises:
        ConfigError: it does not, or cannot be made.
    """
    env = evaluation_envs(config, 1)[0]
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
    env.close()
    if not {"is_success", "way"} <= info.keys():
        raise ConfigError(
            f"--config: '{config.env_id}' does not say which way an episode went, and whether it "
            "reached its goal: give a task that does, as config/train/point_around.yaml"
        )


def count(folder: Path, name: str, seed: int, starts: int, repeats: int) -> Ways:
    """Sampled episodes of a trained agent."""
    agent = load_agent(folder)
    envs = evaluation_envs(agent.config, starts * repeats)
    beginnings = [episode_seed(EVALUATION_SEED, EVALUATION, i) for i in range(starts)]
    rngs = [np.random.default_rng([start, 1 + r]) for start in beginnings for r in range(repeats)]

    def sampled(observation: Float32, episodes: Sequence[Episode]) -> Float32:
        noise = [rngs[e.index].standard_normal(agent.n_act, np.float32) for e in episodes]
        return agent.sample_batch(observation, np.stack(noise))

    played = play(envs, sampled, [start for start in beginnings for _ in range(repeats)])
    for env in envs:
        env.close()
    return Ways(name, seed, agent.config.steps, starts * repeats, **tally(played, repeats))


def tally(episodes: Sequence[Episode], repeats: int) -> dict[str, Any]:
    """What ``Ways`` counts of ended episodes, of which ``repeats`` in turn have one start."""
    ways: dict[int, list[str]] = {}  # of the successful episodes, by the start where all are equal
    for episode in episodes:
        if episode.info.get("equal_ways", True):
            group = ways.setdefault(episode.index // repeats, [])
            if episode.info["is_success"]:
                group.append(episode.info["way"] or "straight")
    taken = [way for group in ways.values() for way in group]
    repeated = [len(set(group)) > 1 for group in ways.values() if len(group) > 1]
    return {
        "success": float(np.mean([episode.info["is_success"] for episode in episodes])),
        "equal_starts": len(ways),
        "equal_success": len(taken) / (len(ways) * repeats) if ways else None,
        "ways": {way: taken.count(way) / len(taken) for way in sorted(set(taken))},
        "mixed": float(np.mean(repeated)) if repeated else None,
        "return_mean": float(np.mean([episode.total for episode in episodes])),
    }


def cells(rows: list[Ways]) -> list[list[str]]:
    """The table of ``rows``, its header first."""
    names = sorted({way for row in rows for way in row.ways})
    header = ["agent", "seed", "steps", "return", "success", "there", *names]
    table = [[*header, "more than one from a start"]]
    for row in rows:
        shares = [f"{row.ways.get(name, 0.0):.0%}" for name in names]
        mixed = "-" if row.mixed is None else f"{row.mixed:.0%}"
        there = "-" if row.equal_success is None else f"{row.equal_success:.1%}"
        counts = [row.agent, str(row.seed), str(row.steps), f"{row.return_mean:.2f}"]
        table.append([*counts, f"{row.success:.1%}", there, *shares, mixed])
    return table


def markdown(rows: list[Ways], env_id: str, arguments: Arguments, origin: Provenance) -> str:
    """The table as text."""
    header, *body = cells(rows)
    lines = [
        f"# Which way round: {env_id}",
        "",
        f"`{origin.command}` at revision `{origin.git_revision[:12]}`. Each agent samples "
        f"{arguments.repeats} episodes from each of {arguments.starts} starts. There: from the "
        f"{rows[0].equal_starts} of them where all ways are equally good; what follows in a row is "
        "of the successful episodes from there.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in body),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point of ``python -m smfp_core.demos.around``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.demos.around")
    set_up_training_process()
    try:
        for name in ("starts", "repeats"):
            if getattr(arguments, name) < 1:
                raise ConfigError(f"--{name}: must be at least 1, got {getattr(arguments, name)}")
        for name in ("agents", "seeds"):
            if not getattr(arguments, name):
                raise ConfigError(f"--{name}: give at least one")
        check_task(load_config(arguments.config))
        check_writable("--json", arguments.json, ".json")
    except ConfigError as error:
        sys.exit(f"error: {error}")
    rows = []
    for seed in arguments.seeds:
        for agent in arguments.agents:
            try:
                folder = train(arguments, agent, seed)
            except ConfigError as error:
                sys.exit(f"error: {error}")
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: training {agent}, seed {seed}, ended with {error.returncode}")
            rows.append(count(folder, agent, seed, arguments.starts, arguments.repeats))
            Console(stderr=True).print(rows[-1], highlight=False)
    rows.sort(key=lambda r: (arguments.agents.index(r.agent), r.seed))
    env_id = load_config(arguments.config).env_id.rpartition(":")[2]
    header, *body = cells(rows)
    table = Table(*header, title=env_id)
    for row in body:
        table.add_row(*row)
    Console().print(table)
    if arguments.json:
        origin = here("smfp_core.demos.around")
        record = {"measured_by": to_mapping(origin), "rows": [asdict(r) for r in rows]}
        write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")
        text = markdown(rows, env_id, arguments, origin)
        write_atomically(arguments.json.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
