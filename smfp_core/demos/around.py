# SPDX-License-Identifier: Apache-2.0
"""Which way round? python -m smfp_core.demos.around --json results/around.json

Trains agents on PointAround, where both ways round a disc are equally good, and counts over
sampled episodes how often each way was taken and how often the goal was reached. The command
trains into a folder and goes on where it was interrupted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from smfp_core.atomic import write_atomically
from smfp_core.collector import EVALUATION, episode_seed
from smfp_core.evaluate import load_agent
from smfp_core.provenance import here
from smfp_core.strict import to_mapping

EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class Ways:
    """Outcome of one trained agent over sampled episodes."""

    agent: str
    seed: int
    steps: int
    episodes: int
    success: float
    left: float
    """Share of successful episodes that passed the disc at y > 0."""
    right: float
    return_mean: float


@dataclass
class Arguments:
    """Train agents on PointAround and count the ways they take."""

    config: Path = Path("config/train/point_around.yaml")
    """Training configuration, common to all agents."""
    agents: tuple[str, ...] = ("smfp", "flow", "sac")
    """Agents to train; ``smfp-conditional`` is smfp with the conditional entropy."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    steps: int = 12_000
    """Environment steps of each run."""
    episodes: int = 200
    """Sampled episodes that are counted."""
    runs: Path = Path("runs/around")
    """Folder of the runs; finished ones are not trained again."""
    json: Path | None = None
    """Also write the result to this file, and a Markdown table beside it."""


def train(arguments: Arguments, agent: str, seed: int) -> Path:
    """Train one agent, unless its run is finished; the run's folder."""
    folder = arguments.runs / f"{agent}_seed{seed}"
    name, _, entropy = agent.partition("-")
    command = [sys.executable, "-m", "smfp_core.train"]
    if (folder / "checkpoints").exists():
        command += ["--resume", str(folder)]
    else:
        fields = ["--agent", name, "--seed", str(seed), "--steps", str(arguments.steps)]
        fields += ["--entropy", entropy] if entropy else []
        command += ["--config", str(arguments.config), "--run-dir", str(folder), *fields]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def count(folder: Path, name: str, seed: int, episodes: int) -> Ways:
    """Sampled episodes of a trained agent."""
    agent, env = load_agent(folder)
    sides: list[float] = []
    returns: list[float] = []
    for index in range(episodes):
        episode = episode_seed(EVALUATION_SEED, EVALUATION, index)
        rng = np.random.default_rng(episode)
        observation, total, done = env.reset(seed=episode)[0], 0.0, False
        info: dict[str, Any] = {}
        while not done:
            action = agent.sample(observation, rng.standard_normal(agent.n_act, np.float32))
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
        if info["is_success"]:
            sides.append(info["side"])
    env.close()
    reached = np.array(sides)
    return Ways(
        name,
        seed,
        agent.config.steps,
        episodes,
        success=len(sides) / episodes,
        left=float((reached > 0).mean()) if sides else 0.0,
        right=float((reached < 0).mean()) if sides else 0.0,
        return_mean=float(np.mean(returns)),
    )


def markdown(rows: list[Ways], command: str, revision: str) -> str:
    """The table as text."""
    lines = [
        "# Which way round the disc",
        "",
        f"`{command}` at revision `{revision[:12]}`. Each agent samples {rows[0].episodes} episodes"
        f" after {rows[0].steps} training steps.",
        "",
        "| agent | seed | success | left | right | return |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.agent} | {r.seed} | {r.success:.0%} | {r.left:.0%} | {r.right:.0%} "
        f"| {r.return_mean:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point of ``python -m smfp_core.demos.around``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.demos.around")
    rows = []
    for seed in arguments.seeds:
        for agent in arguments.agents:
            try:
                folder = train(arguments, agent, seed)
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: training {agent}, seed {seed}, ended with {error.returncode}")
            rows.append(count(folder, agent, seed, arguments.episodes))
            Console(stderr=True).print(rows[-1], highlight=False)
    rows.sort(key=lambda r: (arguments.agents.index(r.agent), r.seed))
    table = Table("agent", "seed", "success", "left", "right", "return", title="PointAround")
    for r in rows:
        shares = (f"{r.success:.0%}", f"{r.left:.0%}", f"{r.right:.0%}")
        table.add_row(r.agent, str(r.seed), *shares, f"{r.return_mean:.2f}")
    Console().print(table)
    if arguments.json:
        origin = here("smfp_core.demos.around")
        record = {"measured_by": to_mapping(origin), "rows": [asdict(r) for r in rows]}
        write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")
        text = markdown(rows, origin.command, origin.git_revision)
        write_atomically(arguments.json.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
