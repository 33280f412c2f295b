# SPDX-License-Identifier: Apache-2.0
"""The bandit's masses as a table on the console, a Markdown page and a figure."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from smfp_core.atomic import write_atomically
from smfp_core.provenance import Provenance


@dataclass(frozen=True)
class Row:
    """Masses of one run at one time."""

    problem: str
    agent: str
    entropy: str
    seed: int
    updates: int
    mass: list[float]
    """Share of actions at each optimum; the rest lies at none."""
    target: list[float]


@dataclass(frozen=True)
class Summary:
    """One agent on one problem over its seeds."""

    problem: str
    agent: str
    target: NDArray[np.float64]
    updates: NDArray[np.int64]
    error: NDArray[np.float64]
    """Greatest |mass - target| over optima, [seeds, times]."""
    final: NDArray[np.float64]
    """Mass at each optimum after the last update, [seeds, optima]."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Mean masses, worst error at the end and in the second half, optima held, mass at none."""
        second_half = self.error[:, len(self.updates) // 2 :]
        held = np.all(self.final > 0.25 * self.target, axis=1).tolist()
        return (
            self.problem,
            self.agent,
            " ".join(f"{mass:.2f}" for mass in self.final.mean(0)),
            f"{self.error[:, -1].max():.3f}",
            f"{second_half.max():.3f}",
            f"{sum(held)}/{len(held)}",
            f"{1 - self.final.sum(1).mean():.2f}",
        )


HEADINGS = (
    "problem",
    "agent",
    "mass (mean of seeds)",
    "worst error, end",
    "worst error, second half",
    "seeds with every optimum",
    "at none",
)


def summaries(rows: list[Row]) -> list[Summary]:
    """One for each problem and agent, in the order in which they come."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.problem, row.agent), []).append(row)
    result = []
    for problem in dict.fromkeys(row.problem for row in rows):
        for agent in dict.fromkeys(row.agent for row in rows):
            group = found[problem, agent]
            seeds = sorted({row.seed for row in group})
            updates = sorted({row.updates for row in group})
            mass = {(row.seed, row.updates): row.mass for row in group}
            stacked = np.array([[mass[seed, time] for time in updates] for seed in seeds])
            target = np.array(group[0].target)
            result.append(
                Summary(
                    problem,
                    agent,
                    target,
                    np.array(updates),
                    np.abs(stacked - target).max(-1),
                    stacked[:, -1],
                )
            )
    return result


def console_table(rows: list[Row]) -> Table:
    """For the terminal."""
    table = Table(*HEADINGS, title="Mass at each optimum")
    for summary in summaries(rows):
        table.add_row(*summary.cells)
    return table


def markdown(rows: list[Row], provenance: Provenance) -> str:
    """A page with the truth, the table, and where the figures come from."""
    found = summaries(rows)
    truths = {s.problem: " ".join(f"{w:g}" for w in s.target) for s in found}
    lines = [
        "# Several optima, held",
        "",
        f"`{provenance.command}` at revision `{provenance.git_revision[:12]}`, "
        f"{provenance.machine}; {found[0].updates[-1]} updates, {len(found[0].final)} seeds.",
        "",
        "True masses: " + "; ".join(f"{name} {truth}" for name, truth in truths.items()) + ".",
        "An error is the greatest difference of an optimum's mass from the truth, the worst over "
        "seeds; an optimum counts as there from a quarter of its true mass. Actions farther than "
        "three standard deviations from every optimum are at none (of the truth: 0.01).",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(summary.cells) + " |" for summary in found),
    ]
    return "\n".join(lines) + "\n"


def draw_figure(rows: list[Row], path: Path) -> None:
    """Masses at the end above, errors over the updates below; a column a problem."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    found = summaries(rows)
    problems = list(dict.fromkeys(s.problem for s in found))
    agents = list(dict.fromkeys(s.agent for s in found))
    figure = Figure(figsize=(3.6 * len(problems), 5.2), layout="constrained")
    axes = figure.subplots(2, len(problems), squeeze=False)
    for column, problem in enumerate(problems):
        bars, lines = axes[0, column], axes[1, column]
        group = [s for s in found if s.problem == problem]
        places = np.arange(len(group[0].target))
        width = 0.8 / len(agents)
        for i, summary in enumerate(group):
            colour = f"C{agents.index(summary.agent)}"
            low, middle, high = (f(summary.final, 0) for f in (np.min, np.mean, np.max))
            bars.bar(
                places + (i - (len(agents) - 1) / 2) * width,
                middle,
                width,
                yerr=[middle - low, high - middle],
                color=colour,
                error_kw={"linewidth": 0.7},
                label=summary.agent,
            )
            lines.plot(summary.updates, summary.error.mean(0), color=colour, label=summary.agent)
            lines.fill_between(
                summary.updates, summary.error.min(0), summary.error.max(0), color=colour, alpha=0.2
            )
        bars.hlines(
            group[0].target, places - 0.45, places + 0.45, color="black", linewidth=1, label="truth"
        )
        bars.set(title=problem, xticks=places, xlabel="optimum", ylim=(0, 1.05))
        lines.axhline(0.12, color="black", linewidth=0.7, linestyle=":")
        lines.set(xlabel="updates", ylim=(0, None))
    axes[0, 0].set_ylabel("mass (bars: range of seeds)")
    axes[1, 0].set_ylabel("greatest error of mass")
    axes[0, -1].legend(fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    write_atomically(path, content.getvalue())
