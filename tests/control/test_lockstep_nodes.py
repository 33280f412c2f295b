# SPDX-License-Identifier: Apache-2.0
"""Lock-step over DDS: one seed, one trajectory, and the same as without ROS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from bench import Bench

import smfp_sim.tasks
from smfp_control.lockstep import EagerThread, StateFollower
from smfp_control.transfer import Rig
from smfp_core.policy_file import PolicyFile
from smfp_core.resources import share_path
from smfp_core.robot import RobotConfig, load_robot
from smfp_sim.tasks.reach_around import ReachAroundEnv

pytestmark = pytest.mark.process

POLICY = share_path("config/policies/ur5e_reach.onnx")
STEPS = 50
PLANT_SEED = 3
# Its way leads within 8 cm of the post, and not so near that the safety filter brakes.
EPISODE_ROUND_THE_POST = 8


@contextmanager
def open_rig(plant: str) -> Iterator[Rig]:
    rig = Rig(str(POLICY), plant=plant)
    try:
        yield rig
    finally:
        rig.close()


def without_ros(plant: str, start: np.ndarray, goal: np.ndarray) -> tuple[str, float]:
    """Digest of the trajectory and final distance, of the same episode in gymnasium."""
    file = PolicyFile.load(POLICY)
    env = gymnasium.make(smfp_sim.tasks.REACH_ID, plant=plant).unwrapped
    options = {"joint_position": start, "goal": goal, "plant_seed": PLANT_SEED}
    options |= {"hold_ticks": 1, "record": True}
    observation, info = env.reset(options=options)
    for _ in range(STEPS):
        observation, _, _, _, info = env.step(file.sample(observation, file.deterministic_noise))
    return env.trajectory.sha256(), info["distance_m"]


@pytest.mark.parametrize("plant", ["ideal", "realistic_delay"])
def test_gymnasium_and_ros_give_one_trajectory_to_the_bit(
    local_ros: None, near_goal: np.ndarray, plant: str
) -> None:
    start = load_robot("ur5e").home_rad + 0.05
    with open_rig(plant) as rig:
        results = [rig.run(start, near_goal, PLANT_SEED, STEPS) for _ in range(3)]
    digest, distance_m = without_ros(plant, start, near_goal)
    assert [r.ticks for r in results] == [1 + STEPS * 10] * 3
    assert {r.sha256 for r in results} == {digest}
    assert {r.error_m for r in results} == {distance_m}
    assert all(r.fault == "" for r in results)


def test_a_policy_that_sees_the_obstacle_sees_the_same_in_the_node(local_ros: None) -> None:
    path = share_path("config/policies/ur5e_reach_around.onnx")
    file, env = PolicyFile.load(path), ReachAroundEnv()
    env.reset(seed=EPISODE_ROUND_THE_POST)
    case = {**env.start_options, "plant_seed": PLANT_SEED}
    observation, _ = env.reset(options=case | {"hold_ticks": 1, "record": True})
    nearest, info = 0.0, {}
    for _ in range(3 * STEPS):
        observation, _, _, _, info = env.step(file.sample(observation, file.deterministic_noise))
        nearest = max(nearest, float(observation[-7]))
    assert nearest > 0.5 and info["way"]
    rig = Rig(str(path), "ur5e_post")
    try:
        result = rig.run(case["joint_position"], case["goal"], PLANT_SEED, 3 * STEPS)
    finally:
        rig.close()
    assert env.trajectory is not None and result.sha256 == env.trajectory.sha256()
    assert (result.error_m, result.fault) == (info["distance_m"], "")


def test_a_seed_repeats_the_worst_plant_and_another_does_not(
    local_ros: None, near_goal: np.ndarray
) -> None:
    start = load_robot("ur5e").home_rad
    with open_rig("bad") as rig:
        digests = [rig.run(start, near_goal, seed, STEPS).sha256 for seed in (5, 6, 5, 6)]
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]


def test_the_nodes_reach_a_goal_in_lock_step(
    bench: Bench, policy_path: Path, near_goal: np.ndarray
) -> None:
    bench.start("sim_node", lockstep=True)
    bench.start_policy_node(policy_path, lockstep=True, autostart=True, state_delay_limit_s=0.0)
    bench.until_state("hold")
    bench.send_goal(near_goal)
    bench.until_state("tracking")
    bench.until(lambda: bench.goal_error_m(near_goal) < 0.02, "the goal to be reached")


def test_the_arm_waits_for_a_command_however_long(bench: Bench) -> None:
    child = bench.start("sim_node", lockstep=True)
    bench.until(lambda: len(bench.states) >= 10, "the state to be repeated")
    assert len({str(message) for _, message in bench.states}) == 1
    child.signal(15)
    assert bench.until_exit(child) == 0


def test_an_emergency_stop_and_the_end_come_through_while_nobody_steps(
    bench: Bench, policy_path: Path, near_goal: np.ndarray
) -> None:
    sim = bench.start("sim_node", lockstep=True)
    node = bench.start_policy_node(policy_path, lockstep=True, autostart=True)
    bench.until_state("hold")
    bench.send_goal(near_goal)
    bench.until_state("tracking")
    sim.signal(9)
    bench.until_exit(sim)
    bench.estop(True)
    bench.until_state("estop")
    node.signal(15)
    assert bench.until_exit(node) == 0


def test_states_are_stamped_by_the_plants_clock(bench: Bench, tmp_path: Path) -> None:
    plant = tmp_path / "ahead.yaml"
    plant.write_text("clock: {offset_s: 1000.0}\n")
    bench.start("sim_node", plant=plant)
    bench.until(lambda: bench.states, "a joint state")
    stamp = bench.states[-1][1].header.stamp
    assert 900.0 < stamp.sec - time.time() < 1100.0


def test_lost_states_are_not_published(bench: Bench, tmp_path: Path) -> None:
    plant = tmp_path / "lossy.yaml"
    plant.write_text("state: {drop_probability: 0.9}\nclock: {drift: 0.0}\n")
    bench.start("sim_node", plant=plant, publish_clock=True)
    bench.until(lambda: len(bench.states) > 30, "some joint states")
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for _, m in bench.states]
    # Simulated time of every state that was not lost; a busy machine loses some besides.
    assert np.mean(np.diff(stamps)) > 0.008


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"plant": "perfect"}, "plant 'perfect': not a shipped plant"),
        ({"randomization": "wild"}, "randomization 'wild': not a shipped randomization"),
        ({"plant": "bad", "randomization": "realistic"}, "plant, randomization: give one"),
        ({"lockstep": True, "real_time_factor": 2.0}, "real_time_factor: under lockstep"),
        ({"lockstep": True, "publish_rate_hz": 250.0}, "publish_rate_hz: under lockstep"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    bench: Bench, parameters: dict[str, object], text: str
) -> None:
    child = bench.start("sim_node", **parameters)
    assert bench.until_exit(child) == 1
    assert text in child.output()


def test_a_repeated_state_is_answered_once(robot: RobotConfig) -> None:
    queue: list[SimpleNamespace] = []
    follower = StateFollower(lambda: queue.pop(0) if queue else None)

    def state(nanosec: int) -> SimpleNamespace:
        return SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=nanosec))
        )

    queue.append(state(1))
    assert follower.take() is not None  # what activation sees
    follower.restart()
    assert follower.due() and follower.take() is None
    queue += [state(1), state(1)]
    assert not follower.due()
    queue += [state(1), state(2)]
    assert follower.due()
    assert follower.take().header.stamp.nanosec == 2
    assert not follower.due()


def test_an_eager_thread_ends_when_it_is_waited_for() -> None:
    ticks: list[int] = []

    def tick(now_ns: int) -> bool:
        ticks.append(now_ns)
        return len(ticks) < 5

    thread = EagerThread("test", 0.001, tick, lambda: False)
    assert thread.start()
    time.sleep(0.05)
    assert ticks == []
    assert thread.join(10.0)
    assert len(ticks) == 5
