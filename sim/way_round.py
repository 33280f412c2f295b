# SPDX-License-Identifier: Apache-2.0
"""How far it is round an obstacle, for a point that keeps its distance."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from smfp_core.robot import Obstacle
from smfp_core.specs import FloatArray

_Point = tuple[float, float]


def way_round_m(
    obstacle: Obstacle, start: FloatArray, end: FloatArray, clearance_m: float
) -> float:
    """Length of the shortest way from ``start`` to ``end`` [3] (m, base frame) round ``obstacle``.

    The obstacle is an upright box (a sphere: the box about it), grown by ``clearance_m``. Ways are
    past it on either side, rising evenly, and over it in the upright plane of both points: the
    least of the three is continuous, and at most some per cent above the shortest of all.
    """
    center = np.asarray(obstacle.center_m)
    size = obstacle.size_m or (2.0 * (obstacle.radius_m or 0.0),) * 3
    half = np.asarray(size) / 2 + clearance_m
    cos, sin = math.cos(obstacle.yaw_rad), math.sin(obstacle.yaw_rad)
    to_box = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    a, b = to_box @ (start - center), to_box @ (end - center)
    level = float(np.hypot(b[0] - a[0], b[1] - a[1]))
    rise = float(b[2] - a[2])
    corners = [(x, y) for x in (-half[0], half[0]) for y in (-half[1], half[1])]
    across = [
        math.hypot(_past((a[0], a[1]), (b[0], b[1]), corners, side), rise) for side in (1.0, -1.0)
    ]
    # Where, of the level way, the straight line is over the box's outline.
    first, last = _inside(a[:2], b[:2], half[:2])
    if first >= last:
        return math.hypot(level, rise)
    top = [(first * level, float(half[2])), (last * level, float(half[2]))]
    over = _past((0.0, float(a[2])), (level, float(b[2])), top, 1.0)
    return min(*across, over)


def _inside(a: FloatArray, b: FloatArray, half: FloatArray) -> tuple[float, float]:
    """The shares of the line from ``a`` to ``b`` [2] between which it is in the rectangle."""
    first, last = 0.0, 1.0
    for start, end, limit in zip(a.tolist(), b.tolist(), half.tolist(), strict=True):
        way = end - start
        if abs(way) < 1e-12:
            if abs(start) >= limit:
                return 0.0, 0.0
            continue
        low, high = sorted(((-limit - start) / way, (limit - start) / way))
        first, last = max(first, low), min(last, high)
    return first, last


def _past(start: _Point, end: _Point, corners: list[_Point], side: float) -> float:
    """Length of the shortest way from ``start`` to ``end`` that leaves ``corners`` on the right.

    ``side`` -1: on the left. It is the hull of both ends and of the corners in the way.
    """
    way = (end[0] - start[0], end[1] - start[1])
    length = math.hypot(*way)
    if length == 0.0:
        return 0.0
    # Along the straight line, and how far to the side.
    points: NDArray[np.float64] = np.array(
        [
            (
                (way[0] * (x - start[0]) + way[1] * (y - start[1])) / length,
                side * (way[0] * (y - start[1]) - way[1] * (x - start[0])) / length,
            )
            for x, y in corners
        ]
    )
    chain: list[_Point] = [(0.0, 0.0)]
    beside = [(s, d) for s, d in points.tolist() if d > 0.0 and 0.0 < s < length]
    for s, d in [*sorted(beside), (length, 0.0)]:
        # Drop what the new point sees past: the chain bends to the right only.
        while len(chain) > 1 and _turns_left(chain[-2], chain[-1], (s, d)):
            chain.pop()
        chain.append((s, d))
    return sum(math.dist(p, q) for p, q in itertools.pairwise(chain))


def _turns_left(a: _Point, b: _Point, c: _Point) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]) >= 0.0
