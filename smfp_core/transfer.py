# SPDX-License-Identifier: Apache-2.0
"""How policies do on robots that are not the one they were trained on.

    python -m smfp_core.transfer config/policies/ur5e_reach.onnx --plants config/plants/*.yaml

The same episodes go through the gymnasium task and through ROS 2 in lock-step. Learning knows
neither simulation nor ROS, so the first half is the task of the policy's own training, made by its
id, and the second is the command ``python -m smfp_control.transfer`` in a process of its own.
Exit status 1 if an episode differs between the two without a cause in it: no intervention of the
safety filter and no fault of the node, which training has not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from smfp_core.atomic import check_writable, write_atomically
from smfp_core.collector import EVALUATION, episode_seed, make_env
from smfp_core.config import TrainConfig
from smfp_core.contract import require_same_task
from smfp_core.policy_file import PolicyFile
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, from_mapping, to_mapping

_ROS_HALF = "smfp_control.transfer"
_MOST_S = 3600.0


@dataclass(frozen=True)
class Row:
    """One policy on one plant, one way; ``policy`` is the stem of its file's name.

    ``interventions`` are those of the safety filter, None through gymnasium, which has no filter.
    ``faults`` counts episodes with one: of the policy node, or physics that diverged.
    """

    policy: str
    plant: str
    via: Literal["gymnasium", "ros"]
    episodes: int
    success_rate: float
    median_error_m: float
    peak_velocity_rad_s: float
    peak_acceleration_rad_s2: float
    contacts: int
    interventions: int | None
    faults: int
    real_time_factor: float


@dataclass(frozen=True)
class Difference:
    """What ROS 2 changed on one plant: ``equal`` counts trajectories that agree in every bit."""

    policy: str
    plant: str
    equal: int
    episodes: int
    success_rate: float
    median_error_m: float


def _row(
    policy: str,
    plant: str,
    via: Literal["gymnasium", "ros"],
    results: list[dict[str, Any]],
    interventions: int | None,
    period_s: float,
) -> Row:
    return Row(
        policy,
        plant,
        via,
        len(results),
        float(np.mean([r["success"] for r in results])),
        float(np.median([r["error_m"] for r in results])),
        max(r["peak_velocity_rad_s"] for r in results),
        max(r["peak_acceleration_rad_s2"] for r in results),
        sum(r["contact"] for r in results),
        interventions,
        sum(bool(r["fault"]) for r in results),
        round(period_s * sum(r["ticks"] for r in results) / sum(r["wall_s"] for r in results), 3),
    )


def _line(row: Row) -> str:
    return (
        f"{row.policy} on {row.plant} through {row.via}: {row.success_rate:.1%} of "
        f"{row.episodes}, median error {1e3 * row.median_error_m:.1f} mm, "
        f"{row.real_time_factor:g} times real time"
    )


def through_gymnasium(
    env: gymnasium.Env, policy: PolicyFile, seeds: list[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run one episode a seed; returns the episodes' beginnings and their results."""
    task: Any = env.unwrapped
    cases, results = [], []
    for seed in seeds:
        env.reset(seed=seed)
        options = task.start_options
        started = time.monotonic()
        # The node holds the arm for a period before it can have a goal.
        observation, _ = env.reset(options={**options, "hold_ticks": 1, "record": True})
        done = False
        info: dict[str, Any] = {}
        while not done:
            action = policy.sample(observation, policy.deterministic_noise)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        wall_s = time.monotonic() - started
        trajectory = task.trajectory
        cases.append(
            {
                "joint_position": np.asarray(options["joint_position"]).tolist(),
                "goal": options["goal"].tolist(),
                "plant_seed": options["plant_seed"],
            }
        )
        results.append(
            {
                "success": bool(info["is_success"]),
                "error_m": float(info["distance_m"]),
                "contact": bool(info["contact"]),
                "fault": info.get("message", ""),
                "ticks": len(trajectory),
                "peak_velocity_rad_s": trajectory.peak_velocity_rad_s(),
                "peak_acceleration_rad_s2": trajectory.peak_acceleration_rad_s2(),
                "sha256": trajectory.sha256(),
                "wall_s": wall_s,
            }
        )
    return cases, results


