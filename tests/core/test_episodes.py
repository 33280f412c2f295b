# SPDX-License-Identifier: Apache-2.0
"""Episodes played side by side are those played one after the other."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from smfp_core.agents import make_agent
from smfp_core.collector import make_env, sizes
from smfp_core.config import TrainConfig
from smfp_core.episodes import Episode, play
from smfp_core.evaluate import agent_policies, summed_up

# Episodes of these seeds end at different steps under a random policy.
CONFIG = TrainConfig("Hopper-v4", compile=False, actor_hidden=(16,), critic_hidden=(16,))
SEEDS = [3, 1, 4, 15, 9, 2, 6]


def envs(count: int) -> list[gymnasium.Env]:
    return [make_env(CONFIG.env_id, {}) for _ in range(count)]


@pytest.mark.parametrize("mode", ["deterministic", "sampled", "best_of_k"])
def test_side_by_side_as_one_by_one(mode: str) -> None:
    agent = make_agent(CONFIG, *sizes(envs(1)[0]))
    policy = agent_policies(agent, np.full(agent.n_act, 0.3, np.float32))[mode]  # type: ignore[index]
    one_by_one = play(envs(1), policy, SEEDS)
    lengths = [len(episode.rewards) for episode in one_by_one]
    assert len(set(lengths)) > 2
    for count in (3, len(SEEDS), 2 * len(SEEDS)):
        together = play(envs(count), policy, SEEDS)
        assert [episode.index for episode in together] == list(range(len(SEEDS)))
        assert [len(episode.rewards) for episode in together] == lengths
        for one, other in zip(one_by_one, together, strict=True):
            np.testing.assert_allclose(one.rewards, other.rewards, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(one.observation, other.observation, rtol=1e-3, atol=1e-3)


def test_noise_is_not_the_stream_that_the_start_was_drawn_from() -> None:
    (env,) = envs(1)
    episode = Episode(0, 7, env)
    start = np.random.default_rng(7)
    assert not np.isin(episode.rng.uniform(size=20), start.uniform(size=100)).any()


def test_only_what_goes_on_is_acted_on() -> None:
    acted: list[list[int]] = []

    def policy(observation: np.ndarray, going: object) -> np.ndarray:
        assert isinstance(going, list) and len(going) == len(observation)
        for row, episode in zip(observation, going, strict=True):
            assert isinstance(episode, Episode) and not episode.done
            np.testing.assert_array_equal(row, episode.observation)
        acted.append([episode.index for episode in going])
        return np.stack([e.rng.uniform(-1, 1, 3) for e in going]).astype(np.float32)

    played = play(envs(2), policy, SEEDS[:3])
    first, second, third = (len(episode.rewards) for episode in played)
    assert first != second
    assert acted.count([2]) == third  # the third one by itself, once the first two have ended
    assert acted.count([0, 1]) == min(first, second)
    assert len(acted) == max(first, second) + third


def test_sum_of_two_episodes_by_hand() -> None:
    played = play(envs(2), lambda o, going: np.zeros((len(going), 3), np.float32), [0, 1])
    for episode, rewards in zip(played, ([1.0, 2.0, 4.0], [3.0]), strict=True):
        episode.rewards = rewards
        episode.info = {"is_success": rewards == [3.0], "distance_m": rewards[0]}
    result = summed_up("sampled", played, (lambda o, a: np.array([10.0, 5.0]), 0.5))
    assert (result.mode, result.episodes) == ("sampled", 2)
    assert (result.return_mean, result.return_std) == (5.0, 2.0)
    assert (result.success_rate, result.final_error_median_m) == (0.5, 2.0)
    assert result.final_angle_median_rad is None
    # Discounted 1 + 1 + 1 and 3: 10 - 3 and 5 - 3 too much.
    assert result.q_excess == 4.5
