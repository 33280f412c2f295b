# SPDX-License-Identifier: Apache-2.0
"""Compare agents: python -m smfp_core.compare --config config/compare/smoke.yaml

Tasks x agents x seeds, each run a process of its own. The same call goes on after any stop: runs
that finished are skipped, others resumed; with more ``steps`` it goes on from where they ended.
Exit status 1 if a run failed, 130 if interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from smfp_core.atomic import check_writable, write_atomically
from smfp_core.comparison import report, results
from smfp_core.comparison.cluster import run_on_ray
from smfp_core.comparison.plan import CompareConfig, Run, plan
from smfp_core.comparison.runs import Outcome, Stop, run_here
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, load_dataclass, to_mapping


@dataclass
class Arguments:
    """Run a comparison and report it, or report one from its table of results."""

    config: Path | None = None
    """YAML of the comparison, for example config/compare/smoke.yaml."""
    out: Path | None = None
    """Output folder: runs, results.csv, table.md, curves (default runs/compare/<config>)."""
    workers: int | None = None
    """Runs side by side, one thread each (default: one a core)."""
    tasks: tuple[str, ...] = ()
    """Run only these tasks of the configuration in this call; what is there of the others is
    reported with them."""
    agents: tuple[str, ...] = ()
    """Run only these agents in this call (and the random policy)."""
    seeds: tuple[int, ...] = ()
    """Run only these seeds in this call."""
    ray_address: str | None = None
    """Run on the Ray cluster at this address, or on a new one here with 'local'."""
    have: tuple[Path, ...] = ()
    """Results of other machines or earlier calls: a run that is complete in one of these CSVs is
    taken from there and not run again."""
    report_only: Path | None = None
    """Run nothing: make table.md and the curves anew from this CSV (default folder: its own)."""
    json: Path | None = None
    """Also write the outcomes and every figure of the report to this file."""


Taken = dict[str, tuple[Path, list[results.Row]]]
"""Runs that were complete before, by name: the file, and their rows in it."""


def taken_from(paths: Sequence[Path], runs: Sequence[Run]) -> Taken:
    """What earlier results hold of the runs, as far as they came to their last step there.

    Raises:
        ConfigError: a file cannot be read, holds evaluations of more steps than the comparison
            has, or two files differ in a run.
    """
    taken: Taken = {}
    for path in paths:
        rows = results.read(path)
        for run in runs:
            own = [r for r in rows if (r.task, r.agent, r.seed) == (run.task, run.agent, run.seed)]
            last = max((r.step for r in own), default=-1)
            if last > run.last_step:
                raise ConfigError(
                    f"--have: {path} holds step {last} of {run.name}, which ends at {run.last_step}"
                )
            # Written while another run was between the protocols of its last step, a file has a
            # part of them.
            at_the_end = {r.protocol for r in own if r.step == last}
            if last < run.last_step or at_the_end != {r.protocol for r in own}:
                continue
            if taken.setdefault(run.name, (path, own))[1] != own:
                raise ConfigError(
                    f"--have: {path} and {taken[run.name][0]} hold {run.name} differently"
                )
    return taken


def part_of(arguments: Arguments, config: CompareConfig, runs: Sequence[Run]) -> list[Run]:
    """The runs that this call is asked for.

    Raises:
        ConfigError: a task, agent or seed is none of the configuration's.
    """
    for name in ("tasks", "agents", "seeds"):
        known = list(getattr(config, name))
        for value in getattr(arguments, name):
            if value not in known:
                raise ConfigError(f"--{name}: {value} is none of the configuration's {known}")
    agents = (*arguments.agents, report.RANDOM) if arguments.agents else ()
    return [
        run
        for run in runs
        if (not arguments.tasks or run.task in arguments.tasks)
        and (not agents or run.agent in agents)
        and (not arguments.seeds or run.seed in arguments.seeds)
    ]


class _Progress:
    """Says how each run ended and keeps results.csv up to date.

    ``expected`` is the number of runs to hear of, ``runs`` are those whose results are kept.
    """

    def __init__(self, runs: Sequence[Run], expected: int, taken: Taken, out: Path) -> None:
        self._runs, self._expected, self._taken, self._out = runs, expected, taken, out
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        count = f"[{len(self.outcomes)}/{self._expected}]"
        text = f"{count} {outcome.state}: {outcome.run.name}"
        if outcome.wall_s:
            text += f" ({outcome.wall_s:.0f} s)"
        if outcome.state == "failed":
            text += f" in {outcome.run.folder}\n" + outcome.last_lines
        print(text, file=sys.stderr, flush=True)
        if outcome.state not in ("skipped", "taken"):
            self.save()

    def save(self) -> list[results.Row]:
        rows = []
        for run in self._runs:
            known = self._taken.get(run.name)
            rows += known[1] if known else results.collect([run])
        results.write(self._out / "results.csv", rows)
        return rows


def ordered(rows: list[results.Row], config: CompareConfig | None) -> list[results.Row]:
    """Rows with tasks and agents in the configuration's order, without it in their own."""
    if config is None:
        return rows
    tasks, agents = list(config.tasks), [*config.agents, report.RANDOM]
    known = [row for row in rows if row.task in tasks and row.agent in agents]
    return sorted(known, key=lambda row: (tasks.index(row.task), agents.index(row.agent)))


