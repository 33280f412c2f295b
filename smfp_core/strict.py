# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses from plain mappings, with errors that name the field.

A configuration that is read loosely fails late, on a robot: a misspelt key keeps its default and
nobody notices. Here an unknown key, a missing key or a value of another type is a ``ConfigError``
whose text starts with the field's path (``joints[2].velocity_rad_s``).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration value is missing, unknown or of the wrong kind."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML readers take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key.value}' is there twice",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return node


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, has a key twice, or is not a
            mapping.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of field names to values")
    return data


def load_dataclass(cls: type[T], path: str | Path) -> T:
    """Build the dataclass ``cls`` from a YAML file.

    Raises:
        ConfigError: names the file, the line, the field and what was expected of it.
    """
    data = load_yaml(path)
    with errors_in(path):
        return from_mapping(cls, data)


@contextmanager
def errors_in(path: str | Path, base: Path | None = None) -> Iterator[None]:
    """Put the YAML file and the line before the text of any ``ConfigError`` raised within.

    The text has to start with the path of a field; the line is that of the last part of it which
    the file has, and is left out where it has none. Of two files, the one that has more of it:
    ``base`` gives what ``path`` leaves open.
    """
    try:
        yield
    except ConfigError as error:
        files = [Path(path), *([base] if base else [])]
        places = [(file, *_place_of(file, str(error))) for file in files]
        file, _, line = max(places, key=lambda place: place[1])  # the first of equals
        raise ConfigError(f"{file}:{f'{line}:' if line else ''} {error}") from error


def _place_of(path: Path, text: str) -> tuple[int, int | None]:
    """Of the field that ``text`` begins with (``joints[2].velocity_rad_s: ...``): how many of its
    parts the file has, and the line of the last of them.
    """
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    depth, line = 0, None
    for part in re.split(r"[.\[\]:]+\s*", text):
        if isinstance(node, yaml.MappingNode):
            found = {key.value: (key, value) for key, value in node.value}.get(part)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            found = (node.value[int(part)],) * 2
        else:
            found = None
        if found is None:
            break
        depth, line, node = depth + 1, found[0].start_mark.line + 1, found[1]
    return depth, line


def from_mapping(cls: type[T], data: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping of plain YAML or JSON values.

    Args:
        cls: a dataclass; its field types may be bool, int, float, str, Path, Literal, optional
            types, unions of the first four, homogeneous or fixed tuples, ``dict[str, X]`` and other
            dataclasses.
        data: the mapping.
        where: path of ``data`` within its file, for the error text.

    Raises:
        ConfigError: names the field and what was expected of it.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a mapping, got {_shown(data)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{_join(where, key)}: unknown key{hint}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)}: missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def to_mapping(value: Any) -> Any:
    """Turn a dataclass into plain values that ``from_mapping``, YAML and JSON take back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init
        }
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = tuple(arg for arg in args if arg is not type(None))
        if len(inner) == 1:
            return _convert(inner[0], value, where)
        if type(value) not in inner:
            kinds = " or ".join(_KINDS[kind] for kind in inner)
            raise ConfigError(f"{where}: expected {kinds}, got {_shown(value)}")
        return _convert_scalar(type(value), value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: must be one of {list(args)}, got {_shown(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {_shown(value)}")
        return {str(k): _convert(args[1], v, _join(where, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}")
    pairs = zip(args, value, strict=True)
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


_KINDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{where}: must be finite, got {value}")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    if hint is Any:
        return value
    kind = _KINDS.get(hint, getattr(hint, "__name__", str(hint)))
    raise ConfigError(f"{where}: expected {kind}, got {_shown(value)}")
