# SPDX-License-Identifier: Apache-2.0
"""The push task: that it can be done, what may touch, what ends it, its starts, its determinism."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from restoring import assert_goes_on_to_the_bit, rollout

from smfp_core.contract import contract_of
from smfp_core.robot import RobotConfigError, load_robot
from smfp_core.specs import OBJECT_FIELDS, FloatArray
from smfp_sim.arm import ArmModel
from smfp_sim.plant import Plant
from smfp_sim.plant_arm import PlantArm
from smfp_sim.render import RenderingUnavailable
from smfp_sim.tasks import PUSH_ID, PUSH_STEPS
from smfp_sim.tasks.push import PUSH_HEIGHT_M, PushEnv
from smfp_sim.tasks.push_scene import HEIGHT_M, MASS_KG, OBJECT, RADIUS_M, PushScene, add_object

REST = np.zeros(6, np.float32)
FLANGE_RADIUS_M = 0.0385


@pytest.fixture(scope="module")
def env() -> PushEnv:
    return PushEnv()


class ScriptedPush:
    """Goes around the puck to its far side from the goal, then pushes it there."""

    def __init__(self, task: PushEnv) -> None:
        self.task, self.arm = task, task.arm.arm
        self.data = mujoco.MjData(self.arm.model)
        self.jacobian = np.zeros((2, 3, self.arm.model.nv))

    def act(self) -> np.ndarray:
        arm, data, task = self.arm, self.data, self.task
        data.qpos[arm.position_index] = task.arm.joint_position
        mujoco.mj_kinematics(arm.model, data)
        mujoco.mj_comPos(arm.model, data)
        mujoco.mj_jacSite(arm.model, data, *self.jacobian, arm.tool_site)
        jacobian = np.concatenate(self.jacobian[:, :, arm.velocity_index])
        tool, axis = data.site_xpos[arm.tool_site], data.site_xmat[arm.tool_site][2::3]
        upright = np.cross(axis, [0.0, 0.0, -1.0])
        twist = np.array([*self.along(tool), 4.0 * (PUSH_HEIGHT_M - tool[2]), *(4.0 * upright)])
        damped = jacobian @ jacobian.T + 1e-3 * np.eye(6)
        velocity = jacobian.T @ np.linalg.solve(damped, twist)
        return (velocity / max(1.0, np.abs(velocity).max())).astype(np.float32)

    def along(self, tool: FloatArray) -> FloatArray:
        """Velocity of the tool on the floor [2], m/s."""
        puck = object_position(self.task)
        to_goal, out = (self.task.goal - puck)[:2], (tool - puck)[:2]
        left, radius = float(np.hypot(*to_goal)), float(np.hypot(*out))
        if left < 0.004:
            return np.zeros(2)
        push, out = to_goal / left, out / radius
        turn = math.atan2(out[0] * -push[1] + out[1] * push[0], -out @ push)
        if abs(turn) < 0.35 and radius < 0.13:
            across = np.array([-push[1], push[0]])
            return min(0.2, 2.0 * left + 0.02) * push - 4.0 * radius * (out @ across) * across
        along = np.array([-out[1], out[0]])
        return math.copysign(0.25, turn) * along + 3.0 * (0.105 - radius) * out


def object_position(task: PushEnv) -> FloatArray:
    return PushScene(task.arm.arm).object_position(task.arm.data)


def start(task: PushEnv, tool: list[float], place: list[float], goal: list[float]) -> dict:
    """Reset with the tool pointing down at ``tool``, all three in the base frame."""
    q = PushScene(task.arm.arm).solve(np.array(tool), task.robot.home_rad)
    assert q is not None
    options = {"joint_position": q, "object_position": place, "goal": goal}
    return task.reset(options=options)[1]


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*:UserWarning")
def test_gymnasium_accepts_the_environment(env: PushEnv) -> None:
    check_env(env, skip_render_check=True)


def test_a_scripted_arm_pushes_the_puck_to_its_goal() -> None:
    task = gymnasium.make(PUSH_ID)
    unwrapped = task.unwrapped
    assert isinstance(unwrapped, PushEnv)
    policy = ScriptedPush(unwrapped)
    reached, errors = 0, []
    for seed in range(12):
        task.reset(seed=seed)
        over, steps = False, 0
        while not over:
            _, _, terminated, truncated, info = task.step(policy.act())
            over, steps = terminated or truncated, steps + 1
        assert terminated or steps == PUSH_STEPS
        reached += info["is_success"]
        errors.append(info["distance_m"])
    assert reached >= 11
    assert np.median(errors) < 0.005


def test_starts_are_spread_on_every_side_of_a_standing_puck_and_cheap(env: PushEnv) -> None:
    scene = PushScene(env.arm.arm)
    sides, spent = [], []
    for seed in range(200):
        began = time.process_time()
        _, info = env.reset(seed=seed)
        spent.append(time.process_time() - began)
        puck, q = object_position(env), env.arm.joint_position
        tool = env._kinematics.tool_position(q)
        assert scene.tool_tilt_cosine(env.arm.data) > 0.999
        assert 0.039 < tool[2] < 0.121
        assert info["tool_distance_m"] > RADIUS_M + FLANGE_RADIUS_M
        assert not info["contact"] and set(env.arm.contacts()) <= {("floor", OBJECT)}
        assert 0.10 <= info["distance_m"] <= 0.25
        assert puck[2] == pytest.approx(HEIGHT_M / 2)
        away, push = tool - puck, env.goal - puck
        sides.append(math.remainder(math.atan2(*away[:2]) - math.atan2(*push[:2]), math.tau))
    counts = np.histogram(sides, bins=4, range=(-math.pi, math.pi))[0]
    assert counts.min() > 25
    assert np.median(spent) < 0.02


def test_at_rest_nothing_moves_and_nothing_is_at_fault(env: PushEnv) -> None:
    env.reset(seed=1)
    before = object_position(env)
    for _ in range(100):
        _, _, terminated, _, info = env.step(REST)
        assert not terminated and not info["contact"]
    assert np.linalg.norm(object_position(env) - before) < 1e-4


def test_the_tool_moves_the_puck_and_touching_it_is_no_fault(env: PushEnv) -> None:
    start(env, [0.40, 0.0, PUSH_HEIGHT_M], [0.50, 0.0, HEIGHT_M / 2], [0.62, 0.0, HEIGHT_M / 2])
    policy = ScriptedPush(env)
    touched = False
    for _ in range(80):
        _, _, terminated, _, info = env.step(policy.act())
        touched = touched or (OBJECT, "wrist_3") in env.arm.contacts()
        assert not terminated and not info["contact"]
    assert touched
    assert object_position(env)[0] > 0.55


def test_the_tool_on_the_floor_is_a_fault(env: PushEnv) -> None:
    start(env, [0.40, 0.0, 0.04], [0.55, 0.0, HEIGHT_M / 2], [0.65, 0.0, HEIGHT_M / 2])
    down = np.array([0, 1, 0, 0, 0, 0], np.float32)
    for _ in range(50):
        _, reward, terminated, _, info = env.step(down)
        if terminated:
            break
    assert terminated and info["contact"] and not info["is_success"]
    assert reward < 0.0


def test_another_link_on_the_puck_is_a_fault(env: PushEnv) -> None:
    names = {env.arm.model.geom(i).name for i in range(env.arm.model.ngeom)}
    assert {"forearm", "wrist_2", "wrist_3"} <= names
    assert env.is_fault(("forearm", OBJECT))
    assert env.is_fault((OBJECT, "wrist_2"))
    assert env.is_fault(("floor", "wrist_3"))
    assert not env.is_fault((OBJECT, "wrist_3"))
    assert not env.is_fault(("floor", OBJECT))
    # The puck under the forearm, which comes down on it, the tool elsewhere.
    q = env.robot.home_rad.copy()
    env.reset(options={"joint_position": q, "object_position": [0.3, 0.13, HEIGHT_M / 2]})
    env.arm.place(OBJECT, env.arm.arm.base_rotation.T @ env.arm.data.body("forearm_link").xpos)
    _, _, terminated, _, info = env.step(REST)
    assert terminated and info["contact"]


@pytest.mark.parametrize("height", [PUSH_HEIGHT_M, 0.3])
def test_a_puck_off_the_area_ends_the_episode_in_words(env: PushEnv, height: float) -> None:
    start(env, [0.45, 0.2, height], [0.65, -0.2, HEIGHT_M / 2], [0.5, 0.0, HEIGHT_M / 2])
    env.arm.place(OBJECT, [0.9, 0.0, HEIGHT_M / 2])
    _, reward, terminated, _, info = env.step(REST)
    assert terminated and not info["contact"] and not info["is_success"]
    assert "left the area" in info["message"] and "0.90" in info["message"]
    assert np.isfinite(reward)


def test_a_puck_that_fell_over_ends_the_episode_in_words(env: PushEnv) -> None:
    start(env, [0.45, 0.2, 0.1], [0.55, -0.1, HEIGHT_M / 2], [0.5, 0.1, HEIGHT_M / 2])
    joint = env.arm.model.body(OBJECT).jntadr[0]
    first = env.arm.model.jnt_qposadr[joint]
    env.arm.data.qpos[first + 2] = RADIUS_M
    env.arm.data.qpos[first + 3 : first + 7] = [math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]
    _, _, terminated, _, info = env.step(REST)
    assert terminated and info["message"] == "the object fell over"


def test_diverged_physics_ends_the_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file in the working folder
    task = PushEnv()
    task.reset(seed=0)
    task.arm.data.qvel[-1] = np.nan
    observation, reward, terminated, _, info = task.step(REST)
    assert terminated and info["diverged"] and "diverged" in info["message"]
    assert np.all(np.isfinite(observation)) and np.isfinite(reward)
    assert np.all(np.isfinite(task.reset(seed=0)[0]))


def test_a_puck_within_three_centimetres_for_half_a_second_is_a_success(env: PushEnv) -> None:
    place = np.array([0.5, 0.1, HEIGHT_M / 2])
    for offset, wanted in ((0.025, True), (0.035, False)):
        start(env, [0.5, 0.3, 0.1], list(place), list(place + np.array([0.0, offset, 0.0])))
        seen = [env.step(REST)[4]["is_success"] for _ in range(30)]
        assert seen == [False] * 24 + [wanted] * 6


def test_same_seed_same_trajectory_to_the_bit_in_another_process(env: PushEnv) -> None:
    here = rollout(env, seed=5, steps=200)
    assert here == rollout(PushEnv(), seed=5, steps=200)
    assert here != rollout(env, seed=6, steps=200)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_push as t; "
        "print(t.rollout(t.PushEnv(), 5, 200))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == here


def test_start_options_repeat_an_episode(env: PushEnv) -> None:
    first, _ = env.reset(seed=4)
    options = env.start_options
    env.reset(seed=5)
    np.testing.assert_array_equal(env.reset(options=options)[0], first)


def test_a_restored_environment_goes_on_to_the_bit_while_it_pushes(env: PushEnv) -> None:
    other = PushEnv()
    assert_goes_on_to_the_bit(env, other, 60)
    env.reset(seed=2)
    policy = ScriptedPush(env)
    actions = []
    for _ in range(150):
        actions.append(policy.act())
        env.step(actions[-1])
    assert np.linalg.norm(object_position(env) - env.start_options["object_position"]) > 0.01
    other.reset(seed=9)
    np.testing.assert_array_equal(other.restore(env.snapshot()), env._observe())
    for action in actions[:40]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]


def test_the_puck_is_no_matter_of_the_plant() -> None:
    ideal, task = PushEnv(), PushEnv(plant="realistic_heavy")
    masses = [
        [t.arm.model.body(name).mass[0] for name in (OBJECT, "forearm_link")] for t in (ideal, task)
    ]
    assert masses[0][0] == masses[1][0] == MASS_KG
    assert masses[1][1] > 1.1 * masses[0][1]
    assert rollout(task, seed=3, steps=60) == rollout(task, seed=3, steps=60)


def test_a_tilted_base_does_not_make_the_puck_slide() -> None:
    arm = PlantArm(load_robot("ur5e"), Plant(base_tilt_rad=(0.0, 0.3)), change=add_object)
    arm.reset(arm.arm.robot.home_rad, seed=0)
    arm.place(OBJECT, [0.5, 0.2, HEIGHT_M / 2])
    arm.step(1.0)
    np.testing.assert_allclose(
        PushScene(arm.arm).object_position(arm.data)[:2], [0.5, 0.2], atol=1e-3
    )


def test_a_seed_gives_the_same_episode_whatever_arm_the_one_before_drew() -> None:
    task = PushEnv(randomization="realistic")
    for seed in range(3):
        ended = []
        for before in (seed, seed + 100):
            task.reset(seed=before)
            observation, info = task.reset(seed=seed)
            ended.append((observation.tobytes(), info))
        assert ended[0][0] == ended[1][0]


def test_puck_and_goal_are_drawn_beside_the_obstacles() -> None:
    task = PushEnv(robot="ur5e_post")
    (post,) = task.robot.surroundings.obstacles
    for seed in range(12):
        task.reset(seed=seed)
        assert post.distance_m(object_position(task)) > 0.045
        assert post.distance_m(task._goal) > 0.045


def test_it_runs_with_randomisation_and_restores_to_the_bit() -> None:
    task, other = (PushEnv(randomization="realistic") for _ in range(2))
    assert_goes_on_to_the_bit(task, other, 60)
    assert task.arm.model.body(OBJECT).mass[0] == MASS_KG


def test_the_contract_names_the_object_with_units_and_frame(env: PushEnv) -> None:
    contract = contract_of(env)
    assert contract is not None
    fields = {item.name: item for item in contract.observation.fields}
    assert fields["object_position"].unit == "m"
    assert fields["object_velocity"].unit == "m/s"
    assert fields["object_position"].frame == env.robot.base_frame
    assert set(OBJECT_FIELDS) <= set(fields)
    observation, _ = env.reset(seed=0)
    names = list(fields)
    first = sum(fields[name].size for name in names[: names.index("object_position")])
    np.testing.assert_allclose(observation[first : first + 3], object_position(env), atol=1e-6)


def test_a_robot_without_a_floor_is_refused() -> None:
    with pytest.raises(RobotConfigError, match="one plane as the floor, has 0"):
        PushScene(ArmModel(load_robot("ur5e"), remove_floor))


def remove_floor(spec: mujoco.MjSpec) -> None:
    spec.delete(next(geom for geom in spec.geoms if geom.name == "floor"))


def test_progress_of_the_puck_pays_more_than_anything_else(env: PushEnv) -> None:
    goal = [0.62, 0.0, HEIGHT_M / 2]
    start(env, [0.40, 0.0, PUSH_HEIGHT_M], [0.50, 0.0, HEIGHT_M / 2], goal)
    waiting = env.step(REST)[1]
    policy = ScriptedPush(env)
    pushing, resting = [], []
    for _ in range(250):
        before = object_position(env)
        reward = env.step(policy.act())[1]
        moved = np.linalg.norm(object_position(env) - before) > 1e-3
        (pushing if moved else resting).append(reward)
    assert np.mean(pushing) > 0.3 > 3.0 * waiting
    # And the rest on the goal is worth most.
    assert resting[-1] > 1.0 and resting[-1] > max(resting) - 0.01


def test_the_picture_shows_the_puck_where_it_is() -> None:
    task = PushEnv(render_mode="rgb_array")
    columns = []
    for y in (0.2, -0.2):
        start(task, [0.42, -y, 0.1], [0.55, y, HEIGHT_M / 2], [0.55, y / 2, HEIGHT_M / 2])
        try:
            picture = task.render()
        except RenderingUnavailable as error:
            pytest.skip(str(error))
        assert picture is not None
        red, green, blue = (picture[..., i].astype(int) for i in range(3))
        column = np.nonzero((red > 150) & (green > 100) & (blue < 80))[1]
        assert len(column) > 50
        columns.append(np.median(column))
    task.close()
    assert abs(columns[0] - columns[1]) > 100


def test_a_puck_out_of_reach_of_any_goal_is_refused(env: PushEnv) -> None:
    with pytest.raises(ValueError, match="object_position: no goal"):
        env.reset(options={"object_position": [2.0, 0.0, HEIGHT_M / 2]})