def record(rows: list[results.Row], summary: dict[str, Any], outcomes: list[Outcome]) -> str:
    """Outcomes and summary as JSON."""
    revisions = {(row.task, row.agent, row.seed): row.git_revision for row in rows}
    runs = [
        {
            "task": o.run.task,
            "agent": o.run.agent,
            "seed": o.run.seed,
            "state": o.state,
            "wall_s": o.wall_s,
            "last_lines": o.last_lines,
            "source": o.source,
            "git_revision": revisions.get((o.run.task, o.run.agent, o.run.seed), ""),
            "watched": results.last_watched(o.run),
        }
        for o in outcomes
    ]
    measured_by = to_mapping(here("smfp_core.compare"))
    return json.dumps({"measured_by": measured_by, "runs": runs, **summary}, indent=1) + "\n"


def compare(arguments: Arguments) -> int:
    """Run and report; the exit status.

    Raises:
        ConfigError: names the argument, or the file and field, that is wrong.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers: must be at least 1, got {arguments.workers}")
    if arguments.config is None and arguments.report_only is None:
        raise ConfigError("--config: missing; give a YAML, for example config/compare/smoke.yaml")
    for option in ("have", "tasks", "agents", "seeds"):
        if arguments.report_only and getattr(arguments, option):
            raise ConfigError(f"--{option}: has no meaning with --report-only, which runs nothing")
    check_writable("--json", arguments.json)
    name = arguments.config.stem if arguments.config else "results"
    out = arguments.out or Path("runs") / "compare" / name
    config = load_dataclass(CompareConfig, arguments.config) if arguments.config else None
    stop, outcomes = Stop(), list[Outcome]()
    if arguments.report_only:
        out = arguments.out or arguments.report_only.parent
        rows = results.read(arguments.report_only)
    else:
        assert arguments.config is not None and config is not None
        runs = plan(arguments.config, out.resolve())
        part = part_of(arguments, config, runs)
        out.mkdir(parents=True, exist_ok=True)
        taken = taken_from(arguments.have, runs)
        # Those that finished in an earlier call are passed over, but heard of.
        due = [r for r in runs if r.name not in taken and (r in part or r.finished)]
        progress = _Progress(runs, len(taken) + len(due), taken, out)
        for run in runs:
            if run.name in taken:
                progress(Outcome(run, "taken", source=str(taken[run.name][0])))
        stop.listen()
        workers = arguments.workers or len(os.sched_getaffinity(0))
        if arguments.ray_address:
            run_on_ray(due, arguments.ray_address, workers, stop, progress)
        else:
            run_here(due, workers, stop, progress)
        rows, outcomes = progress.save(), progress.outcomes
    reference = config.reference if config else CompareConfig.reference
    known, summary = ordered(rows, config), dict[str, Any]()
    if rows and not known:
        raise ConfigError(
            f"--report-only: {arguments.report_only} has none of the tasks and agents of --config"
        )
    rows = known
    if any(row.agent != report.RANDOM for row in rows):
        agents = list(config.agents) if config else ()
        summary = report.write_report(rows, reference, out, agents)
        print((out / "table.md").read_text(encoding="utf-8"))
    if arguments.json:
        write_atomically(arguments.json, record(rows, summary, outcomes))
    if stop.requested:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    failed = [o.run.name for o in outcomes if o.state == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    """Entry point of ``python -m smfp_core.compare``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.compare", description=__doc__)
    try:
        sys.exit(compare(arguments))
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
