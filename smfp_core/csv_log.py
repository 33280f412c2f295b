# SPDX-License-Identifier: Apache-2.0
"""Reading the CSV files that a run logs to."""

from __future__ import annotations

import csv
from pathlib import Path


def read_log(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a log, without a row that a crash cut short.

    Such a row has no full set of values; the reader gives None for those that it lacks.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values()]
        return list(reader.fieldnames or []), rows
