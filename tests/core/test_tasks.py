# SPDX-License-Identifier: Apache-2.0
"""The tasks that training takes by id: gymnasium's MuJoCo tasks, the Control Suite, our own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smfp_core.collector import make_env
from smfp_core.config import load_config
from smfp_core.strict import ConfigError
from smfp_core.tasks import MUJOCO_IDS, examine

SUITE_IDS = (
    "dm_control/acrobot-swingup",
    "dm_control/cartpole-swingup",
    "dm_control/cheetah-run",
    "dm_control/finger-spin",
    "dm_control/hopper-hop",
    "dm_control/humanoid-walk",
    "dm_control/quadruped-walk",
    "dm_control/reacher-easy",
)
needs_suite = pytest.mark.skipif(
    util.find_spec("dm_control") is None,
    reason="dm-control is not installed (its dependency labmaze has no wheel for Python 3.13)",
)
every_task = pytest.mark.parametrize(
    "env_id", [*MUJOCO_IDS, *(pytest.param(i, marks=needs_suite) for i in SUITE_IDS)]
)


def rollout(env: Any, seed: int, actions: np.ndarray) -> list[bytes]:
    observation, _ = env.reset(seed=seed)
    seen = [observation.tobytes()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(np.append(observation, [reward, terminated, truncated]).tobytes())
        if terminated or truncated:
            break
    return seen


@every_task
def test_task_repeats_itself_to_the_bit_by_its_seed(env_id: str):
    env = make_env(env_id, {})
    n_act = env.action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (8, n_act)).astype(np.float32)
    first = rollout(env, 3, actions)
    assert rollout(env, 4, actions) != first
    assert rollout(env, 3, actions) == first  # after another episode
    assert rollout(make_env(env_id, {}), 3, actions) == first  # and in a new environment
    observation, _ = env.reset(seed=5)
    assert observation.shape == env.observation_space.shape
    assert np.isfinite(observation).all()


def joint_controls(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the actuators receive, and their ranges [n_act, 2], from the simulation itself."""
    task = env.unwrapped
    physics = task.physics if hasattr(task, "physics") else task
    return np.array(physics.data.ctrl), np.array(physics.model.actuator_ctrlrange)


@every_task
def test_actions_of_one_reach_the_ends_of_the_actuators_range(env_id: str):
    env = make_env(env_id, {})
    shape = env.action_space.shape
    assert (env.action_space.low == -1.0).all()
    assert (env.action_space.high == 1.0).all()
    for action, share in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        env.reset(seed=0)
        env.step(np.full(shape, action, np.float32))
        control, ranges = joint_controls(env)
        expected = ranges[:, 0] + share * (ranges[:, 1] - ranges[:, 0])
        np.testing.assert_allclose(control, expected, atol=1e-6)


@needs_suite
def test_suite_observation_joins_the_suites_arrays_in_their_order():
    from dm_control import suite

    env = make_env("dm_control/walker-walk", {})
    observation, _ = env.reset(seed=7)
    original = suite.load("walker", "walk", task_kwargs={"random": 7}).reset().observation
    assert list(original) == ["orientations", "height", "velocity"]
    expected = np.concatenate([np.ravel(value) for value in original.values()])
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation, expected.astype(np.float32))


@needs_suite
def test_suite_episode_is_truncated_after_1000_steps_and_not_terminated():
    env = make_env("dm_control/pendulum-swingup", {})
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(1000)]
    assert set(ends[:-1]) == {(False, False)}
    assert ends[-1] == (False, True)


@needs_suite
def test_suite_episode_with_discount_zero_is_terminated(monkeypatch: pytest.MonkeyPatch):
    env = make_env("dm_control/pendulum-swingup", {})
    env.reset(seed=0)
    # No bounded task of the suite ends early, so the task's own verdict is put in its place.
    monkeypatch.setattr(env.unwrapped.task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


@needs_suite
def test_suite_task_is_drawn():
    env = make_env("dm_control/cartpole-swingup", {}, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        before = np.array(env.render())
    except RuntimeError as error:
        if "OpenGL" not in str(error):
            raise
        pytest.skip(str(error))
    for _ in range(20):
        env.step(np.ones(1, np.float32))
    assert before.shape == (480, 480, 3)
    assert (np.array(env.render()) != before).any()
    assert env.metadata["render_fps"] == 100


@pytest.mark.parametrize(
    ("env_id", "text"),
    [
        pytest.param("dm_control/cheetah-fly", "tasks of cheetah: run", marks=needs_suite),
        pytest.param("dm_control/cat-run", "domains: acrobot", marks=needs_suite),
        pytest.param("dm_control/lqr-lqr_2_1", "does not bound its actions", marks=needs_suite),
        ("dm_control/cheetah", "dm_control/<domain>-<task>"),
        ("CarRacing-v3", "CarRacing-v3"),
        ("CartPole-v1", "needs Box spaces"),
    ],
)
def test_task_that_cannot_be_made_is_refused_with_the_reason(env_id: str, text: str):
    with pytest.raises(ConfigError, match="env_id: ") as caught:
        make_env(env_id, {})
    assert text in str(caught.value)


def test_report_tells_a_task_that_fails_from_one_that_runs(tmp_path: Path):
    assert examine("NoSuch-v0", 3).error
    path = tmp_path / "tasks.json"
    command = [sys.executable, "-m", "smfp_core.tasks", "Hopper-v4", "NoSuch-v0", "--steps", "30"]
    result = subprocess.run([*command, "--json", path], capture_output=True, text=True)
    assert result.returncode == 1
    assert "NoSuch" in result.stderr
    runs, fails = json.loads(path.read_text())["tasks"]
    assert (runs["observations"], runs["actions"], runs["reproducible"]) == (11, 3, True)
    assert fails["error"]
    command[-1] = "0"
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stderr == "error: --steps: must be at least 1, got 0\n"


def test_switches_and_numbers_of_an_environment_reach_it(tmp_path: Path):
    path = tmp_path / "hopper.yaml"
    kwargs = "{terminate_when_unhealthy: false, forward_reward_weight: 2.5}"
    path.write_text(f"env_id: Hopper-v5\nenv_kwargs: {kwargs}\n")
    config = load_config(path)
    env = make_env(config.env_id, config.env_kwargs)
    assert env.unwrapped._forward_reward_weight == 2.5  # type: ignore[attr-defined]
    env.reset(seed=0)
    assert not any(env.step(env.action_space.sample())[2] for _ in range(200))
