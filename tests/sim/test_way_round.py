# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smfp_core.robot import Obstacle
from smfp_sim.way_round import way_round_m

POST = Obstacle("post", (0.5, 0.0, 0.2), size_m=(0.12, 0.12, 0.4))
PLACES = st.tuples(st.floats(0.2, 0.8), st.floats(-0.5, 0.5), st.floats(0.0, 0.7)).map(np.array)


def length(start: tuple, end: tuple, clearance_m: float = 0.05) -> float:
    return way_round_m(POST, np.array(start), np.array(end), clearance_m)


def test_a_free_way_is_straight() -> None:
    assert length((0.65, -0.3, 0.1), (0.65, 0.3, 0.1)) == pytest.approx(0.6)
    assert length((0.5, -0.3, 0.5), (0.5, 0.3, 0.5)) == pytest.approx(0.6)
    assert length((0.5, -0.3, 0.1), (0.5, -0.3, 0.1)) == 0.0


def test_round_a_post_it_is_by_the_corners() -> None:
    # Past both corners of one side, grown by 5 cm: 0.11 m each way from the middle.
    beside = 2 * math.hypot(0.19, 0.11) + 0.22
    assert length((0.5, -0.3, 0.1), (0.5, 0.3, 0.1)) == pytest.approx(beside)
    # Nearer to the top the way over is shorter.
    over = 2 * math.hypot(0.19, 0.05) + 0.22
    assert length((0.5, -0.3, 0.4), (0.5, 0.3, 0.4)) == pytest.approx(over)


def test_a_turned_box_and_a_ball_are_gone_round_too() -> None:
    turned = Obstacle("wall", (0.5, 0.0, 0.5), size_m=(0.4, 0.04, 1.0), yaw_rad=math.pi / 2)
    start, end = np.array([0.4, 0.0, 0.1]), np.array([0.6, 0.0, 0.1])
    wall = 2 * math.hypot(0.2, 0.08) + 0.04
    assert way_round_m(turned, start, end, 0.0) == pytest.approx(wall)
    ball = Obstacle("ball", (0.5, 0.0, 0.1), radius_m=0.05)
    assert way_round_m(ball, start, end, 0.0) == pytest.approx(2 * math.hypot(0.05, 0.05) + 0.1)


@given(PLACES, PLACES)
def test_it_is_a_distance_and_as_long_back(start: np.ndarray, end: np.ndarray) -> None:
    there = way_round_m(POST, start, end, 0.05)
    assert there >= np.linalg.norm(end - start) - 1e-12
    assert there == pytest.approx(way_round_m(POST, end, start, 0.05), abs=1e-9)
    # No way is longer than by the side of the post, whose outline is 0.88 m.
    assert there <= np.linalg.norm(end - start) + 0.5
