# SPDX-License-Identifier: Apache-2.0
"""Goals with an orientation: taken where a policy needs one, refused in words where it is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from bench import Bench, open_bench
from crafted import observation_of, write_policy
from geometry_msgs.msg import PoseStamped
from lockstep import LockStep
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from scipy.spatial.transform import Rotation
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from smfp_control.goals import pose_of
from smfp_control.noise import NoiseSource
from smfp_control.page.robot_client import RobotClient
from smfp_control.policy_runner import PolicyRunner
from smfp_control.transfer import Rig
from smfp_core.policy_file import PolicyFile, PolicyFileError
from smfp_core.robot import RobotConfig
from smfp_core.specs import ObservationField, ObservationSpec
from smfp_sim.arm import Kinematics
from smfp_sim.tasks.reach_pose import ReachPoseEnv

UPRIGHT = [0.0, 0.0, 0.0, 1.0]


@pytest.fixture
def pose_lockstep(robot: RobotConfig, pose_policy_path: Path) -> LockStep:
    return LockStep(robot, PolicyFile.load(pose_policy_path, robot))


def runner_of(policy: PolicyFile) -> PolicyRunner:
    return PolicyRunner(policy, NoiseSource(policy.deterministic_noise, 0.0, 0, "goal"))


def turn_left(lockstep: LockStep, goal: np.ndarray) -> float:
    arm = lockstep.driver.arm
    there = Rotation.from_quat(Kinematics(arm.arm).tool_orientation(arm.joint_position))
    return (Rotation.from_quat(goal[3:]) * there.inv()).magnitude()


# The loop, tick by tick.


def test_the_policy_sees_the_orientation_and_takes_the_tool_there(
    pose_lockstep: LockStep, near_pose: np.ndarray
) -> None:
    loop = pose_lockstep.loop
    assert loop.set_goal(near_pose) is None
    pose_lockstep.run(3.0)
    assert np.linalg.norm(pose_lockstep.tool() - near_pose[:3]) < 2e-3
    assert turn_left(pose_lockstep, near_pose) < 5e-3
    assert loop.goal_angle_error_rad == pytest.approx(turn_left(pose_lockstep, near_pose), abs=1e-3)
    pose_lockstep.assert_commands_within_limits()


def test_a_policy_of_positions_ignores_the_orientation_to_the_bit(
    robot: RobotConfig, policy: PolicyFile, near_pose: np.ndarray
) -> None:
    runs = []
    # The last is no rotation at all: who sends positions need not care.
    for goal in (
        near_pose[:3],
        near_pose,
        np.array([*near_pose[:3], *UPRIGHT]),
        np.array([*near_pose[:3], 0.0, 0.0, 0.0, 0.0]),
    ):
        lockstep = LockStep(robot, policy)
        assert lockstep.loop.set_goal(goal) is None
        assert lockstep.loop.goal is not None and len(lockstep.loop.goal) == 3
        lockstep.run(0.5)
        assert np.isnan(lockstep.loop.goal_angle_error_rad)
        runs.append(np.array(lockstep.commands))
    assert all(np.array_equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize(
    ("orientation", "text"),
    [
        ([0.0, 0.0, 0.0, 0.0], "length 0"),
        ([0.7, -0.7, 0.0, 0.0], "length 0.98"),
        ([np.nan, 0.0, 0.0, 1.0], "not finite"),
        (UPRIGHT, "tilt 3.142"),
        ([], "needs an orientation"),
    ],
)
def test_a_goal_without_a_good_orientation_is_refused_and_ends_the_one_before(
    pose_lockstep: LockStep, near_pose: np.ndarray, orientation: list[float], text: str
) -> None:
    loop = pose_lockstep.loop
    assert loop.set_goal(near_pose) is None
    pose_lockstep.run(0.2)
    refusal = loop.set_goal(np.array([*near_pose[:3], *orientation]))
    assert refusal is not None and text in refusal
    assert loop.goal is None
    pose_lockstep.run(0.5)
    assert loop.at_rest


def test_a_policy_that_needs_more_than_the_goal_has_drops_it_with_a_reason(
    lockstep: LockStep, robot: RobotConfig, pose_policy_path: Path, near_pose: np.ndarray
) -> None:
    loop = lockstep.loop
    assert loop.set_goal(near_pose) is None
    lockstep.run(0.3)
    dropped = loop.swap(runner_of(PolicyFile.load(pose_policy_path, robot)))
    assert dropped is not None and "orientation" in dropped
    assert loop.goal is None
    lockstep.run(0.5)
    assert loop.at_rest and lockstep.latch.fault is None
    assert loop.set_goal(near_pose) is None
    lockstep.run(3.0)
    assert turn_left(lockstep, near_pose) < 5e-3
    lockstep.assert_commands_within_limits()


def test_a_policy_of_positions_goes_on_to_the_place_of_a_pose(
    pose_lockstep: LockStep, policy: PolicyFile, near_pose: np.ndarray
) -> None:
    loop = pose_lockstep.loop
    assert loop.set_goal(near_pose) is None
    pose_lockstep.run(0.3)
    assert loop.swap(runner_of(policy)) is None
    pose_lockstep.run(3.0)
    assert loop.goal is not None and len(loop.goal) == 3
    assert np.isnan(loop.goal_angle_error_rad)
    assert np.linalg.norm(pose_lockstep.tool() - near_pose[:3]) < 0.02
    pose_lockstep.assert_commands_within_limits()


def test_swaps_and_goals_between_any_two_ticks_leave_no_policy_without_what_it_needs(
    robot: RobotConfig, policy: PolicyFile, pose_policy_path: Path, near_pose: np.ndarray
) -> None:
    lockstep = LockStep(robot, policy)
    pose_policy = PolicyFile.load(pose_policy_path, robot)
    runners = [runner_of(policy), runner_of(pose_policy)]
    rng = np.random.default_rng(0)
    for _ in range(400):
        chosen = rng.integers(5)
        if chosen < 2:
            lockstep.loop.swap(runners[chosen])
        elif chosen < 4:
            lockstep.loop.set_goal(near_pose[: (3, 7)[chosen - 2]])
        lockstep.run(0.002 * rng.integers(1, 4))
        goal = lockstep.loop.goal
        assert goal is None or len(goal) == (7 if lockstep.loop.needs_orientation else 3)
    assert lockstep.latch.fault is None
    lockstep.assert_commands_within_limits()


def test_a_goal_of_the_next_policy_waits_for_it(
    robot: RobotConfig, policy: PolicyFile, pose_lockstep: LockStep, near_pose: np.ndarray
) -> None:
    """As when the control thread has looked at the policy, and not yet at the goal."""
    loop = pose_lockstep.loop
    assert loop.set_goal(near_pose) is None
    pose_lockstep.run(0.1)
    loop._goal = near_pose[:3].copy()
    pose_lockstep.run(0.01)
    assert pose_lockstep.latch.fault is None
    pose_lockstep.assert_commands_within_limits()


def test_a_file_whose_rotation_has_another_size_is_refused(
    tmp_path: Path, robot: RobotConfig
) -> None:
    fields = (
        *observation_of(robot).fields,
        ObservationField("goal_rotation", 4, "rad", robot.base_frame),
    )
    spec = ObservationSpec(fields)
    weight = np.zeros((spec.size, len(robot.joints)), np.float32)
    path = write_policy(tmp_path / "wrong.onnx", robot, weight, observation=spec)
    with pytest.raises(PolicyFileError, match=r"observation\.goal_rotation"):
        PolicyFile.load(path, robot)


# Real nodes.


@pytest.fixture(scope="module")
def running(robot: RobotConfig, local_ros: None, pose_policy_path: Path) -> Iterator[Bench]:
    with open_bench(robot) as bench:
        bench.start("sim_node")
        bench.start_policy_node(pose_policy_path, autostart=True)
        yield bench


@pytest.fixture
def holding(running: Bench, pose_policy_path: Path) -> Bench:
    running.until(lambda: running.status.get("lifecycle") == "active", "activation")
    use(running, pose_policy_path)
    assert running.call(Trigger, "policy_node/hold", Trigger.Request()).success
    running.until_state("hold")
    return running


def use(bench: Bench, policy: Path) -> None:
    value = ParameterValue(type=4, string_value=str(policy))
    request = SetParameters.Request(parameters=[Parameter(name="policy_path", value=value)])
    assert bench.call(SetParameters, "policy_node/set_parameters", request).results[0].successful


@pytest.mark.process
def test_a_pose_sent_over_the_topic_is_reached_and_told(
    holding: Bench, near_pose: np.ndarray
) -> None:
    markers: list[MarkerArray] = []
    holding.start("markers_node")
    holding.node.create_subscription(MarkerArray, "markers_node/markers", markers.append, 10)
    holding.send_goal(near_pose)
    holding.until(lambda: holding.status.get("goal_orientation"), "the orientation on ~/status")
    assert holding.status["goal_kind"] == "pose"
    told = [float(x) for x in holding.status["goal_orientation"].split()]
    np.testing.assert_allclose(told, near_pose[3:], atol=1e-6)
    holding.until(lambda: holding.goal_error_m(near_pose[:3]) < 0.01, "the place")
    holding.until(lambda: holding.goal_angle_rad(near_pose) < 0.02, "the orientation")
    holding.until(
        lambda: float(holding.status["goal_angle_error_rad"] or 1) < 0.02, "the same on ~/status"
    )
    assert holding.status["fault"] == "none"

    def axes() -> list[Marker]:
        return [m for array in markers[-1:] for m in array.markers if m.ns == "goal_axes"]

    holding.until(axes, "the axes of the goal")
    (marker,) = axes()
    assert len(marker.points) == len(marker.colors) == 6
    assert marker.pose.orientation.x == pytest.approx(near_pose[3], abs=1e-6)


@pytest.mark.process
@pytest.mark.parametrize(
    ("orientation", "text"),
    [([0.7, -0.7, 0.0, 0.0], "length 0.98"), (UPRIGHT, "not accepted: tilt")],
)
def test_a_node_refuses_an_orientation_in_words_and_the_arm_holds(
    holding: Bench, near_pose: np.ndarray, orientation: list[float], text: str
) -> None:
    holding.send_goal(near_pose)
    holding.until_state("tracking")
    holding.send_goal([*near_pose[:3], *orientation])
    holding.until(lambda: text in holding.status.get("refusal", ""), "a refusal")
    holding.until_state("hold")
    assert holding.status["goal_m"] == "" and holding.status["goal_orientation"] == ""


@pytest.mark.process
def test_a_node_drops_the_goal_of_positions_when_the_policy_begins_to_need_a_pose(
    holding: Bench, policy_path: Path, pose_policy_path: Path, near_pose: np.ndarray
) -> None:
    use(holding, policy_path)
    holding.send_goal(near_pose)
    holding.until_state("tracking")
    assert holding.status["goal_kind"] == "position"
    assert holding.status["goal_orientation"] == ""
    use(holding, pose_policy_path)
    holding.until(lambda: "goal dropped" in holding.status["refusal"], "the reason on ~/status")
    holding.until_state("hold")
    holding.send_goal(near_pose)
    holding.until(lambda: holding.goal_angle_rad(near_pose) < 0.02, "the orientation")
    assert holding.status["fault"] == "none"


@pytest.mark.process
@pytest.mark.parametrize("plant", ["ideal", "realistic_delay"])
def test_gymnasium_and_ros_give_one_trajectory_to_a_pose_to_the_bit(
    local_ros: None, robot: RobotConfig, pose_policy_path: Path, plant: str
) -> None:
    env = ReachPoseEnv(plant=plant)
    env.reset(seed=5)
    case = {**env.start_options, "plant_seed": 3}
    observation, _ = env.reset(options=case | {"hold_ticks": 1, "record": True})
    file, info = PolicyFile.load(pose_policy_path, robot), {}
    for _ in range(150):
        observation, _, _, _, info = env.step(file.sample(observation, file.deterministic_noise))
    rig = Rig(str(pose_policy_path), plant=plant)
    try:
        result = rig.run(case["joint_position"], case["goal"], 3, 150)
    finally:
        rig.close()
    assert env.trajectory is not None and result.sha256 == env.trajectory.sha256()
    assert (result.error_m, result.success) == (info["distance_m"], info["is_success"])


@pytest.mark.process
def test_the_demonstration_draws_poses_for_a_policy_that_needs_them(
    pose_policy_path: Path,
) -> None:
    command = [sys.executable, "-m", "smfp_control.sim_demo", "--no-view", "--goals", "1"]
    command += ["--policy", str(pose_policy_path), "--timeout", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout)
    assert report["reached"] == 1 and done.returncode == 0, done.stderr
    assert report["median_error_m"] <= 0.02 and report["median_angle_error_rad"] <= 0.1


@pytest.fixture
def client(robot: RobotConfig, local_ros: None) -> Iterator[RobotClient]:
    rclpy.init(args=[])
    made = RobotClient(robot)
    made._node.create_subscription(PoseStamped, "policy_node/goal", lambda message: None, 10)
    try:
        yield made
    finally:
        made.close()
        rclpy.try_shutdown()


def test_a_dragged_goal_keeps_the_last_orientation_or_the_tools_own(
    client: RobotClient, near_pose: np.ndarray
) -> None:
    sent: list[np.ndarray] = []
    client._goals.publish = lambda message: sent.append(pose_of(message))
    place = near_pose[:3]
    client.seen.status = {"goal_kind": "position"}
    assert client.send_goal(place) is None
    np.testing.assert_array_equal(sent.pop(), [*place, *UPRIGHT])

    client.seen.status = {"goal_kind": "pose"}
    client.seen.tool_orientation = np.array(UPRIGHT)
    refusal = client.send_goal(place)
    assert refusal is not None and "not accepted: tilt" in refusal and "the tool's own" in refusal
    assert not sent and "not sent" in client.seen.answer

    client.seen.tool_orientation = near_pose[3:]
    assert client.send_goal(place) is None
    np.testing.assert_array_equal(sent.pop(), near_pose)

    client.seen.tool_orientation = np.array(UPRIGHT)
    client.seen.orientation = near_pose[3:]
    assert client.send_goal(place) is None
    np.testing.assert_array_equal(sent.pop(), near_pose)
