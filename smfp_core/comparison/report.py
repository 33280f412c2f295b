# SPDX-License-Identifier: Apache-2.0
"""What a comparison says, from its table of evaluations alone: figures, tables and curves.

The protocols (deterministic, sampled, best of K by Q) are ways to act that differ, so that each has
tables and curves of its own and no number mixes two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smfp_core.atomic import write_atomically
from smfp_core.comparison.plan import RANDOM
from smfp_core.comparison.results import Row
from smfp_core.comparison.statistics import Scores, estimate, improvement

PROTOCOLS = ("deterministic", "sampled", "best_of_k")
# The protocol in which the reference's return is the one of normalised scores, for all protocols:
# so they share a scale.
REFERENCE_PROTOCOL = "deterministic"
Estimate = tuple[float, float, float]
"""Value and the ends of its 95 % bootstrap interval."""


@dataclass(frozen=True)
class Anchors:
    """Returns that are 0 and 1 of the normalised score of a task."""

    zero: float
    one: float

    def normalised(self, returns: Scores) -> Scores:
        """(return - zero) / (one - zero)."""
        return (returns - self.zero) / (self.one - self.zero)


class Evaluations:
    """The rows of a comparison, looked up by task, agent and protocol.

    Args:
        rows: in the order in which tasks are to be shown.
        reference: agent whose final return is one on the normalised scale.
        agents: in the order in which they are to be shown, the one that is set against each of the
            others first; default: as the rows have them.
    """

    def __init__(self, rows: Sequence[Row], reference: str, agents: Sequence[str] = ()) -> None:
        self.tasks = list(dict.fromkeys(row.task for row in rows))
        present_agents = dict.fromkeys(row.agent for row in rows if row.agent != RANDOM)
        self.agents = [a for a in agents or present_agents if a in present_agents]
        self.first = agents[0] if agents else next(iter(present_agents), "")
        self.reference = reference
        present = {row.protocol for row in rows if row.agent != RANDOM}
        self.protocols = [p for p in PROTOCOLS if p in present]
        self.protocols += sorted(present - set(PROTOCOLS))
        self.last_step = {t: max(row.step for row in rows if row.task == t) for t in self.tasks}
        self._rows: dict[tuple[str, str, str], list[Row]] = {}
        for row in sorted(rows, key=lambda row: (row.step, row.seed)):
            self._rows.setdefault((row.task, row.agent, row.protocol), []).append(row)

    def agents_with(self, protocol: str) -> list[str]:
        """Those that are evaluated in a protocol."""
        return [a for a in self.agents if any((t, a, protocol) in self._rows for t in self.tasks)]

    def curve(self, task: str, agent: str, protocol: str) -> dict[int, Scores]:
        """Returns [seeds] by step."""
        steps: dict[int, list[float]] = {}
        for row in self._rows.get((task, agent, protocol), ()):
            steps.setdefault(row.step, []).append(row.return_mean)
        return {step: np.array(values) for step, values in steps.items()}

    def final_by_seed(self, task: str, agent: str, protocol: str) -> dict[int, float]:
        """Returns of the runs that came to the task's last step, by their seed."""
        rows, last = self._rows.get((task, agent, protocol), ()), self.last_step[task]
        return {row.seed: row.return_mean for row in rows if row.step == last}

    def final(self, task: str, agent: str, protocol: str) -> Scores:
        """Returns [seeds] of the runs that came to the task's last step."""
        return np.array(list(self.final_by_seed(task, agent, protocol).values()))

    def shared(self, tasks: Iterable[str], agent: str, protocol: str) -> list[Scores]:
        """For each of ``tasks`` the final returns [seeds] of the seeds that all of them have."""
        found = [self.final_by_seed(task, agent, protocol) for task in tasks]
        seeds = set.intersection(*map(set, found)) if found else set()
        return [np.array([values[seed] for seed in sorted(seeds)]) for values in found]

    def shortest_s(self, task: str) -> float:
        """Wall time of the run that came first to the task's last step; NaN where none did."""
        return min(
            (
                row.wall_s
                for (of, agent, _), rows in self._rows.items()
                for row in rows
                if of == task and agent != RANDOM and row.step == self.last_step[task]
            ),
            default=math.nan,
        )

    def at_time(self, task: str, agent: str, protocol: str, wall_s: float) -> Scores:
        """Returns [seeds] after this wall time, on the line between evaluations.

        Runs that had no evaluation before it, or none after it, are left out.
        """
        runs: dict[int, list[Row]] = {}
        for row in self._rows.get((task, agent, protocol), ()):
            runs.setdefault(row.seed, []).append(row)
        values = []
        for rows in runs.values():
            times = [row.wall_s for row in rows]
            if times[0] <= wall_s <= times[-1]:
                values.append(np.interp(wall_s, times, [row.return_mean for row in rows]))
        return np.array(values, np.float64)

    def anchors(self, task: str) -> Anchors | None:
        """The normalised scale; None where the two agents are missing or in the wrong order."""
        random = self.curve(task, RANDOM, "sampled").get(0, np.array([]))
        reference = self.final(task, self.reference, REFERENCE_PROTOCOL)
        if not len(random) or not len(reference) or reference.mean() <= random.mean():
            return None
        return Anchors(float(random.mean()), float(reference.mean()))


