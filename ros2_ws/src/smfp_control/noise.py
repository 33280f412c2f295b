# SPDX-License-Identifier: Apache-2.0
"""The noise that a policy turns into an action: fixed by default, drawn anew on request."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseRedraw = Literal["tick", "goal", "never"]


class NoiseSource:
    """Draws the policy's noise, repeatably.

    The noise is ``(1 - scale) * deterministic + scale * e`` with ``e ~ N(0, I)``: scale 0 is the
    policy's deterministic mode, scale 1 its full distribution.

    Args:
        deterministic: float32 [n_act], the noise of the deterministic mode.
        scale: from 0 to 1.
        seed: of the draws; ``restart`` begins them again.
        redraw: draw at each policy period (``tick``), for each goal, or once (``never``).
            A draw held for a whole goal commits to one mode of a multimodal policy.
    """

    def __init__(
        self, deterministic: NDArray[np.float32], scale: float, seed: int, redraw: NoiseRedraw
    ) -> None:
        self._fixed = np.asarray((1.0 - scale) * deterministic, np.float32)
        self._scale = np.float32(scale)
        self._seed = seed
        self._redraw = redraw
        self.value = self._fixed.copy()
        self._rng: np.random.Generator | None = None
        self.restart()

    def restart(self) -> None:
        """Begin the sequence of draws again."""
        # Not without need: numpy loads its generators, 4 MB, when the first one is made.
        if self._scale != 0.0:
            self._rng = np.random.default_rng(self._seed)
            self._draw()

    def on_goal(self) -> None:
        """A new goal was taken."""
        if self._redraw == "goal":
            self._draw()

    def on_policy_tick(self) -> None:
        """The policy is about to be sampled."""
        if self._redraw == "tick":
            self._draw()

    def _draw(self) -> None:
        if self._rng is None:
            return
        self._rng.standard_normal(out=self.value, dtype=np.float32)
        self.value *= self._scale
        self.value += self._fixed
