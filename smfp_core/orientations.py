# SPDX-License-Identifier: Apache-2.0
"""Which orientations of the tool a robot takes as goals: a cone of approach, a range of yaw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smfp_core.rotation import Quaternion, inverse, multiply, unit_refusal
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError

# A goal at the edge, written with six decimals and sent again, is still one.
_TOLERANCE_RAD = 1e-5


@dataclass(frozen=True)
class Orientations:
    """Orientations about a middle one: the tool turned about its z axis, then that axis tilted.

    Attributes:
        middle_xyzw: the tool in the base frame, a unit quaternion.
        tilt_rad: greatest angle of the tool's z axis from where the middle has it, below pi/2.
        yaw_rad: greatest turn about it, either way, at most pi.
    """

    middle_xyzw: tuple[float, float, float, float]
    tilt_rad: float
    yaw_rad: float

    def __post_init__(self) -> None:
        refusal = unit_refusal(self.middle_xyzw)
        if refusal is not None:
            raise ConfigError(f"middle_xyzw: {refusal}")
        if not 0.0 <= self.tilt_rad < math.pi / 2:
            raise ConfigError("tilt_rad: must lie in [0, pi/2)")
        if not 0.0 <= self.yaw_rad <= math.pi:
            raise ConfigError("yaw_rad: must lie in [0, pi]")

    @cached_property
    def _middle(self) -> Quaternion:
        x, y, z, w = self.middle_xyzw
        length = math.hypot(x, y, z, w)
        return (x / length, y / length, z / length, w / length)

    def tilt_and_yaw(self, orientation: Sequence[float]) -> tuple[float, float]:
        """By how much (rad) an orientation is tilted from the middle, and turned about its axis."""
        x, y, z, w = multiply(inverse(self._middle), orientation)
        tilt = 2.0 * math.atan2(math.hypot(x, y), math.hypot(z, w))
        yaw = 2.0 * math.atan2(z, w)
        return tilt, math.remainder(yaw, 2.0 * math.pi)

    def refusal(self, orientation: Sequence[float]) -> str | None:
        """Why a quaternion (x, y, z, w; base frame) is not taken; None if it is."""
        refusal = unit_refusal(orientation)
        if refusal is not None:
            return refusal
        tilt, yaw = self.tilt_and_yaw(orientation)
        for name, value, most in (
            ("tilt", tilt, self.tilt_rad),
            ("yaw", abs(yaw), self.yaw_rad),
        ):
            if value > most + _TOLERANCE_RAD:
                return (
                    f"orientation not accepted: {name} {value:.3f} rad from the middle "
                    f"{[round(x, 4) for x in self.middle_xyzw]} (x, y, z, w), at most {most:g} rad"
                )
        return None

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """Draw one [4]: axis uniform in the cone, yaw uniform in its range."""
        tilt = math.acos(rng.uniform(math.cos(self.tilt_rad), 1.0))
        towards, yaw = rng.uniform(-math.pi, math.pi), rng.uniform(-self.yaw_rad, self.yaw_rad)
        sine = math.sin(tilt / 2)
        swing = (sine * math.cos(towards), sine * math.sin(towards), 0.0, math.cos(tilt / 2))
        turn = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        return np.array(multiply(self._middle, multiply(swing, turn)))