def through_ros(
    policy: Path, robot: str, plant: Path, steps: int, cases: list[dict[str, Any]]
) -> dict[str, Any]:
    """Run the same episodes over ROS 2, of at most ``steps`` policy steps.

    Returns:
        ``results`` as above, each with the ``interventions`` in it, and their sum.

    Raises:
        ConfigError: they could not be run, and the text is what the command said; or not in time.
    """
    command = [sys.executable, "-m", _ROS_HALF, str(policy), "--robot", robot]
    command += ["--plant", str(plant), "--steps", str(steps)]
    try:
        done = subprocess.run(
            command, input=json.dumps(cases), capture_output=True, text=True, timeout=_MOST_S
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{plant} through ROS 2: not done within {_MOST_S:g} s") from error
    if done.returncode != 0:
        raise ConfigError(f"{plant} through ROS 2: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@dataclass
class Arguments:
    """Run policies on robots that are not ideal, through gymnasium and through ROS 2."""

    policies: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Policy files, .onnx."""
    plants: tuple[Path, ...]
    """YAML files of the plants."""
    episodes: int = 100
    """Episodes on each plant through gymnasium."""
    ros_episodes: int | None = None
    """The first so many of them also through ROS 2; all by default, 0 for none."""
    seed: int = 2_000_000
    """Of the episodes."""
    json: Path | None = None
    """Also write the report to this file, row by row as they are measured."""
    add: bool = False
    """Keep what that file says of other policies."""

    def check(self) -> None:
        """Make sure that there is something to measure, and that its rows can be told apart.

        Raises:
            ConfigError: names the option, or the files.
        """
        if self.episodes < 1:
            raise ConfigError(f"--episodes: must be at least 1, got {self.episodes}")
        if self.ros_episodes is not None and self.ros_episodes < 0:
            raise ConfigError(f"--ros-episodes: must be at least 0, got {self.ros_episodes}")
        if self.seed < 0:
            raise ConfigError(f"--seed: must not be negative, got {self.seed}")
        check_writable("--json", self.json)
        for paths in (self.policies, self.plants):
            named: dict[str, Path] = {}
            for path in paths:
                if path.stem in named:
                    raise ConfigError(f"{named[path.stem]}, {path}: two of one name: rename one")
                named[path.stem] = path


def report(
    arguments: Arguments, console: Console, old: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Measure all rows and differences, beside what the report ``old`` has of other policies.

    The file of ``--json`` has each row once it is measured, whatever fails after it.

    Returns:
        the report, and of which policies and plants how many episodes differ without a cause.

    Raises:
        ConfigError: an option or a plant's file is wrong, ``old`` cannot be added to, or ROS 2
            could not be used.
        PolicyFileError: a policy's file is wrong, or its task is not what it was trained on.
    """
    arguments.check()
    policies = [PolicyFile.load(path) for path in arguments.policies]
    measured_by = to_mapping(here("smfp_core.transfer"))
    origins = [
        {"policy": str(policy.path), "sha256": policy.sha256, "measured_by": measured_by}
        for policy in policies
    ]
    if old is not None:
        check_addable(old, arguments.seed, origins)
    new: dict[str, Any] = {"seed": arguments.seed, "policies": []}
    new |= {"rows": [], "ros_minus_gymnasium": []}
    without_cause: list[str] = []

    def keep() -> dict[str, Any]:
        whole = new if old is None else added(old, new)
        if arguments.json:
            write_atomically(arguments.json, json.dumps(whole, indent=1) + "\n")
        return whole

    for policy, origin in zip(policies, origins, strict=True):
        new["policies"].append(origin)
        for row, difference, unexplained in _measure(policy, arguments):
            console.print(_line(row), highlight=False)
            new["rows"].append(asdict(row))
            if difference is not None:
                new["ros_minus_gymnasium"].append(asdict(difference))
            if unexplained:
                without_cause.append(
                    f"{unexplained} of {row.episodes} episodes of {row.policy} on {row.plant}"
                )
            keep()
    return keep(), without_cause


def _measure(
    policy: PolicyFile, arguments: Arguments
) -> Iterator[tuple[Row, Difference | None, int]]:
    """One policy on all plants; how many episodes differ without a cause comes last."""
    config = from_mapping(TrainConfig, policy.metadata.training.config)
    keywords = {k: v for k, v in config.env_kwargs.items() if k != "randomization"}
    # A user's robot is known by the path of its YAML alone.
    robot = str(keywords.get("robot", policy.robot_name))
    seeds = [episode_seed(arguments.seed, EVALUATION, i) for i in range(arguments.episodes)]
    name, period_s = policy.path.stem, policy.action.control_period_s
    for plant in arguments.plants:
        env = make_env(config.env_id, {**keywords, "plant": str(plant)})
        require_same_task(policy, env)
        cases, offline = through_gymnasium(env, policy, seeds)
        steps = env.spec.max_episode_steps if env.spec else None
        env.close()
        yield _row(name, plant.stem, "gymnasium", offline, None, period_s), None, 0
        if steps is None or arguments.ros_episodes == 0:
            continue
        cases = cases[: arguments.ros_episodes]
        answer = through_ros(policy.path, robot, plant, steps, cases)
        online, offline = answer["results"], offline[: len(cases)]
        row = _row(name, plant.stem, "ros", online, answer["interventions"], period_s)
        same = _row(name, plant.stem, "gymnasium", offline, None, period_s)
        unequal = [b for a, b in zip(offline, online, strict=True) if a["sha256"] != b["sha256"]]
        difference = Difference(
            name,
            plant.stem,
            len(online) - len(unequal),
            len(online),
            row.success_rate - same.success_rate,
            row.median_error_m - same.median_error_m,
        )
        yield row, difference, sum(not (r["interventions"] or r["fault"]) for r in unequal)


def check_addable(old: Any, seed: int, origins: list[dict[str, Any]]) -> None:
    """Make sure that the policies ``origins`` can stand in the report ``old``.

    Raises:
        ConfigError: it is not of the episodes of ``seed``, or has another policy of one's name.
    """
    if not isinstance(old, dict) or old.get("seed") != seed or "policies" not in old:
        raise ConfigError("--add: the file's episodes have another --seed, or it is no report")
    for origin in origins:
        path = Path(origin["policy"])
        for before in old["policies"]:
            known = Path(before["policy"])
            if known.stem != path.stem or before.get("sha256") == origin["sha256"]:
                continue
            # Of the same path it is the policy exported anew, whose rows take the place of the old.
            if known.resolve() != path.resolve():
                raise ConfigError(f"--add: {known}, {path}: two of one name: rename one")


def added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The report ``old`` with that of other policies, or of the same measured anew.

    Raises:
        ConfigError: they are of other episodes, or a policy has the name of another.
    """
    check_addable(old, new["seed"], new["policies"])
    again = {Path(origin["policy"]).stem for origin in new["policies"]}
    kept = {"policies": [o for o in old["policies"] if Path(o["policy"]).stem not in again]}
    for name in ("rows", "ros_minus_gymnasium"):
        kept[name] = [row for row in old[name] if row["policy"] not in again]
    return {"seed": new["seed"]} | {name: rows + new[name] for name, rows in kept.items()}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in ("policy", "plant", "via"):
        table.add_column(name, no_wrap=True)
    for name in ("episodes", "success", "median error", "peak rad/s", "peak rad/s2"):
        table.add_column(name, justify="right")
    for r in sorted(rows, key=lambda r: (r["plant"], r["via"])):
        table.add_row(
            r["policy"],
            r["plant"],
            r["via"],
            str(r["episodes"]),
            f"{r['success_rate']:.1%}",
            f"{1e3 * r['median_error_m']:.1f} mm",
            f"{r['peak_velocity_rad_s']:.2f}",
            f"{r['peak_acceleration_rad_s2']:.1f}",
        )
    return table


def main() -> None:
    """Entry point of ``python -m smfp_core.transfer``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.transfer")
    console = Console(stderr=True)
    try:
        if arguments.add and (arguments.json is None or not arguments.json.is_file()):
            raise ConfigError("--add: needs --json with a file that is there")
        old: dict[str, Any] | None = None
        if arguments.add and arguments.json:
            old = json.loads(arguments.json.read_text(encoding="utf-8"))
        record, without_cause = report(arguments, console, old)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    Console(width=None if sys.stdout.isatty() else 120).print(_table(record["rows"]))
    if without_cause:
        sys.exit(f"error: gymnasium and ROS 2 differ without a cause: {', '.join(without_cause)}")


if __name__ == "__main__":
    main()
