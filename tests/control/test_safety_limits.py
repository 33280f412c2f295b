# SPDX-License-Identifier: Apache-2.0
"""The joint limits under any input: many arms at a time, each an independent case.

The filter treats joints one by one, so a filter of 6 x 100 joints is 100 arms. The first test
alone checks 60 x 25 x 100 = 150,000 steps of arms, each from a state and under an input of its own.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smfp_control.safety import Intervention, SafetyFilter
from smfp_core.reference import Reference, ReferenceLimits
from smfp_core.robot import load_robot

ARMS, TICKS = 100, 25
LIMITS = load_robot("ur5e").limits
WIDE = ReferenceLimits(
    *(
        np.tile(values, ARMS)
        for values in (
            LIMITS.position_min,
            LIMITS.position_max,
            LIMITS.velocity,
            LIMITS.acceleration,
        )
    )
)
N = len(WIDE.velocity)
# Periods between which the tests switch at will: jitter far beyond what a loop may do.
FILTERS = {dt: SafetyFilter(WIDE, dt) for dt in (0.0005, 0.001, 0.002, 0.003, 0.01, 0.05)}
ROUNDING = 1e-9

seeds = st.integers(0, 2**32 - 1)
periods = st.lists(st.sampled_from(sorted(FILTERS)), min_size=TICKS, max_size=TICKS)


def admissible(rng: np.random.Generator) -> Reference:
    """States from which braking at full acceleration ends within the limits, extremes included."""
    share = rng.uniform(0.0, 1.0, N) ** rng.choice([1.0, 8.0], N)
    share = np.where(rng.random(N) < 0.5, share, 1.0 - share)
    position = WIDE.position_min + share * (WIDE.position_max - WIDE.position_min)
    up = np.sqrt(2.0 * WIDE.acceleration * (WIDE.position_max - position))
    down = np.sqrt(2.0 * WIDE.acceleration * (position - WIDE.position_min))
    throttle = np.where(rng.random(N) < 0.3, 1.0, rng.uniform(0.0, 1.0, N))
    speed = np.where(rng.random(N) < 0.5, np.minimum(up, WIDE.velocity), 0.0)
    speed -= np.where(speed == 0.0, np.minimum(down, WIDE.velocity), 0.0)
    return Reference(position, throttle * speed)


def anything(rng: np.random.Generator, command: Reference) -> np.ndarray:
    """Sane desires, wild ones, and what is no number."""
    kind = rng.integers(0, 8, N)
    size = 10.0 ** rng.uniform(-12.0, 30.0, N)
    sign = rng.choice([-1.0, 1.0], N)
    return np.choose(
        kind,
        [
            rng.uniform(-1.0, 1.0, N) * WIDE.velocity,
            command.velocity + rng.normal(0.0, 0.02, N),
            sign * size,
            sign * 1e308,
            np.full(N, np.nan),
            sign * np.inf,
            sign * WIDE.velocity,
            np.zeros(N),
        ],
    )


def assert_step(before: Reference, after: Reference, dt: float) -> None:
    assert np.isfinite(after.position).all() and np.isfinite(after.velocity).all()
    assert (after.position >= WIDE.position_min - ROUNDING).all()
    assert (after.position <= WIDE.position_max + ROUNDING).all()
    assert (np.abs(after.velocity) <= WIDE.velocity + ROUNDING).all()
    assert (np.abs(after.velocity - before.velocity) <= WIDE.acceleration * dt + ROUNDING).all()
    moved = after.position - before.position
    assert (np.abs(moved - after.velocity * dt) <= ROUNDING).all()
    # Braking evenly from here ends within the limits: what makes every later tick possible.
    brake = after.velocity**2 / (2.0 * WIDE.acceleration)
    ahead = np.where(after.velocity > 0.0, WIDE.position_max, WIDE.position_min)
    assert (brake <= np.abs(ahead - after.position) + ROUNDING).all()


def copy(command: Reference) -> Reference:
    return Reference(command.position.copy(), command.velocity.copy())


@settings(max_examples=60, deadline=None)
@given(seeds, periods)
def test_whatever_comes_in_at_whatever_period_nothing_leaves_the_limits(
    seed: int, dts: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    command = admissible(rng)
    for dt in dts:
        before = copy(command)
        kinds = FILTERS[dt].apply(command, anything(rng, command))
        assert kinds & Intervention.NON_FINITE
        assert_step(before, command, dt)


@settings(max_examples=30, deadline=None)
@given(seeds, periods, st.sampled_from([0.0, np.nan, np.inf]))
def test_from_every_admissible_state_the_arm_stops_within_limits(
    seed: int, dts: list[float], desire: float
) -> None:
    command = admissible(np.random.default_rng(seed))
    longest = np.abs(command.velocity) / WIDE.acceleration
    elapsed = np.zeros(N)
    for dt in [*dts, *[0.01] * 40]:
        before = copy(command)
        elapsed += dt * (command.velocity != 0.0)
        FILTERS[dt].apply(command, np.full(N, desire))
        assert_step(before, command, dt)
    assert not command.velocity.any()
    # At full acceleration, and not a tick longer.
    assert (elapsed <= longest + max(FILTERS) + ROUNDING).all()


@pytest.mark.parametrize("dt", [0.002, 0.01, 0.05])
def test_pressing_on_ends_at_the_limit_and_stays(dt: float) -> None:
    command = admissible(np.random.default_rng(0))
    for _ in range(round(6.0 / dt)):
        FILTERS[dt].apply(command, WIDE.velocity)
    np.testing.assert_allclose(command.position, WIDE.position_max, atol=1e-3)
    assert (command.position <= WIDE.position_max + ROUNDING).all()