def summarise(evaluations: Evaluations) -> dict[str, Any]:
    """Every figure of the report, as plain values.

    Per protocol: ``tasks`` (IQM of the final return for each task and agent), ``normalised`` (IQM
    over the tasks that have anchors), ``improvement`` (probability that the first agent beats
    another one) and ``equal_time`` (IQM of the return at the wall time of a task's fastest run).
    """
    e = evaluations
    anchors = {task: e.anchors(task) for task in e.tasks}
    scaled = {task: a for task, a in anchors.items() if a is not None}
    shortest_s = {task: e.shortest_s(task) for task in e.tasks}
    protocols: dict[str, Any] = {}
    for protocol in e.protocols:
        agents = e.agents_with(protocol)
        final = {(t, a): e.final(t, a, protocol) for t in e.tasks for a in agents}
        tasks = {
            task: {
                agent: {"iqm": estimate([final[task, agent]]), "seeds": len(final[task, agent])}
                for agent in agents
                if len(final[task, agent])
            }
            for task in e.tasks
        }
        equal_time: dict[str, Any] = {}
        for task, wall_s in shortest_s.items():
            then = {a: e.at_time(task, a, protocol, wall_s) for a in agents}
            cells = {a: {"iqm": estimate([v]), "seeds": len(v)} for a, v in then.items() if len(v)}
            if len(cells) > 1:
                equal_time[task] = {"wall_s": wall_s, "agents": cells}
        # An aggregate over other tasks than its neighbour's would be another quantity, and one with
        # more seeds of one task than of another would be that task's.
        normalised = {}
        for a in agents:
            returns = e.shared(scaled, a, protocol)
            if returns and len(returns[0]):
                pairs = zip(scaled.values(), returns, strict=True)
                normalised[a] = estimate([anchor.normalised(values) for anchor, values in pairs])
        first = e.first
        better = {}
        for other in agents if first in agents else ():
            if other == first:
                continue
            shared = [t for t in e.tasks if len(final[t, first]) and len(final[t, other])]
            if shared:
                ours, theirs = ([final[t, agent] for t in shared] for agent in (first, other))
                better[other] = {"probability": improvement(ours, theirs), "tasks": len(shared)}
        protocols[protocol] = {
            "tasks": tasks,
            "normalised": normalised,
            "improvement": {"of": first, "over": better},
            "equal_time": equal_time,
        }
    return {
        "last_step": e.last_step,
        "reference": e.reference,
        "anchors": {
            t: None if a is None else {"zero": a.zero, "one": a.one} for t, a in anchors.items()
        },
        "protocols": protocols,
    }


