# SPDX-License-Identifier: Apache-2.0
"""Files that a reader, or a crash, never sees half of."""

from __future__ import annotations

import os
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
    if path is None:
        return
    if suffix and path.suffix != suffix:
        raise ConfigError(f"{option}: must end in {suffix}, got '{path}'")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: {folder} cannot be made ({error.strerror})") from error
    if path.is_dir() or not os.access(folder, os.W_OK):
        wrong = "is a folder" if path.is_dir() else f"cannot be written: {folder} forbids it"
        raise ConfigError(f"{option}: {path} {wrong}")
