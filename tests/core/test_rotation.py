# SPDX-License-Identifier: Apache-2.0
"""Rotations against scipy's, and the orientations that a robot takes as goals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from smfp_core.orientations import Orientations
from smfp_core.rotation import angle, inverse, multiply, rotation_vector, unit_refusal
from smfp_core.strict import ConfigError

DOWN = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)
TAKEN = Orientations(DOWN, tilt_rad=0.5, yaw_rad=1.0)
parts = st.floats(-1.0, 1.0)
quaternions = (
    st.tuples(parts, parts, parts, parts)
    .filter(lambda q: math.hypot(*q) > 0.1)
    .map(lambda q: tuple(x / math.hypot(*q) for x in q))
)


@given(quaternions, quaternions)
def test_product_is_the_second_rotation_then_the_first(a, b):
    wanted = Rotation.from_quat(a) * Rotation.from_quat(b)
    found = Rotation.from_quat(multiply(a, b))
    assert (wanted * found.inv()).magnitude() < 1e-7
    np.testing.assert_allclose(multiply(a, inverse(a)), [0.0, 0.0, 0.0, 1.0], atol=1e-12)


@given(quaternions, quaternions)
def test_rotation_vector_turns_the_present_orientation_onto_the_wanted_one(a, b):
    vector = rotation_vector(a, b)
    turned = Rotation.from_rotvec(vector) * Rotation.from_quat(a)
    assert (turned * Rotation.from_quat(b).inv()).magnitude() < 1e-7
    assert math.hypot(*vector) <= math.pi + 1e-12
    assert math.isclose(angle(a, b), math.hypot(*vector))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 1.0, 3.0])
def test_small_and_large_angles_are_as_exact(size):
    turned = Rotation.from_rotvec([0.0, size, 0.0]).as_quat()
    assert math.isclose(angle((0.0, 0.0, 0.0, 1.0), turned.tolist()), size, abs_tol=1e-12)


@given(quaternions, quaternions, st.floats(0.9, 1.1))
def test_neither_sign_nor_length_of_a_quaternion_matters(a, b, length):
    other = [-length * x for x in b]
    wanted = rotation_vector(a, b)
    # Half a turn goes either way.
    if math.hypot(*wanted) < 3.1:
        np.testing.assert_allclose(rotation_vector(a, other), wanted, atol=1e-9)


@pytest.mark.parametrize(
    ("quaternion", "text"),
    [
        ((0.0, 0.0, 0.0, 0.0), "length 0"),
        ((0.0, 0.0, 0.0, 1.002), "length 1.002"),
        ((0.0, math.nan, 0.0, 1.0), "not finite"),
    ],
)
def test_what_is_no_rotation_is_refused(quaternion, text):
    assert text in (unit_refusal(quaternion) or "")
    assert text in (TAKEN.refusal(quaternion) or "")


def test_a_quaternion_a_little_off_unit_length_is_taken():
    assert unit_refusal((0.0, 0.0, 0.0, 1.0009)) is None


@given(st.floats(0.0, 1.4), st.floats(-3.0, 3.0), st.floats(-math.pi, math.pi))
def test_tilt_and_yaw_are_those_that_an_orientation_was_made_of(tilt, yaw, towards):
    axis = np.array([math.cos(towards), math.sin(towards), 0.0])
    made = (
        Rotation.from_quat(DOWN)
        * Rotation.from_rotvec(tilt * axis)
        * Rotation.from_rotvec([0.0, 0.0, yaw])
    )
    np.testing.assert_allclose(TAKEN.tilt_and_yaw(made.as_quat().tolist()), [tilt, yaw], atol=1e-7)
    lies_within = tilt <= 0.5 and abs(yaw) <= 1.0
    if abs(tilt - 0.5) > 1e-4 and abs(abs(yaw) - 1.0) > 1e-4:
        assert (TAKEN.refusal(made.as_quat().tolist()) is None) == lies_within


def test_drawn_orientations_are_taken_and_fill_the_range():
    rng = np.random.default_rng(0)
    drawn = [TAKEN.sample(rng) for _ in range(500)]
    assert all(TAKEN.refusal(q.tolist()) is None for q in drawn)
    tilts, yaws = np.array([TAKEN.tilt_and_yaw(q.tolist()) for q in drawn]).T
    assert tilts.max() > 0.48 and yaws.min() < -0.95 and yaws.max() > 0.95
    # Uniform over the cap: its inner half in angle holds a quarter of its area.
    assert 0.18 < np.mean(tilts < 0.25) < 0.33
    # The tool's z axis points down at most as far off as the tilt.
    z = Rotation.from_quat(np.array(drawn)).apply([0.0, 0.0, 1.0])
    np.testing.assert_allclose(np.arccos(-z[:, 2]), tilts, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"middle_xyzw": (0.0, 0.0, 0.0, 2.0)}, "middle_xyzw"),
        ({"tilt_rad": 1.6}, "tilt_rad"),
        ({"yaw_rad": -0.1}, "yaw_rad"),
    ],
)
def test_an_impossible_range_is_an_error_that_names_the_field(changed, field):
    given = {"middle_xyzw": DOWN, "tilt_rad": 0.5, "yaw_rad": 1.0} | changed
    with pytest.raises(ConfigError, match=field):
        Orientations(**given)
