# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from smfp_core.strict import ConfigError, from_mapping, load_yaml, to_mapping


@dataclass(frozen=True)
class Inner:
    gain: float
    name: str = "p"


@dataclass(frozen=True)
class Outer:
    count: int
    parts: tuple[Inner, ...]
    span: tuple[float, float] = (0.0, 1.0)
    mode: Literal["fast", "safe"] = "safe"
    active: bool = True
    note: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    path: Path = Path("x")


GOOD = {"count": 2, "parts": [{"gain": 1}, {"gain": 2.5, "name": "d"}], "extra": {"a": "b"}}


def test_mapping_and_dataclass_convert_both_ways():
    value = from_mapping(Outer, GOOD)
    assert value.parts[1] == Inner(2.5, "d")
    assert isinstance(value.parts[0].gain, float)
    assert from_mapping(Outer, to_mapping(value)) == value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"count": 2.0}, "count: expected a whole number"),
        ({"count": True}, "count: expected a whole number"),
        ({"count": "2"}, "count: expected a whole number"),
        ({"cuont": 1}, "cuont: unknown key; did you mean 'count'"),
        ({"parts": [{"gain": "high"}]}, r"parts\[0\].gain: expected a number"),
        ({"parts": [{"gain": float("nan")}]}, r"parts\[0\].gain: must be finite"),
        ({"parts": [{}]}, r"parts\[0\].gain: missing"),
        ({"parts": 3}, "parts: expected a list"),
        ({"span": [1.0]}, "span: expected 2 values, got 1"),
        ({"mode": "slow"}, "mode: must be one of"),
        ({"active": 1}, "active: expected true or false"),
        ({"extra": {"a": 1}}, "extra.a: expected text"),
        ({"extra": []}, "extra: expected a mapping"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], text: str):
    with pytest.raises(ConfigError, match=text):
        from_mapping(Outer, GOOD | change)


def test_a_key_that_is_there_twice_is_refused_at_its_line(tmp_path: Path):
    path = tmp_path / "twice.yaml"
    path.write_text("policy: {velocity_rad_s: 0.3}\nname: a\npolicy: {acceleration_rad_s2: 4.0}\n")
    with pytest.raises(ConfigError, match=r"(?s)twice.yaml: .*'policy' is there twice.*line 3"):
        load_yaml(path)
    # What a mapping takes over from another one it may give anew.
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    assert load_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}


@pytest.mark.parametrize("content", ["a: [1", "- 1", "", "\xff"])
def test_file_that_is_no_mapping_is_named(tmp_path: Path, content: str):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_yaml(path)
