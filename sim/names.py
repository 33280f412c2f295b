# SPDX-License-Identifier: Apache-2.0
"""Names that are added beside those of a model."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path


def unused_name(name: str, used: Collection[str]) -> str:
    """``name``, with a number before its ending where it is ``used`` already."""
    path = Path(name)
    others = (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2))
    return next(other for other in itertools.chain((name,), others) if other not in used)
