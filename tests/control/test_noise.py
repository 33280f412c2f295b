# SPDX-License-Identifier: Apache-2.0
"""When noise is drawn anew, and how its scale mixes it with the deterministic mode."""

from __future__ import annotations

import numpy as np
import pytest

from smfp_control.noise import NoiseSource

FIXED = np.array([0.5, -1.0, 0.25], np.float32)


def test_scale_zero_is_the_deterministic_mode() -> None:
    source = NoiseSource(FIXED, 0.0, 7, "tick")
    for _ in range(3):
        source.on_goal()
        source.on_policy_tick()
        assert (source.value == FIXED).all()


def test_scale_mixes_the_draw_with_the_deterministic_noise() -> None:
    draw = NoiseSource(FIXED, 1.0, 7, "never").value
    half = NoiseSource(FIXED, 0.5, 7, "never").value
    np.testing.assert_allclose(half, 0.5 * FIXED + 0.5 * draw, rtol=1e-6)


@pytest.mark.parametrize(
    ("redraw", "by_tick", "by_goal"),
    [("tick", True, False), ("goal", False, True), ("never", False, False)],
)
def test_noise_is_drawn_anew_when_asked(redraw: str, by_tick: bool, by_goal: bool) -> None:
    source = NoiseSource(FIXED, 1.0, 7, redraw)  # type: ignore[arg-type]
    first = source.value.copy()
    source.on_policy_tick()
    assert (source.value != first).any() == by_tick
    second = source.value.copy()
    source.on_goal()
    assert (source.value != second).any() == by_goal
    source.restart()
    assert (source.value == first).all()


def test_full_scale_is_standard_normal() -> None:
    source = NoiseSource(np.zeros(4, np.float32), 1.0, 0, "tick")
    draws = []
    for _ in range(5000):
        source.on_policy_tick()
        draws.append(source.value.copy())
    assert np.abs(np.mean(draws)) < 0.05 and abs(np.std(draws) - 1.0) < 0.05
