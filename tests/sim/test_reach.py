# SPDX-License-Identifier: Apache-2.0
"""The reach task: its contract, its determinism, its success rule, and that it can be done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from restoring import assert_goes_on_to_the_bit, rollout

from smfp_core.robot import load_robot
from smfp_sim.arm import Kinematics, SimulationDiverged
from smfp_sim.tasks import REACH_ID
from smfp_sim.tasks.reach import ReachEnv
from smfp_sim.tasks.scripted import ScriptedReach

REST = np.zeros(6, np.float32)


@pytest.fixture(scope="module")
def env() -> ReachEnv:
    return ReachEnv()


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*:UserWarning")
def test_gymnasium_accepts_the_environment(env: ReachEnv) -> None:
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize(
    "imports",
    ["import gymnasium, smfp_sim", "import gymnasium, smfp_sim.tasks", "import gymnasium"],
)
def test_the_id_is_known_after_importing_the_package(imports: str) -> None:
    name = REACH_ID if "smfp_sim" in imports else f"smfp_sim:{REACH_ID}"
    script = f"{imports}; print(gymnasium.make({name!r}).spec.max_episode_steps)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "250"


def test_observation_follows_the_specification(env: ReachEnv) -> None:
    spec, action_spec, of = env.policy_contract()
    robot = load_robot("ur5e")
    assert of == robot
    assert action_spec == robot.action_spec()
    q = robot.home_rad
    goal = np.array([0.4, -0.2, 0.5])
    observation, _ = env.reset(seed=0, options={"joint_position": q, "goal": goal})
    blocks, start = {}, 0
    for field in spec.fields:
        blocks[field.name] = observation[start : start + field.size]
        start += field.size
    assert start == observation.size
    tool = Kinematics(env.arm.arm).tool_position(q)
    np.testing.assert_allclose(blocks["joint_position"], q, atol=1e-6)
    np.testing.assert_allclose(blocks["tool_position"], tool, atol=1e-6)
    np.testing.assert_allclose(blocks["goal_offset"], goal - tool, atol=1e-6)
    for name in ("joint_velocity", "tracking_error", "reference_velocity"):
        np.testing.assert_array_equal(blocks[name], 0.0)
    observation, *_ = env.step(np.full(6, 0.25, np.float32))
    # After one period the reference runs ahead of the arm at the acceleration limit.
    assert np.all(observation[12:18] > 0.0)
    expected = robot.policy.acceleration_rad_s2 * robot.policy.period_s
    np.testing.assert_allclose(observation[18:24], expected, atol=1e-6)


def test_starts_and_goals_are_as_the_robot_file_says(env: ReachEnv) -> None:
    robot, kinematics = env.robot, Kinematics(env.arm.arm)
    low, high = np.array([joint.start_rad for joint in robot.joints]).T
    starts, goals = [], []
    for seed in range(100):
        env.reset(seed=seed)
        q = env.arm.joint_position
        assert np.all((low <= q) & (q <= high))
        assert kinematics.contacts(q) == ()
        assert kinematics.tool_position(q)[2] > 0.0
        assert robot.goals.refusal(env.goal) is None
        starts.append(q)
        goals.append(env.goal)
    # Spread over the ranges, not bunched: standard deviation near that of a uniform draw.
    np.testing.assert_allclose(np.std(starts, axis=0), (high - low) / np.sqrt(12), rtol=0.35)
    assert np.all(np.std(goals, axis=0) > 0.15)


def test_same_seed_same_trajectory_to_the_bit_in_another_process(env: ReachEnv) -> None:
    here = rollout(env, seed=5, steps=300)
    assert here == rollout(ReachEnv(), seed=5, steps=300)
    assert here != rollout(env, seed=6, steps=300)
    folder = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {folder!r}); import test_reach as t; "
        "print(t.rollout(t.ReachEnv(), 5, 300))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == here


def test_a_restored_environment_goes_on_to_the_bit_through_the_next_reset(env: ReachEnv) -> None:
    other = ReachEnv()
    assert_goes_on_to_the_bit(env, other, 60)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_staying_on_the_goal_succeeds_only_after_half_a_second(env: ReachEnv) -> None:
    home = env.robot.home_rad
    goal = Kinematics(env.arm.arm).tool_position(home) + np.array([0.0, 0.015, 0.0])
    _, info = env.reset(options={"joint_position": home, "goal": goal})
    assert not info["is_success"]
    seen = [env.step(REST)[4]["is_success"] for _ in range(30)]
    assert seen == [False] * 24 + [True] * 6


def test_leaving_the_goal_takes_success_back(env: ReachEnv) -> None:
    home = env.robot.home_rad
    goal = Kinematics(env.arm.arm).tool_position(home)
    env.reset(options={"joint_position": home, "goal": goal})
    for _ in range(30):
        info = env.step(REST)[4]
    assert info["is_success"]
    away = np.array([1, 0, 0, 0, 0, 0], np.float32)
    while info["distance_m"] < 0.02:
        info = env.step(away)[4]
    assert not info["is_success"]


def test_an_episode_ends_by_truncation_after_five_seconds() -> None:
    env = gymnasium.make(REACH_ID)
    env.reset(seed=0, options={"joint_position": load_robot("ur5e").home_rad})
    ends = [env.step(REST)[2:4] for _ in range(250)]
    assert ends == [(False, False)] * 249 + [(False, True)]
    assert env.unwrapped.arm.time_s == pytest.approx(5.0)


def test_contact_ends_the_episode_and_costs(env: ReachEnv) -> None:
    env.reset(seed=0, options={"joint_position": np.zeros(6), "goal": [0.5, 0.0, 0.3]})
    down = np.array([0, 1, 0, 0, 0, 0], np.float32)
    for _ in range(250):
        _, reward, terminated, truncated, info = env.step(down)
        if terminated:
            break
    assert terminated and not truncated
    assert info["contact"] and not info["is_success"]
    assert any("floor" in pair for pair in env.arm.contacts())
    assert reward < -0.5


def test_diverged_physics_ends_the_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file in the working folder
    env = ReachEnv()
    env.reset(seed=0)
    env.arm.data.qvel[0] = np.nan
    observation, reward, terminated, _, info = env.step(REST)
    assert terminated and info["diverged"]
    assert not info["contact"] and not info["is_success"]
    assert np.all(np.isfinite(observation)) and np.isfinite(reward)
    with pytest.raises(SimulationDiverged):
        env.arm.step()
    assert np.all(np.isfinite(env.reset(seed=0)[0]))


def test_reward_is_bounded_and_grows_towards_rest_on_the_goal(env: ReachEnv) -> None:
    home = env.robot.home_rad
    tool = Kinematics(env.arm.arm).tool_position(home)
    rewards = []
    for offset in (0.6, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.0):
        env.reset(options={"joint_position": home, "goal": tool + np.array([0.0, offset, 0.0])})
        rewards.append(env.step(REST)[1])
    assert np.all(np.diff(rewards) > 0.0)
    assert rewards[-1] == pytest.approx(1.2, abs=1e-3)
    # Near the goal a centimetre is worth a fifth of all there is to win.
    assert rewards[-1] - rewards[-3] > 0.2
    env.reset(seed=3)
    rng = np.random.default_rng(3)
    for _ in range(500):
        _, reward, terminated, _, _ = env.step(rng.uniform(-1, 1, 6).astype(np.float32))
        assert -2.0 < reward < 2.0
        if terminated:
            env.reset()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_before_it_moves_anything(
    env: ReachEnv, bad: float
) -> None:
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(ValueError, match="action must be finite"):
        env.step(np.full(6, bad, np.float32))
    for name, value in env.snapshot().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.slow
def test_a_scripted_policy_reaches_the_goals() -> None:
    env = gymnasium.make(REACH_ID)
    task = env.unwrapped
    assert isinstance(task, ReachEnv)
    policy = ScriptedReach(task.arm.arm)
    reached, errors = 0, []
    for seed in range(20):
        env.reset(seed=seed)
        assert policy.plan(task.arm.joint_position, task.goal)
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(policy.act(task.arm.joint_position))
            over = terminated or truncated
        reached += info["is_success"]
        errors.append(info["distance_m"])
    assert reached >= 19
    assert np.median(errors) < 0.001
