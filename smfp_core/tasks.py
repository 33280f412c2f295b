# SPDX-License-Identifier: Apache-2.0
"""Which tasks run here, measured: python -m smfp_core.tasks [ID ...] [--json PATH]

Each task is made, driven twice with the same seed and random actions over the whole box, and
described by what came out. Exit status 1 if one could not be made, or did not repeat itself.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smfp_core.atomic import check_writable, write_atomically
from smfp_core.collector import make_env, sizes
from smfp_core.dm_control_env import PREFIX, suite_tasks
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, to_mapping

PAPER = ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid", "HumanoidStandup", "Swimmer")
MUJOCO_IDS = tuple(f"{name}-{version}" for version in ("v4", "v5") for name in PAPER)
OUR_IDS = tuple(
    f"smfp_sim.tasks:smfp/{name}"
    for name in ("Reach-v0", "ReachPose-v0", "ReachAround-v0", "Push-v0", "PointAround-v1")
)


@dataclass(frozen=True)
class TaskReport:
    """What one task is like. ``error``: why it could not be made; the rest is then zero."""

    env_id: str
    observations: int = 0
    actions: int = 0
    reproducible: bool = False
    """Two episodes with one seed and the same actions gave the same bits."""
    steps_per_s: float = 0.0
    """Of the environment alone, on one core."""
    error: str = ""


def examine(env_id: str, steps: int) -> TaskReport:
    """Make a task and drive it for ``steps`` steps, twice."""
    try:
        env = make_env(env_id, {})
    except ConfigError as error:
        return TaskReport(env_id, error=str(error))
    n_obs, n_act = sizes(env)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (steps, n_act)).astype(np.float32)
    started = time.monotonic()
    runs = []
    for _ in range(2):
        seen: list[NDArray[np.float64]] = []
        observation, _ = env.reset(seed=0)
        for action in actions:
            observation, reward, terminated, truncated, _ = env.step(action)
            seen.append(np.append(observation, float(reward)))
            if terminated or truncated:
                env.reset(seed=1)
        runs.append(np.array(seen))
    wall_s = time.monotonic() - started
    env.close()
    same = runs[0].tobytes() == runs[1].tobytes()
    return TaskReport(env_id, n_obs, n_act, same, round(2 * steps / wall_s, 1))


def known_ids() -> tuple[str, ...]:
    """The paper's seven tasks in both versions, the Control Suite where installed, and ours."""
    return (*MUJOCO_IDS, *(PREFIX + name for name in suite_tasks()), *OUR_IDS)


@dataclass
class Arguments:
    """Say which tasks run on this machine, with which versions."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Tasks to examine; all known ones without."""
    steps: int = 200
    """Steps of each of the two passes."""
    json: Path | None = None
    """Also write the result to this file."""


def main() -> None:
    """Entry point of ``python -m smfp_core.tasks``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.tasks")
    if arguments.steps < 1:
        sys.exit(f"error: --steps: must be at least 1, got {arguments.steps}")
    try:
        check_writable("--json", arguments.json)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    reports = [examine(env_id, arguments.steps) for env_id in arguments.ids or known_ids()]
    versions = {}
    for package in ("gymnasium", "mujoco", "dm-control", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    table = Table(title=", ".join(f"{name} {version}" for name, version in versions.items()))
    table.add_column("task", no_wrap=True)
    for column in ("observations", "actions", "repeats", "steps/s"):
        table.add_column(column, justify="right")
    for r in reports:
        if r.error:
            table.add_row(r.env_id, "-", "-", "-", "-")
        else:
            repeats = "yes" if r.reproducible else "NO"
            row = (str(r.observations), str(r.actions), repeats, f"{r.steps_per_s:.0f}")
            table.add_row(r.env_id, *row)
    Console().print(table)
    for r in reports:
        if r.error:
            print(r.error, file=sys.stderr)
    if arguments.json:
        record = {
            "measured_by": to_mapping(here("smfp_core.tasks")),
            "versions": versions,
            "tasks": [asdict(r) for r in reports],
        }
        write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")
    if any(r.error or not r.reproducible for r in reports):
        sys.exit(1)


if __name__ == "__main__":
    main()
