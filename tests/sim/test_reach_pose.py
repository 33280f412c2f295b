# SPDX-License-Identifier: Apache-2.0
"""Reaching a pose: what the policy sees, what counts, and that the goals can be had."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from restoring import assert_goes_on_to_the_bit
from scipy.spatial.transform import Rotation

from smfp_core.robot import RobotConfigError, load_robot
from smfp_core.specs import GOAL_SOFTENING_RAD, RobotState, build_observation
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.tasks.reach import ReachEnv
from smfp_sim.tasks.reach_pose import ReachPoseEnv

REST = np.zeros(6, np.float32)
POSE_ID = "smfp/ReachPose-v0"


@pytest.fixture(scope="module")
def env() -> ReachPoseEnv:
    return ReachPoseEnv()


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(ArmModel(load_robot("ur5e")))


def pose_at(kinematics: Kinematics, q: np.ndarray) -> np.ndarray:
    return np.concatenate([kinematics.tool_position(q), kinematics.tool_orientation(q)])


def turned(pose: np.ndarray, rotation: Rotation) -> np.ndarray:
    return np.concatenate([pose[:3], (rotation * Rotation.from_quat(pose[3:])).as_quat()])


def blocks(env: ReachPoseEnv, observation: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([field.size for field in env.policy_contract()[0].fields])
    names = [field.name for field in env.policy_contract()[0].fields]
    return dict(zip(names, np.split(observation, ends[:-1]), strict=True))


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*:UserWarning")
def test_gymnasium_accepts_the_environment(env: ReachPoseEnv) -> None:
    check_env(env, skip_render_check=True)
    assert gymnasium.make(POSE_ID).spec.max_episode_steps == 250


def test_tool_orientation_and_its_jacobian_are_those_of_finite_turns(
    kinematics: Kinematics,
) -> None:
    q = np.random.default_rng(0).uniform(-1.0, 1.0, 6)
    state = RobotState(*(np.zeros(6) for _ in range(4)), np.zeros(3), np.zeros((3, 6)))
    state.joint_position_rad[:] = q
    state.make_room(orientation=True)
    kinematics.update(state)
    before = Rotation.from_quat(kinematics.tool_orientation(q))
    np.testing.assert_array_equal(state.tool_orientation, kinematics.tool_orientation(q))
    for joint in range(6):
        moved = q.copy()
        moved[joint] += 1e-6
        after = Rotation.from_quat(kinematics.tool_orientation(moved))
        column = (after * before.inv()).as_rotvec() / 1e-6
        np.testing.assert_allclose(state.tool_turn_jacobian[:, joint], column, atol=1e-5)


def test_a_state_that_nobody_asks_for_orientation_has_none(kinematics: Kinematics) -> None:
    plain, full = (
        RobotState(*(np.zeros(6) for _ in range(4)), np.zeros(3), np.zeros((3, 6)))
        for _ in range(2)
    )
    full.make_room(orientation=True)
    for state in (plain, full):
        kinematics.update(state)
    assert plain.tool_orientation is None and plain.tool_turn_jacobian is None
    # The position and its Jacobian are the same to the bit.
    np.testing.assert_array_equal(plain.tool_jacobian_m_rad, full.tool_jacobian_m_rad)
    np.testing.assert_array_equal(plain.tool_position_m, full.tool_position_m)
    full.make_room()
    assert full.tool_orientation is None and full.tool_turn_jacobian is None


def test_observation_says_how_the_tool_is_to_be_turned(
    env: ReachPoseEnv, kinematics: Kinematics
) -> None:
    home = env.robot.home_rad
    rotation = Rotation.from_rotvec([0.0, 0.1, -0.2])
    goal = turned(pose_at(kinematics, home), rotation)
    seen = blocks(env, env.reset(options={"joint_position": home, "goal": goal})[0])
    np.testing.assert_allclose(seen["goal_rotation"], rotation.as_rotvec(), atol=1e-6)
    np.testing.assert_allclose(seen["goal_offset"], 0.0, atol=1e-6)
    assert env.reset(options={"joint_position": home, "goal": goal})[1]["angle_rad"] == (
        pytest.approx(rotation.magnitude())
    )


def test_following_the_step_of_the_observation_leads_to_the_goal(
    env: ReachPoseEnv, kinematics: Kinematics
) -> None:
    home = env.robot.home_rad
    goal = pose_at(kinematics, home + np.array([0.2, -0.1, 0.15, 0.1, -0.2, 0.3]))
    seen = blocks(env, env.reset(options={"joint_position": home, "goal": goal})[0])
    assert np.abs(seen["goal_step"]).max() < 1.0
    for _ in range(100):
        observation, _, _, _, info = env.step(seen["goal_step"])
        seen = blocks(env, observation)
    assert info["distance_m"] < 1e-3 and info["angle_rad"] < 5e-3 and info["is_success"]
    np.testing.assert_allclose(seen["goal_step"], 0.0, atol=0.05)


def test_goals_are_as_the_robot_file_says(env: ReachPoseEnv) -> None:
    goals = []
    for seed in range(100):
        env.reset(seed=seed)
        assert env.robot.goal_refusal(env.goal) is None
        goals.append(env.goal)
    z = Rotation.from_quat(np.array(goals)[:, 3:]).apply([0.0, 0.0, 1.0])
    tilt = np.arccos(-z[:, 2])
    assert 0.4 < tilt.max() <= 0.5 + 1e-6
    assert np.std(goals, axis=0)[:3].min() > 0.15


def test_goals_have_joint_positions_within_the_limits(kinematics: Kinematics) -> None:
    """Damped least squares from random starts: an inverse is found for every goal drawn."""
    robot, rng = load_robot("ur5e"), np.random.default_rng(0)
    low, high = robot.limits.position_min, robot.limits.position_max
    starts = np.array([joint.start_rad for joint in robot.joints])
    state = RobotState(*(np.zeros(6) for _ in range(4)), np.zeros(3), np.zeros((3, 6)))
    state.make_room(orientation=True)
    spec = ReachPoseEnv.describe(robot)

    def solved(goal: np.ndarray) -> bool:
        state.joint_position_rad[:] = rng.uniform(*starts.T)
        for _ in range(150):
            kinematics.update(state)
            # Newton's step at the goal, where the field is the step over the softening.
            step = GOAL_SOFTENING_RAD * build_observation(spec, state, goal)[-6:]
            state.joint_position_rad[:] = np.clip(state.joint_position_rad + step, low, high)
        found = pose_at(kinematics, state.joint_position_rad)
        turn = Rotation.from_quat(found[3:]).inv() * Rotation.from_quat(goal[3:])
        return math.dist(found[:3], goal[:3]) < 1e-3 and turn.magnitude() < 1e-2

    for _ in range(100):
        goal = robot.sample_pose(rng)
        assert any(
            solved(goal) and not kinematics.contacts(state.joint_position_rad) for _ in range(10)
        ), goal


def test_success_takes_position_and_orientation(env: ReachPoseEnv, kinematics: Kinematics) -> None:
    home = env.robot.home_rad
    here = pose_at(kinematics, home)
    for angle_rad, wanted in ((0.08, True), (0.12, False)):
        goal = turned(here, Rotation.from_rotvec([0.0, 0.0, angle_rad]))
        _, info = env.reset(options={"joint_position": home, "goal": goal})
        assert not info["is_success"]
        seen = [env.step(REST)[4]["is_success"] for _ in range(30)]
        assert seen == [False] * 24 + [wanted] * 6


def test_turning_towards_the_goal_pays_and_turning_away_costs(
    env: ReachPoseEnv, kinematics: Kinematics
) -> None:
    home = env.robot.home_rad
    goal = turned(pose_at(kinematics, home), Rotation.from_rotvec([0.0, 0.0, 0.8]))

    def earned(speed: float) -> float:
        env.reset(options={"joint_position": home, "goal": goal})
        last_joint = np.array([0, 0, 0, 0, 0, speed], np.float32)
        return sum(float(env.step(last_joint)[1]) for _ in range(10))

    # The tool points down: its own turn is the other way round.
    assert earned(-1.0) > earned(0.0) + 0.2 and earned(1.0) < earned(0.0) - 0.2


@pytest.mark.parametrize("plant", ["ideal", "bad"])
def test_a_restored_environment_goes_on_to_the_bit(plant: str) -> None:
    env, other = ReachPoseEnv(plant=plant), ReachPoseEnv(plant=plant)
    assert_goes_on_to_the_bit(env, other, 60)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_an_episode_repeats_from_its_start_options(env: ReachPoseEnv) -> None:
    observation, _ = env.reset(seed=4)
    again, _ = ReachPoseEnv().reset(options=env.start_options)
    np.testing.assert_array_equal(again, observation)


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        ([0.4, 0.2, 0.5], "takes 7 values"),
        ([0.4, 0.2, 0.5, 0.0, 0.0, 0.0, 0.5], "length 0.5"),
    ],
)
def test_a_goal_without_a_rotation_is_an_error(
    env: ReachPoseEnv, goal: list[float], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        env.reset(options={"goal": goal})


def test_reach_takes_no_orientation() -> None:
    with pytest.raises(ValueError, match="takes 3 values"):
        ReachEnv().reset(options={"goal": [0.4, 0.2, 0.5, 0.0, 0.0, 0.0, 1.0]})


def test_a_robot_without_orientations_is_refused_by_the_field() -> None:
    with pytest.raises(RobotConfigError, match=r"goals\.orientations"):
        ReachPoseEnv("fr3")
