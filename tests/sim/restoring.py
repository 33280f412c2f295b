# SPDX-License-Identifier: Apache-2.0
"""What every task keeps to: seeds repeat, and a restored snapshot goes on, to the bit."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from smfp_sim.tasks.arm_task import ArmTask


def assert_goes_on_to_the_bit(env: ArmTask, other: ArmTask, steps: int) -> None:
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


def rollout(env: ArmTask, seed: int, steps: int) -> str:
    """Digest of every number of an episode under random actions."""
    digest = hashlib.sha256()
    observation, info = env.reset(seed=seed)
    actions = np.random.default_rng(seed)
    for _ in range(steps):
        digest.update(observation.tobytes())
        digest.update(json.dumps(info).encode())
        action = actions.uniform(-1.0, 1.0, 6).astype(np.float32)
        observation, reward, terminated, _, info = env.step(action)
        digest.update(np.float64(reward).tobytes())
        if terminated:
            observation, info = env.reset()
    return digest.hexdigest()
