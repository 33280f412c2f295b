# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a folder of tensors (safetensors) and plain values (JSON), written atomically.

No pickle: a checkpoint from somebody else cannot run code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

FORMAT = 1
T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint is missing or cannot be read."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    arrays: dict[str, NDArray[np.generic]],
    values: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write checkpoint ``step`` below ``folder``, if it is not there, and drop all but the newest
    ``keep``.

    The files are synced and the folder renamed into place last, and renamed before it is deleted:
    a checkpoint that has its final name is whole.
    """
    final = path_of(folder, step)
    if final.exists():
        return final
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # clone(): safetensors refuses tensors that share memory.
    save_tensors({k: v.clone() for k, v in tensors.items()}, temporary / "agent.safetensors")
    contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    save_arrays(contiguous, temporary / "arrays.safetensors")
    (temporary / "values.json").write_text(json.dumps({"format": FORMAT, "step": step} | values))
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    os.replace(temporary, final)
    for old in _all(folder)[:-keep]:
        _drop(old)
    return final


def drop_after(folder: Path, step: int) -> None:
    """Drop the checkpoints beyond ``step``, from which a run goes on."""
    for path in _all(folder):
        if path > path_of(folder, step):
            _drop(path)


def tidy(folder: Path) -> None:
    """Drop what processes that were killed have left half written; none may be at it."""
    for path in folder.glob(".step_*"):
        shutil.rmtree(path)


def _drop(path: Path) -> None:
    going = path.with_name(f".{path.name}.{os.getpid()}")
    os.replace(path, going)
    shutil.rmtree(going)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies below ``folder``."""
    return folder / f"step_{step:09d}"


def steps(folder: Path) -> set[int]:
    """The steps that ``folder`` holds whole checkpoints of."""
    return {int(path.name.removeprefix("step_")) for path in _all(folder)}


def latest(folder: Path) -> Path:
    """The newest whole checkpoint below ``folder``.

    Raises:
        CheckpointError: there is none.
    """
    found = _all(folder)
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint; the run stopped before its first")
    return found[-1]


def load(
    path: Path,
) -> tuple[dict[str, Tensor], dict[str, NDArray[np.generic]], dict[str, Any]]:
    """Read what ``save`` wrote: tensors, arrays, values.

    Raises:
        CheckpointError: a file is missing, damaged or of another format.
    """
    try:
        tensors = load_tensors(path / "agent.safetensors")
        arrays = load_arrays(path / "arrays.safetensors")
        values = json.loads((path / "values.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {values.get('format')} is unknown, expected {FORMAT}"
        )
    return tensors, arrays, values


def load_agent_tensors(path: Path) -> dict[str, Tensor]:
    """The networks alone, without the replay buffer.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_tensors(path / "agent.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """State of a numpy generator as JSON values."""
    return dict(rng.bit_generator.state)


def under(values: Mapping[str, T], name: str) -> dict[str, T]:
    """The entries whose keys start with ``name.``, without that."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*")) if folder.is_dir() else []
