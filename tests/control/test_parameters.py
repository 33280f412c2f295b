# SPDX-License-Identifier: Apache-2.0
"""Parameters as they are declared, and the page that is made from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smfp_control.parameter_page import COMMAND, page
from smfp_control.parameters import PolicyNodeParameters, SimNodeParameters, describe

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_page_is_what_the_descriptors_say() -> None:
    assert (ROOT / "docs/parameters.md").read_text() == page(), f"stale: run {COMMAND}"


@pytest.mark.parametrize("cls", [PolicyNodeParameters, SimNodeParameters])
def test_every_number_has_a_range_that_holds_its_default(cls: type) -> None:
    for row in describe(cls):
        ranges = [*row.descriptor.floating_point_range, *row.descriptor.integer_range]
        is_number = isinstance(row.default, int | float) and not isinstance(row.default, bool)
        assert len(ranges) == is_number, row.name
        for bounds in ranges:
            assert bounds.from_value <= row.default <= bounds.to_value, row.name


@pytest.mark.parametrize("cls", [PolicyNodeParameters, SimNodeParameters])
def test_units_in_names_are_those_of_the_descriptors(cls: type) -> None:
    units = {"_m_s": "m/s", "_s": "s", "_m": "m", "_rad": "rad", "_hz": "Hz"}
    for row in describe(cls):
        named = next((unit for suffix, unit in units.items() if row.name.endswith(suffix)), None)
        assert named in (None, row.unit), row.name
        assert row.descriptor.description.endswith(f" [{row.unit}]") or not row.unit


def test_what_is_read_at_start_is_read_only() -> None:
    assert {row.name for row in describe(PolicyNodeParameters) if row.descriptor.read_only} == {
        "autostart"
    }
    assert all(row.descriptor.read_only for row in describe(SimNodeParameters))
