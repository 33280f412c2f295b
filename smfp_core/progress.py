# SPDX-License-Identifier: Apache-2.0
"""What a run shows and writes down: a progress bar, CSV files and TensorBoard."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from smfp_core.atomic import write_atomically
from smfp_core.csv_log import read_log
from smfp_core.evaluate import Evaluation

RECENT_EPISODES = 20


class RunLog:
    """Logs of one run. After a resume, rows beyond the checkpoint are dropped and made anew.

    Args:
        folder: of the run.
        steps: of the whole run.
        start: step that it begins or goes on at.
        bar: whether a terminal shows a progress bar; one process can show one.
    """

    def __init__(self, folder: Path, steps: int, start: int, bar: bool = True) -> None:
        self._training = _CsvLog(folder / "train.csv", start)
        self._evaluation = _CsvLog(folder / "evaluations.csv", start)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._successes: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._last: tuple[int, float | None] = (start, None)
        console = Console(stderr=True)
        self._interactive = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (bar and self._interactive),
        )
        self._console = console
        self._task = self._progress.add_task("train", total=steps, completed=start, text="")

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._training.close()
        self._evaluation.close()
        self._board.close()

    def episode(self, episode_return: float, success: bool | None) -> None:
        """A training episode ended."""
        self._returns.append(episode_return)
        if success is not None:
            self._successes.append(float(success))

    def training(self, step: int, wall_s: float, metrics: dict[str, float]) -> None:
        """Write one row of the training log."""
        last_step, last_wall_s = self._last
        rate = (step - last_step) / max(wall_s - last_wall_s, 1e-9) if last_wall_s else 0.0
        self._last = (step, wall_s)
        row: dict[str, float | None] = {
            "step": step,
            "wall_s": round(wall_s, 2),
            "steps_per_s": round(rate, 1),
            "episode_return": float(np.mean(self._returns)) if self._returns else None,
            "success": float(np.mean(self._successes)) if self._successes else None,
        }
        row.update(metrics)
        if metrics:
            self._training.write(row)
        for name, value in row.items():
            if name != "step" and value is not None:
                self._board.add_scalar(f"train/{name}", value, step)
        text = f"{rate:.0f} steps/s"
        if self._returns:
            text += f", return {np.mean(self._returns):.1f}"
        if self._successes:
            text += f", success {np.mean(self._successes):.0%}"
        self._progress.update(self._task, completed=step, text=text)

    def evaluation(self, step: int, wall_s: float, result: Evaluation) -> None:
        """Write one row of the evaluation log and say it on the console."""
        row = {"step": step, "wall_s": round(wall_s, 2)} | vars(result)
        self._evaluation.write(row)
        for name, value in vars(result).items():
            if isinstance(value, float):
                self._board.add_scalar(f"evaluation/{result.mode}/{name}", value, step)
        text = f"step {step} ({wall_s:.0f} s) {result.mode}: return {result.return_mean:.1f}"
        if result.success_rate is not None:
            text += f", success {result.success_rate:.0%}"
        if result.final_error_median_m is not None:
            text += f", median error {1e3 * result.final_error_median_m:.1f} mm"
        if result.final_angle_median_rad is not None:
            text += f", {result.final_angle_median_rad:.3f} rad"
        self._progress.console.print(text, highlight=False)


class _CsvLog:
    """A CSV that appends rows; its header is that of the first row.

    Values that a later version adds to a row are left out of a file that was begun without them.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._file: TextIO | None = None
        self._path = path
        self._names: list[str] = []
        if path.exists():
            _drop_rows_after(path, start)

    def write(self, row: Mapping[str, object]) -> None:
        if self._file is None:
            self._file = self._path.open("a+", newline="", encoding="utf-8")
            self._file.seek(0)
            self._names = next(csv.reader(self._file), [])
        new = not self._names
        self._names = self._names or list(row)
        writer = csv.DictWriter(self._file, self._names, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _drop_rows_after(path: Path, step: int) -> None:
    names, rows = read_log(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    if names:
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)
    write_atomically(path, text.getvalue())
