# SPDX-License-Identifier: Apache-2.0
"""The table of every evaluation of a comparison, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from smfp_core.atomic import write_atomically
from smfp_core.comparison.plan import Run
from smfp_core.csv_log import read_log
from smfp_core.provenance import read_provenance
from smfp_core.strict import ConfigError

_NUMBERS = ("return_mean", "return_std", "wall_s")


@dataclass(frozen=True)
class Row:
    """One evaluation: mean and standard deviation of the return over its episodes."""

    task: str
    agent: str
    seed: int
    step: int
    protocol: str
    return_mean: float
    return_std: float
    wall_s: float
    """Since the run began, evaluations included, stops not."""
    git_revision: str = ""
    """That the run was begun at; empty in tables that do not say."""


def collect(runs: Iterable[Run]) -> list[Row]:
    """Every evaluation that the runs have made so far, run by run."""
    rows = []
    for run in runs:
        path = run.folder / "evaluations.csv"
        if not path.exists():
            continue
        revision = read_provenance(run.folder).git_revision
        for line in read_log(path)[1]:
            place = (run.task, run.agent, run.seed, int(line["step"]), line["mode"])
            mean, std, wall_s = (float(line[name]) for name in _NUMBERS)
            rows.append(Row(*place, mean, std, wall_s, revision))
    return rows


def last_watched(run: Run) -> dict[str, float]:
    """What the training logged last of its health (docs/algorithm.md), without empty columns."""
    path = run.folder / "train.csv"
    if not path.exists():  # a peer's run
        return {}
    _, lines = read_log(path)
    return {name: float(value) for name, value in lines[-1].items() if value} if lines else {}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write them so that ``read`` gives the same numbers back."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """Read what ``write`` wrote.

    Raises:
        ConfigError: names the file and the line or column that is wrong.
    """
    names = [f.name for f in fields(Row) if f.default is MISSING]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(names) - set(reader.fieldnames or ())
            if missing:
                raise ConfigError(f"{path}: lacks the columns {sorted(missing)}")
            rows = []
            for line in reader:
                try:
                    mean, std, wall_s = (float(line[name]) for name in _NUMBERS)
                    place = (line["task"], line["agent"], int(line["seed"]), int(line["step"]))
                    revision = line.get("git_revision") or ""
                    row = Row(*place, line["protocol"], mean, std, wall_s, revision)
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"{path}, line {reader.line_num}: {error}") from error
                if not math.isfinite(row.return_mean):
                    raise ConfigError(f"{path}, line {reader.line_num}: return_mean is not finite")
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise ConfigError(f"{path}: holds no evaluation")
    return rows
