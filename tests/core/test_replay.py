# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from smfp_core.replay import ReplayBuffer


def filled(count: int, capacity: int = 5) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, n_obs=2, n_act=1)
    for i in range(count):
        buffer.add(np.full(2, i), np.full(1, 10 + i), 20 + i, np.full(2, 30 + i), i % 2 == 0)
    return buffer


def test_a_draw_returns_whole_transitions():
    batch = filled(4).sample(64, np.random.default_rng(0))
    i = batch.observation[:, 0]
    assert set(i.tolist()) == {0, 1, 2, 3}
    assert (batch.observation[:, 1] == i).all()
    assert (batch.action[:, 0] == 10 + i).all()
    assert (batch.reward == 20 + i).all()
    assert (batch.next_observation == (30 + i)[:, None]).all()
    assert (batch.terminated == (i % 2 == 0)).all()


def test_the_oldest_are_replaced():
    buffer = filled(8)
    batch = buffer.sample(200, np.random.default_rng(0))
    assert buffer.size == 5
    assert set(batch.observation[:, 0].tolist()) == {3, 4, 5, 6, 7}


def test_restored_buffer_goes_on_alike():
    original, other = filled(7), ReplayBuffer(5, 2, 1)
    other.restore(original.state())
    for buffer in (original, other):
        buffer.add(np.zeros(2), np.zeros(1), 99.0, np.zeros(2), False)
    draws = [b.sample(50, np.random.default_rng(1)).reward.tolist() for b in (original, other)]
    assert draws[0] == draws[1]


def test_content_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        ReplayBuffer(5, n_obs=3, n_act=1).restore(filled(2).state())
