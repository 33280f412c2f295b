# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from restoring import assert_goes_on_to_the_bit

from smfp_core.robot import Obstacle, Surroundings, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.arm import Kinematics
from smfp_sim.clearance import ClearanceModel
from smfp_sim.tasks.arm_task import Motion
from smfp_sim.tasks.reach import ReachEnv
from smfp_sim.tasks.reach_around import ReachAroundEnv, passed, stands_between
from smfp_sim.tasks.scripted import ScriptedReach

POST = Obstacle("post", (0.5, 0.0, 0.2), size_m=(0.12, 0.12, 0.4))


@pytest.fixture(scope="module")
def env() -> ReachAroundEnv:
    return ReachAroundEnv()


def test_environment_keeps_gymnasiums_contract(env: ReachAroundEnv) -> None:
    check_env(env, skip_render_check=True)


def test_the_obstacle_stands_in_the_straight_way_to_the_goal(env: ReachAroundEnv) -> None:
    (post,) = env.robot.surroundings.obstacles
    kinematics = Kinematics(env.arm.arm)
    blocked = []
    for seed in range(50):
        env.reset(seed=seed)
        tool = kinematics.tool_position(env.arm.joint_position)
        blocked.append(stands_between(post, tool, env.goal))
        assert env.robot.goal_refusal(env.goal) is None
    # From high above the post every goal is free.
    assert np.mean(blocked) > 0.9


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [
        ((0.5, -0.01, 0.5), (0.5, 0.01, 0.5), "over"),
        ((0.5, 0.01, 0.41), (0.5, -0.01, 0.41), "over"),
        ((0.35, -0.01, 0.2), (0.35, 0.01, 0.2), "inside"),
        ((0.65, -0.01, 0.2), (0.65, 0.01, 0.2), "outside"),
        ((0.65, 0.01, 0.2), (0.65, 0.03, 0.2), ""),
        ((-0.4, -0.01, 0.2), (-0.4, 0.01, 0.2), ""),
    ],
)
def test_the_way_is_where_the_tool_passes(before: tuple, after: tuple, way: str) -> None:
    assert passed(POST, np.array(before), np.array(after)) == way
    # The same seen from a base that is turned by a right angle.
    turned = dataclasses.replace(POST, center_m=(0.0, 0.5, 0.2))
    one, other = (np.array([-p[1], p[0], p[2]]) for p in (before, after))
    assert passed(turned, one, other) == way


def test_a_planned_way_round_succeeds_and_is_named(env: ReachAroundEnv) -> None:
    script, ways = ScriptedReach(env.arm.arm), set()
    for seed in range(60):
        env.reset(seed=seed)
        if not script.plan(env.arm.joint_position, env.goal):
            continue
        info: dict = {}
        for _ in range(300):
            *_, terminated, _, info = env.step(script.act(env.arm.joint_position))
            if terminated or info["is_success"]:
                break
        if info["is_success"]:
            ways.add(info["way"])
    assert len(ways - {""}) > 1


def test_touching_the_post_ends_the_episode(env: ReachAroundEnv) -> None:
    kinematics, touched = Kinematics(env.arm.arm), False
    for seed in range(10):
        _, info = env.reset(seed=seed)
        terminated = False
        for _ in range(250):
            # Straight at the goal, blind to what is between.
            q = env.arm.joint_position
            step = kinematics.tool_jacobian(q).T @ (env.goal - kinematics.tool_position(q))
            action = np.clip(5.0 * step, -1.0, 1.0).astype(np.float32)
            *_, terminated, _, info = env.step(action)
            if terminated:
                break
        if terminated and any("obstacle post" in pair for pair in env.arm.contacts()):
            touched = True
            assert info["contact"] and not info["is_success"]
    assert touched


def test_nearness_to_the_post_costs_before_it_is_touched(env: ReachAroundEnv) -> None:
    kinematics, clearance = Kinematics(env.arm.arm), ClearanceModel(env.robot)
    post = env.arm.arm.model.geom("obstacle post").id
    beside = [row for row, pair in enumerate(clearance.pairs) if post in pair]
    goal, at_rest = np.array([0.5, 0.3, 0.3]), np.zeros(6)
    cost_at = {}
    # Reaching forward and turning about the base, the forearm comes up to the post.
    for turn in np.linspace(-1.5, 1.5, 301):
        q = np.array([turn, -0.6, 1.2, -1.57, -1.57, 0.0])
        if kinematics.contacts(q):
            continue
        env.reset(options={"joint_position": q, "goal": goal})
        left_m = env._left_m()
        motion = Motion(left_m, left_m, at_rest, at_rest, failed=False)
        clearance.set_pose(q)
        nearest_m = min(map(clearance.distance, beside))
        cost_at[nearest_m] = ReachEnv.reward(env, motion) - env.reward(motion)
    far = [cost for nearest_m, cost in cost_at.items() if nearest_m > 0.04]
    near = {nearest_m: cost for nearest_m, cost in cost_at.items() if nearest_m < 0.04}
    assert len(far) > 50 and np.max(np.abs(far)) < 1e-12
    assert len(near) > 5 and min(near) < 0.01
    for nearest_m, cost in near.items():
        assert cost == pytest.approx(0.5 * (1.0 - nearest_m / 0.04))


def test_a_restored_environment_goes_on_to_the_bit(env: ReachAroundEnv) -> None:
    assert_goes_on_to_the_bit(env, ReachAroundEnv(), 60)


def test_a_robot_without_one_obstacle_is_refused() -> None:
    bare = dataclasses.replace(load_robot("ur5e_post"), surroundings=Surroundings())
    with pytest.raises(ConfigError, match=r"surroundings\.obstacles: robot 'ur5e_post' has 0"):
        ReachAroundEnv(bare)
