# SPDX-License-Identifier: Apache-2.0
"""What every task keeps to: a snapshot, restored in another instance, goes on to the bit."""

from __future__ import annotations

import numpy as np

from smfp_sim.tasks.reach import ReachEnv


def assert_goes_on_to_the_bit(env: ReachEnv, other: ReachEnv, steps: int) -> None:
    """Snapshot ``env`` after 20 of so many steps, restore it in ``other``, compare to the end."""
    env.reset(seed=11)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 6)).astype(np.float32)
    for action in actions[:20]:
        env.step(action)
    saved = env.snapshot()
    other.reset(seed=99)
    np.testing.assert_array_equal(other.restore(saved), env.restore(env.snapshot()))
    for action in actions[20:]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]
