# SPDX-License-Identifier: Apache-2.0
"""One page of a run: python -m smfp_core.report RUN [-o report.html]

Learning curves by evaluation mode, and the watch over training's health: what each quantity should
look like is said beside its curve. The page holds its pictures and needs nothing else.
"""

from __future__ import annotations

import base64
import html
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import tyro
from matplotlib import pyplot
from matplotlib.figure import Figure

from smfp_core.atomic import write_atomically
from smfp_core.csv_log import read_log
from smfp_core.provenance import read_provenance
from smfp_core.strict import ConfigError

WATCH = {
    "critic_loss": "should settle; growth without end is divergence",
    "sac_loss": "pathwise loss in units of |Q|; falls, then settles",
    "mirror_loss": "regression onto weighted candidates; near 0 is a collapsed policy",
    "q_mean": "least of the critics' values at the policy's actions",
    "q_scale": "running mean of |Q|, the unit of sac_loss",
    "alpha": "temperature; moves until the entropy meets its target",
    "entropy": "nats; falls from a wide start to its target",
    "log_std": "log sigma; at its lower bound of -5 noise no longer explores",
    "mean_spread": "distance of a state's candidates; 0 is a policy of one action",
    "effective_samples": "of the mirror weights; 1 means that one candidate takes all",
    "clipped_share": "share of actions beyond the box; near 1 only bang-bang is left",
    "episode_return": "of the collecting policy",
}
"""Column of train.csv to what a reader should look for in it."""


def _numbers(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    kept = [r for r in rows if r.get(name)]
    return [int(r["step"]) for r in kept], [float(r[name]) for r in kept]


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    pyplot.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _curves(evaluations: list[dict[str, str]]) -> str:
    names = [n for n in ("return_mean", "success_rate", "q_excess") if _numbers(evaluations, n)[0]]
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(5 * len(names), 3.2), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        for mode in dict.fromkeys(r["mode"] for r in evaluations):
            rows = [r for r in evaluations if r["mode"] == mode]
            axis.plot(*_numbers(rows, name), marker=".", label=mode)
        axis.set(title=name, xlabel="environment steps")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    return _picture(figure)


def _watch(training: list[dict[str, str]]) -> str:
    names = [name for name in WATCH if _numbers(training, name)[0]]
    columns = 3
    figure, axes = pyplot.subplots(
        -(-len(names) // columns),
        columns,
        figsize=(13, 2.4 * -(-len(names) // columns)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(*_numbers(training, name), linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    return _picture(figure)


def page(run: Path) -> str:
    """The report of a run's folder as HTML.

    Raises:
        ConfigError: the folder holds no run, or the run has logged nothing yet.
    """
    for name in ("config.yaml", "train.csv", "evaluations.csv"):
        if not (run / name).is_file():
            raise ConfigError(f"{run}: has no {name}; a report needs a run with an evaluation")
    (_, training), (_, evaluations) = map(read_log, (run / "train.csv", run / "evaluations.csv"))
    if not training or not evaluations:
        raise ConfigError(f"{run}: has logged nothing yet; a report needs a run with an evaluation")
    last_step = evaluations[-1]["step"]
    rows = "".join(
        f"<tr><td>{html.escape(r['mode'])}</td><td>{float(r['return_mean']):.1f} &plusmn; "
        f"{float(r['return_std']):.1f}</td><td>{r['success_rate'] or '-'}</td></tr>"
        for r in evaluations
        if r["step"] == last_step
    )
    explained = "".join(
        f"<dt>{name}</dt><dd>{html.escape(text)}</dd>"
        for name, text in WATCH.items()
        if _numbers(training, name)[0]
    )
    origin = read_provenance(run)
    config = html.escape((run / "config.yaml").read_text(encoding="utf-8"))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(run.name)}</title>
<style>body{{font:15px sans-serif;max-width:1200px;margin:2em auto}}img{{max-width:100%}}
td,th{{padding:.2em 1em;text-align:left}}dt{{font-weight:bold;float:left;clear:left;width:11em}}
dd{{margin-left:12em}}</style>
<h1>{html.escape(run.name)}</h1>
<p><code>{html.escape(origin.command)}</code><br>revision {html.escape(origin.git_revision)},
{html.escape(origin.machine)}</p>
<h2>Evaluation at step {last_step}</h2>
<table><tr><th>mode</th><th>return</th><th>success</th></tr>{rows}</table>
<img alt="evaluation curves" src="data:image/png;base64,{_curves(evaluations)}">
<h2>Health of the training</h2>
<img alt="training curves" src="data:image/png;base64,{_watch(training)}">
<dl>{explained}</dl>
<h2>Configuration</h2><pre>{config}</pre></html>
"""


@dataclass
class Arguments:
    """Write one page with a run's curves."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the training run."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The page; RUN/report.html if not given."""


def main() -> None:
    """Entry point of ``python -m smfp_core.report``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.report")
    output = arguments.output or arguments.run / "report.html"
    try:
        write_atomically(output, page(arguments.run))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(output)


if __name__ == "__main__":
    main()
