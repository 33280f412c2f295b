# SPDX-License-Identifier: Apache-2.0
"""Files that a reader, or a crash, never sees half of."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file (text as UTF-8) beside ``path`` and rename it into place.

    Makes the folder where it is missing: what took hours to measure is not lost for that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
