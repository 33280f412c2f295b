# SPDX-License-Identifier: Apache-2.0
"""Files that a reader, or a crash, never sees half of."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from smfp_core.strict import ConfigError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file (text as UTF-8) beside ``path`` and rename it into place.

    Makes the folder where it is missing: what took hours to measure is not lost for that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def check_writable(option: str, path: Path | None, suffix: str = "") -> None:
    """Make sure, before anything is measured, that a result can be written to ``path``.

    Args:
        option: that gave the path.
        path: None: nothing is to be written.
        suffix: that it must end in, where other files are written beside it by theirs.

    Raises:
        ConfigError: names the option.
    """
    problem = _problem_with(path, suffix) if path else ""
    if problem:
        raise ConfigError(f"{option}: {problem}")


def writable(suffix: str = "") -> Callable[[str], Path]:
    """``check_writable`` as the ``type`` of an option of argparse, which names it itself."""

    def checked(text: str) -> Path:
        problem = _problem_with(Path(text), suffix)
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return Path(text)

    return checked


def _problem_with(path: Path, suffix: str) -> str:
    folder = path.parent
    if suffix and path.suffix != suffix:
        return f"must end in {suffix}, got '{path}'"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder} cannot be made ({error.strerror})"
    if path.is_dir():
        return f"{path} is a folder"
    return "" if os.access(folder, os.W_OK) else f"{path} cannot be written: {folder} forbids it"