def markdown(summary: dict[str, Any]) -> str:
    """The summary as Markdown tables."""
    steps = sorted(set(summary["last_step"].values()))
    lines = [
        f"Returns at step {' or '.join(f'{s:,}' for s in steps)}: interquartile mean over seeds, "
        "95 % bootstrap interval in brackets, number of runs where agents differ in it."
    ]
    scaled = {task: a for task, a in summary["anchors"].items() if a}
    for protocol, part in summary["protocols"].items():
        lines += ["", f"### {protocol}", ""]
        agents = list(dict.fromkeys(a for cells in part["tasks"].values() for a in cells))
        lines += _row("task", *agents) + _row(*["---"] + ["---:"] * len(agents))
        for task, cells in part["tasks"].items():
            lines += _row(task, *_cells(cells, agents))
        if part["normalised"]:
            values = part["normalised"]
            row = [_shown(values[a], 2) if a in values else "-" for a in agents]
            lines += _row(f"**normalised, {len(scaled)} task(s)**", *row)
        for other, entry in part["improvement"]["over"].items():
            of, tasks = part["improvement"]["of"], entry["tasks"]
            text = f"P({of} > {other}) = {_shown(entry['probability'], 2)} over {tasks} task(s)"
            lines += ["", text]
        if part["equal_time"]:
            lines += ["", "At the wall time of the task's fastest run:", ""]
            lines += _row("task", "s", *agents) + _row(*["---"] + ["---:"] * (1 + len(agents)))
            for task, entry in part["equal_time"].items():
                lines += _row(task, f"{entry['wall_s']:.0f}", *_cells(entry["agents"], agents))
    if scaled:
        lines += ["", "### The normalised scale", ""]
        lines += _row("task", "0: random policy", f"1: {summary['reference']}")
        lines += _row("---", "---:", "---:")
        for task, anchor in scaled.items():
            lines += _row(task, f"{anchor['zero']:.1f}", f"{anchor['one']:.1f}")
    without = [task for task, anchor in summary["anchors"].items() if not anchor]
    if without:
        lines += [
            "",
            f"No normalised score for {', '.join(without)}: the random policy or "
            f"{summary['reference']} has no result, or the latter is not the better one.",
        ]
    return "\n".join(lines) + "\n"


def draw_curves(evaluations: Evaluations, folder: Path) -> list[Path]:
    """Learning curves, one PNG a protocol: IQM over seeds with its pointwise bootstrap band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    e, paths = evaluations, []
    for protocol in e.protocols:
        columns = min(4, len(e.tasks))
        rows = -(-len(e.tasks) // columns)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(4.2 * columns, 3.2 * rows + 0.4), squeeze=False
        )
        for axis in axes.flat[len(e.tasks) :]:
            axis.set_visible(False)
        for task, axis in zip(e.tasks, axes.flat, strict=False):
            for agent in e.agents_with(protocol):
                curve = e.curve(task, agent, protocol)
                if not curve:
                    continue
                band = np.array([estimate([values]) for values in curve.values()])
                color = f"C{e.agents.index(agent)}"  # the same in every figure
                axis.plot(list(curve), band[:, 0], label=agent, color=color)
                axis.fill_between(list(curve), band[:, 1], band[:, 2], alpha=0.2, color=color)
            random = e.curve(task, RANDOM, "sampled").get(0)
            if random is not None:
                axis.axhline(random.mean(), color="grey", linestyle=":", label=RANDOM)
            axis.set_title(task)
            axis.set_xlabel("environment steps")
        axes[0, 0].set_ylabel("return")
        named: dict[str, Any] = {}  # an agent may have been run on some of the tasks alone
        for axis in axes.flat:
            handles, labels = axis.get_legend_handles_labels()
            named.update(zip(labels, handles, strict=True))
        figure.suptitle(f"protocol: {protocol}")
        shown = [agent for agent in (*e.agents, RANDOM) if agent in named]
        figure.legend(
            [named[agent] for agent in shown],
            shown,
            loc="outside lower center",
            ncols=max(1, len(shown)),
        )
        figure.set_layout_engine("constrained")
        path = folder / f"curves_{protocol}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        paths.append(path)
    return paths


def write_report(
    rows: Sequence[Row], reference: str, folder: Path, agents: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``table.md`` and the curves into a folder and return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = Evaluations(rows, reference, agents)
    summary = summarise(evaluations)
    write_atomically(folder / "table.md", markdown(summary))
    draw_curves(evaluations, folder)
    return summary


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cells(cells: dict[str, Any], agents: Sequence[str]) -> list[str]:
    """What a row says of each agent; with the number of runs where that differs."""
    several = len({cell["seeds"] for cell in cells.values()}) > 1
    row = []
    for agent in agents:
        cell = cells.get(agent)
        count = f" ({cell['seeds']} runs)" if cell and several else ""
        row.append(_shown(cell["iqm"]) + count if cell else "-")
    return row


def _shown(value: Estimate, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if abs(value[0]) >= 1000 else 1
    middle, low, high = (f"{v:.{digits}f}" for v in value)
    # One run has no spread to draw from: an interval of no width would look like certainty.
    return middle if value[1] == value[2] else f"{middle} [{low}, {high}]"
