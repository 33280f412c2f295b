# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from smfp_core.replay import MultiStep, ReplayBuffer, ReplayError


def filled(count: int, capacity: int = 5) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, n_obs=2, n_act=1)
    for i in range(count):
        buffer.add(np.full(2, i), np.full(1, 10 + i), 20 + i, np.full(2, 30 + i), i % 2)
    return buffer


def test_a_draw_returns_whole_transitions():
    batch = filled(4).sample(64, np.random.default_rng(0))
    i = batch.observation[:, 0]
    assert set(i.tolist()) == {0, 1, 2, 3}
    assert (batch.observation[:, 1] == i).all()
    assert (batch.action[:, 0] == 10 + i).all()
    assert (batch.reward == 20 + i).all()
    assert (batch.next_observation == (30 + i)[:, None]).all()
    assert (batch.bootstrap == i % 2).all()


def test_the_oldest_are_replaced():
    buffer = filled(8)
    batch = buffer.sample(200, np.random.default_rng(0))
    assert buffer.size == 5
    assert set(batch.observation[:, 0].tolist()) == {3, 4, 5, 6, 7}


def test_restored_buffer_goes_on_alike():
    original, other = filled(7), ReplayBuffer(5, 2, 1)
    other.restore(original.state())
    for buffer in (original, other):
        buffer.add(np.zeros(2), np.zeros(1), 99.0, np.zeros(2), 0.0)
    same_draws(original, other)


def same_draws(*buffers: ReplayBuffer) -> None:
    drawn = [buffer.sample(50, np.random.default_rng(1)) for buffer in buffers]
    for parts in zip(*drawn, strict=True):
        for part in parts[1:]:
            torch.testing.assert_close(part, parts[0], rtol=0.0, atol=0.0)


def test_a_state_with_bootstraps_in_its_rows_is_taken_over():
    # As they were kept before they had an array of their own.
    original, other = filled(4), ReplayBuffer(5, 2, 1)
    state = original.state()
    joined = np.column_stack([state["rows"], state["bootstraps"]])
    other.restore({"rows": joined, "next": state["next"]})
    same_draws(original, other)


def test_a_larger_buffer_takes_over_a_full_one_in_order_of_age():
    larger = ReplayBuffer(8, n_obs=2, n_act=1)
    larger.restore(filled(7).state())  # of capacity 5: holds 2 to 6, wrapped
    for i in range(3):
        larger.add(np.full(2, 7 + i), np.zeros(1), 0.0, np.zeros(2), 0.0)
    state = larger.state()
    assert state["rows"][:, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert state["bootstraps"].tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    larger.add(np.full(2, 10), np.zeros(1), 0.0, np.zeros(2), 0.0)
    assert larger.state()["rows"][0, 0] == 10


def test_content_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        ReplayBuffer(5, n_obs=3, n_act=1).restore(filled(2).state())


def played(steps: int, rewards: list[float], *, terminated: bool, truncated: bool) -> np.ndarray:
    """What a buffer holds after one episode that ends so; observation i leads to i + 1.

    Columns: observation, action, reward, next observation, bootstrap.
    """
    buffer = ReplayBuffer(100, n_obs=1, n_act=1)
    joiner = MultiStep(buffer, steps, discount=0.5)
    for i, reward in enumerate(rewards):
        last = i == len(rewards) - 1
        step = (np.full(1, i), np.zeros(1), reward, np.full(1, i + 1))
        joiner.add(*step, terminated and last, truncated and last)
    state = buffer.state()
    return np.column_stack([state["rows"], state["bootstraps"]])


def test_steps_are_joined_with_their_discounted_reward():
    rows = played(3, [1.0, 2.0, 4.0, 8.0], terminated=False, truncated=False)
    # The last two steps still wait.
    np.testing.assert_allclose(rows, [[0, 0, 3.0, 3, 0.125], [1, 0, 6.0, 4, 0.125]])


def test_termination_is_not_bootstrapped_and_truncation_is():
    for terminated, bootstrap in ((True, [0, 0, 0]), (False, [0.25, 0.25, 0.5])):
        rows = played(2, [1.0, 2.0, 4.0], terminated=terminated, truncated=not terminated)
        np.testing.assert_allclose(rows[:, 2], [2.0, 4.0, 4.0])
        np.testing.assert_allclose(rows[:, 3], [2, 3, 3])
        # Even the first row, whose two steps end before the last: only the end decides.
        np.testing.assert_allclose(rows[1:, 4], bootstrap[1:])
        assert rows[0, 4] == 0.25


def test_no_transition_joins_two_episodes():
    buffer = ReplayBuffer(100, n_obs=1, n_act=1)
    joiner = MultiStep(buffer, 3, discount=1.0)
    for episode in range(2):
        for i in range(4):
            observation = np.full(1, 10 * episode + i)
            joiner.add(observation, np.zeros(1), 1.0, observation + 1, False, i == 3)
    rows = buffer.state()["rows"]
    assert len(rows) == 8
    assert (rows[:, 3] - rows[:, 0] == rows[:, 2]).all()


def test_half_precision_rows_take_half_and_refuse_what_they_cannot_hold():
    buffer = ReplayBuffer(8, 2, 1, np.float16)
    ones = np.ones(2, np.float32)
    buffer.add(ones, ones[:1], 0.1234, ones, 0.99)
    batch = buffer.sample(4, np.random.default_rng(0))
    assert batch.reward.dtype == torch.float32
    assert batch.reward[0].item() == pytest.approx(0.1234, rel=1e-3)
    assert buffer.state()["rows"].itemsize == 2
    # The discount sets the horizon, and to half precision 0.99999 would be 1.
    buffer.add(ones, ones[:1], 0.0, ones, 0.99999)
    drawn = buffer.sample(40, np.random.default_rng(0)).bootstrap
    assert set(drawn.tolist()) == {np.float32(0.99), np.float32(0.99999)}
    with pytest.raises(ReplayError, match=r"not finite as float16.* set replay_dtype: float32"):
        buffer.add(ones, ones[:1], 1e6, ones, 0.99)


def test_what_is_refused_replaces_nothing():
    buffer = ReplayBuffer(1, 2, 1, np.float16)
    ones = np.ones(2, np.float32)
    buffer.add(ones, ones[:1], 0.5, ones, 0.99)
    before = buffer.state()["rows"].copy()
    with pytest.raises(ReplayError):
        buffer.add(2 * ones, ones[:1], 1e6, ones, 0.99)
    np.testing.assert_array_equal(buffer.state()["rows"], before)


def test_what_is_not_finite_never_enters():
    buffer = ReplayBuffer(8, 2, 1)
    ones = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        buffer.add(ones, ones[:1], 0.0, ones * np.nan, 0.99)
    assert buffer.size == 0
