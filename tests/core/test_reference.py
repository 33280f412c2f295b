# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smfp_core.reference import (
    Reference,
    ReferenceLimits,
    action_to_command,
    advance_reference,
)
from smfp_core.robot import load_robot
from smfp_core.specs import ActionSpec
from smfp_core.strict import ConfigError

DT = 0.002
N = 3
LIMITS = ReferenceLimits(*(np.array([x]) for x in (-1.0, 1.0, 2.0, 5.0)))


def test_constant_action_integrates_to_its_velocity():
    spec = load_robot("ur5e").action_spec()
    limits, reference = ReferenceLimits.of(spec), Reference.at_rest(np.zeros(6))
    action = np.full(6, 0.5)
    for _ in range(500):
        action_to_command(spec, limits, action, reference)
    np.testing.assert_allclose(reference.velocity, 0.5 * limits.velocity)
    ramp_s = 0.5 * limits.velocity / limits.acceleration
    # Stepwise ramp: within one tick's way of the continuous one.
    expected = 0.5 * limits.velocity * (500 * DT - ramp_s / 2)
    np.testing.assert_allclose(reference.position, expected, atol=2e-3)


def plain_bounds(
    limits: ReferenceLimits, position: np.ndarray, velocity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The formula as one would write it down, with a temporary for every term."""

    def towards(room: np.ndarray) -> np.ndarray:
        step = limits.acceleration * DT
        root = np.sqrt(step * step + 2.0 * limits.acceleration * np.maximum(room, 0.0))
        return np.minimum(root - step, limits.velocity)

    slowest = velocity - limits.acceleration * DT
    fastest = velocity + limits.acceleration * DT
    upper = towards(limits.position_max - position)
    lower = -towards(position - limits.position_min)
    return (
        np.minimum(np.maximum(lower, slowest), fastest),
        np.maximum(np.minimum(upper, fastest), slowest),
    )


def rows(low: float, high: float, **special: bool) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, N, elements=st.floats(low, high, **special))


@settings(max_examples=200, deadline=None)
@given(
    lower=rows(-3.0, 0.0),
    upper=rows(0.1, 3.0),
    greatest=rows(0.1, 4.0),
    acceleration=rows(0.1, 40.0),
    position=rows(-4.0, 4.0),
    velocity=rows(-6.0, 6.0),
    actions=st.lists(
        rows(-2.0, 2.0) | arrays(np.float64, N, elements=st.floats(width=32, allow_nan=False)),
        min_size=1,
        max_size=5,
    ),
)
def test_a_tick_equals_the_plain_formula_to_the_bit_also_beyond_limits(
    lower: np.ndarray,
    upper: np.ndarray,
    greatest: np.ndarray,
    acceleration: np.ndarray,
    position: np.ndarray,
    velocity: np.ndarray,
    actions: list[np.ndarray],
):
    limits = ReferenceLimits(lower, upper, greatest, acceleration)
    spec = ActionSpec(
        ("a", "b", "c"),
        tuple(greatest),
        tuple(lower),
        tuple(upper),
        tuple(acceleration),
        policy_period_s=10 * DT,
        control_period_s=DT,
    )
    reference = Reference(position.copy(), velocity.copy())
    for action in actions:
        low, high = plain_bounds(limits, position, velocity)
        wanted = np.minimum(np.maximum(action, -1.0), 1.0) * greatest
        velocity = np.minimum(np.maximum(wanted, low), high)
        position = position + velocity * DT
        bounds = reference.bounds(limits, DT)
        fast_low, fast_high = bounds.at(reference.position.tolist(), reference.velocity.tolist())
        assert fast_low == low.tolist() and fast_high == high.tolist()
        action_to_command(spec, limits, action, reference)
        np.testing.assert_array_equal(reference.velocity, velocity, strict=True)
        np.testing.assert_array_equal(reference.position, position, strict=True)


@settings(max_examples=300, deadline=None)
@given(
    start=st.floats(-1.0, 1.0),
    wishes=st.lists(
        st.one_of(st.floats(-1e30, 1e30), st.just(np.inf), st.just(-np.inf)), max_size=400
    ),
    hold=st.integers(1, 60),
)
def test_reference_never_leaves_its_limits(start: float, wishes: list[float], hold: int):
    reference = Reference.at_rest([start])
    for wish in wishes:
        for _ in range(hold):
            before = reference.velocity.copy()
            advance_reference(LIMITS, reference, np.array([wish]), DT)
            assert -1.0 - 1e-12 <= reference.position[0] <= 1.0 + 1e-12
            assert abs(reference.velocity[0]) <= 2.0
            assert abs(reference.velocity[0] - before[0]) <= 5.0 * DT + 1e-12


def test_reference_reaches_its_limit_and_rests_there():
    reference = Reference.at_rest([0.0])
    for _ in range(3000):
        advance_reference(LIMITS, reference, np.array([2.0]), DT)
    assert reference.position[0] == pytest.approx(1.0, abs=1e-3)
    assert abs(reference.velocity[0]) < 1e-2


def test_reference_beyond_a_limit_brakes_within_its_acceleration_and_may_return():
    reference = Reference(np.array([1.2]), np.array([1.0]))
    low, high = reference.bounds(LIMITS, DT).at([1.2], [1.0])
    assert low == high == [pytest.approx(1.0 - 5.0 * DT)]
    for _ in range(2000):
        advance_reference(LIMITS, reference, np.array([-1.0]), DT)
    assert -1.0 <= reference.position[0] < 1.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scale_rad_s": (1.0,) * 5}, "scale_rad_s"),
        ({"scale_rad_s": (0.0,) * 6}, "scale_rad_s"),
        ({"position_min_rad": (9.0,) * 6}, "position_min_rad"),
        ({"policy_period_s": 0.0031}, "policy_period_s"),
        ({"joint_names": ("a",) * 6}, "joint_names"),
        ({"kind": "torque"}, "kind"),
    ],
)
def test_action_spec_names_what_is_wrong(change: dict[str, object], field: str):
    spec = load_robot("ur5e").action_spec()
    with pytest.raises(ConfigError, match=field):
        ActionSpec(**(vars(spec) | change))
