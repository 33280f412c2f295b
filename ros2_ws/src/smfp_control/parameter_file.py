# SPDX-License-Identifier: Apache-2.0
"""What a ROS 2 file of parameters says to a node, and where launch arguments say otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smfp_core.strict import ConfigError, load_yaml

_VALUES = "ros__parameters"


def refuse_contradictions(
    path: str | Path, node: str, arguments: Mapping[str, tuple[str, Any]]
) -> None:
    """Make sure that a file of parameters says nothing else than the arguments, which go first.

    Args:
        path: the file.
        node: full name of the node that it is for.
        arguments: by parameter, the name of the launch argument and its value; an empty name where
            the launch file alone decides.

    Raises:
        ConfigError: the file cannot be read, or gives one of these parameters another value.
    """
    for name, value in _stated(load_yaml(path), node):
        argument, given = arguments.get(name, ("", value))
        if value != given and not argument:
            raise ConfigError(
                f"{path}: {name} is '{value}', and this launch file's is always '{given}': take "
                f"{name} out of the file"
            )
        if value != given:
            raise ConfigError(
                f"{path}: {name} is '{value}', and the argument {argument}, which goes before it, "
                f"is '{given}': give {argument}:={value}, or take {name} out of the file"
            )


def _stated(data: Mapping[str, Any], node: str, section: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values in the sections that apply to ``node``."""
    for key, value in data.items():
        if not isinstance(value, dict):
            continue
        if key == _VALUES and _applies(section, node):
            yield from value.items()
        elif key != _VALUES:
            yield from _stated(value, node, f"{section}/{str(key).strip('/')}")


def _applies(section: str, node: str) -> bool:
    """``*`` stands for one part of a name, ``**`` for any number of them."""
    parts = {"*": "/[^/]+", "**": "(/[^/]+)*"}
    pattern = "".join(parts.get(part, "/" + re.escape(part)) for part in section.split("/") if part)
    return re.fullmatch(pattern, node) is not None
