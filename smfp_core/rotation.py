# SPDX-License-Identifier: Apache-2.0
"""Orientations as unit quaternions (x, y, z, w), as in geometry_msgs; plain floats, no allocation.

The product ``multiply(a, b)`` is the rotation ``b`` followed by ``a``, both about fixed axes. A
quaternion and its negative are the same orientation, and every function here treats them so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Quaternion = tuple[float, float, float, float]
UNIT_TOLERANCE = 1e-3


def multiply(a: Sequence[float], b: Sequence[float]) -> Quaternion:
    """The rotation ``b``, then ``a``."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def inverse(a: Sequence[float]) -> Quaternion:
    """The rotation back."""
    x, y, z, w = a
    return (-x, -y, -z, w)


def rotation_vector(present: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """What turns ``present`` onto ``wanted``: axis times angle [3] (rad), about fixed axes.

    The shorter way round, so its length is at most pi.
    """
    x, y, z, w = multiply(wanted, inverse(present))
    sine = math.hypot(x, y, z)
    if sine < 1e-12:
        return [0.0, 0.0, 0.0]
    # atan2 is exact for small angles, where acos is not.
    scale = 2.0 * math.atan2(sine, abs(w)) / math.copysign(sine, w)
    return [x * scale, y * scale, z * scale]


def angle(present: Sequence[float], wanted: Sequence[float]) -> float:
    """The smallest angle (rad) that turns one orientation onto the other."""
    return math.hypot(*rotation_vector(present, wanted))


def unit_refusal(quaternion: Sequence[float]) -> str | None:
    """Why a quaternion is not an orientation; None if its length is 1 within ``UNIT_TOLERANCE``."""
    if not all(map(math.isfinite, quaternion)):
        return "orientation is not finite"
    length = math.hypot(*quaternion)
    if abs(length - 1.0) > UNIT_TOLERANCE:
        return (
            f"orientation has length {length:.4g}, a quaternion of a rotation has length 1 "
            f"(within {UNIT_TOLERANCE:g})"
        )
    return None
