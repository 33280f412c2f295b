# SPDX-License-Identifier: Apache-2.0
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

ID = "smfp_sim.tasks:smfp/PointAround-v1"


def begun(angle_rad: float) -> tuple[gymnasium.Env, np.ndarray, dict]:
    """An episode that starts so far to the left of the axis; its first observation and info."""

    class Fixed:
        def uniform(self, low: float, high: float, size: int | None = None):
            return angle_rad if size is None else np.zeros(size)

    env = gymnasium.make(ID, disable_env_checker=True)
    env.unwrapped.np_random = Fixed()
    observation, info = env.reset()
    return env, observation, info


def drive(way: float) -> tuple[float, dict]:
    """By hand, from the axis: round the disc on one side, then to the goal."""
    env, observation, info = begun(0.0)
    assert info["equal_ways"]
    total, done = 0.0, False
    while not done:
        position, goal = observation[:2], observation[4:]
        corner = np.array([-0.3 if position[0] < -0.35 else 0.3, way * 0.55])
        target = goal if position[0] > 0.2 else corner
        action = np.clip(2.0 * (target - position), -1.0, 1.0)
        observation, reward, terminated, truncated, info = env.step(action.astype(np.float32))
        total += float(reward)
        done = terminated or truncated
    return total, info


def test_environment_keeps_gymnasiums_contract():
    check_env(gymnasium.make(ID).unwrapped, skip_render_check=True)


def test_both_ways_round_succeed_and_pay_the_same():
    (left, left_info), (right, right_info) = drive(1.0), drive(-1.0)
    assert left_info["is_success"] and right_info["is_success"]
    assert (left_info["way"], right_info["way"]) == ("left", "right")
    assert left == pytest.approx(right, rel=1e-6)


def test_straight_ahead_ends_at_the_disc():
    env, _, _ = begun(0.0)
    terminated, reward = False, 0.0
    for _ in range(12):
        _, reward, terminated, _, info = env.step(np.array([1.0, 0.0], np.float32))
        if terminated:
            break
    assert terminated and reward < 0.0 and not info["is_success"]


def test_episodes_start_to_either_side_and_say_where_both_ways_are_equally_good():
    env = gymnasium.make(ID, disable_env_checker=True)
    starts = [env.reset(seed=seed) for seed in range(400)]
    angles = np.array([np.arctan2(o[1], -o[0]) for o, _ in starts])
    equal = np.array([info["equal_ways"] for _, info in starts])
    np.testing.assert_array_equal(equal, np.abs(angles) < 0.05)
    assert 0 < equal.sum() < 40
    assert angles.min() < -0.9 and angles.max() > 0.9


def test_same_seed_gives_the_same_episode_to_the_bit():
    ends = []
    for _ in range(2):
        env = gymnasium.make(ID, disable_env_checker=True)
        env.reset(seed=7)
        actions = np.random.default_rng(0).uniform(-1, 1, (30, 2)).astype(np.float32)
        ends.append([env.step(action)[0].tobytes() for action in actions])
    assert ends[0] == ends[1]
