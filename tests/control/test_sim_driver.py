# SPDX-License-Identifier: Apache-2.0
"""The simulated arm behind a driver's manners."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from smfp_control.sim_driver import SimulatedDriver
from smfp_core.robot import RobotConfig, Workspace, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.clearance import ClearanceModel
from smfp_sim.plant import Channel, Plant
from smfp_sim.randomized_arm import make_randomized_arm

PERIOD_S = 0.002


def test_the_last_command_is_kept_for_ever(robot: RobotConfig) -> None:
    driver = SimulatedDriver(robot, PERIOD_S)
    target = robot.home_rad + 0.1
    assert driver.take_position(target) is None
    driver.advance(1000)
    for _ in range(1000):
        driver.advance()
    np.testing.assert_allclose(driver.arm.joint_position, target, atol=0.01)


@pytest.mark.parametrize("values", [[0.0] * 5, [0.0] * 7, [], [np.nan] * 6, [np.inf] * 6])
def test_bad_commands_are_ignored(robot: RobotConfig, values: list[float]) -> None:
    driver = SimulatedDriver(robot, PERIOD_S)
    assert driver.take_position(values) is not None
    assert driver.take_velocity(values) is not None
    assert driver.take_trajectory(robot.joint_names, values, 0.1) is not None
    for _ in range(100):
        driver.advance()
    np.testing.assert_allclose(driver.arm.joint_position, robot.home_rad, atol=0.01)


def test_velocities_move_the_arm_until_another_command(robot: RobotConfig) -> None:
    driver = SimulatedDriver(robot, PERIOD_S)
    driver.take_velocity(0.2 * np.eye(6)[0])
    for _ in range(500):
        driver.advance()
    assert driver.arm.joint_position[0] == pytest.approx(0.2, abs=0.02)
    driver.take_velocity(np.zeros(6))
    for _ in range(500):
        driver.advance()
    assert driver.arm.joint_velocity[0] == pytest.approx(0.0, abs=1e-3)


def test_a_trajectory_is_followed_by_name_in_a_straight_line(robot: RobotConfig) -> None:
    driver = SimulatedDriver(robot, PERIOD_S)
    target = robot.home_rad + 0.2
    names = list(reversed(robot.joint_names))
    assert driver.take_trajectory(names, list(reversed(target)), 0.5) is None
    for _ in range(125):
        driver.advance()
    np.testing.assert_allclose(driver.arm.reference_position, robot.home_rad + 0.1, atol=0.002)
    for _ in range(500):
        driver.advance()
    np.testing.assert_allclose(driver.arm.joint_position, target, atol=0.01)
    assert driver.take_trajectory(["elbow_joint"], [0.0], 0.1) is not None


@pytest.mark.parametrize("physics_rate_hz", [0.0, 1000.0, 2000.0])
def test_a_trajectory_goes_on_from_what_was_sent_not_from_what_has_arrived(
    physics_rate_hz: float,
) -> None:
    robot = load_robot("fr3")
    plant = Plant(command=Channel(delay_s=0.02))
    driver = SimulatedDriver(robot, PERIOD_S, physics_rate_hz, plant=plant)
    references = []
    arm_step = driver.arm.step

    def step() -> None:
        arm_step()
        references.append(driver.arm.reference_position[0])

    driver.arm.step = step  # type: ignore[method-assign,assignment]
    for k in range(100):
        target = robot.home_rad.copy()
        target[0] += 0.5 * PERIOD_S * k
        driver.take_trajectory(robot.joint_names, target, PERIOD_S)
        driver.advance()
    steps = np.diff(references)
    assert steps.min() >= 0.0  # a ramp of 0.5 rad/s, late and never backwards
    assert steps.max() <= 0.5 * driver.arm.arm.timestep_s + 1e-12
    assert references[-1] == pytest.approx(0.5 * (99 * PERIOD_S - 0.02), abs=0.5 * PERIOD_S)


def test_segments_of_one_period_are_the_positions_to_the_bit() -> None:
    # As the gymnasium task commands them: what is interpolated has no rounding of its own.
    robot = load_robot("fr3")
    plant = Plant(command=Channel(delay_s=0.01))
    through, direct = (SimulatedDriver(robot, PERIOD_S, plant=plant) for _ in range(2))
    position, rng = robot.home_rad.copy(), np.random.default_rng(0)
    for _ in range(200):
        position = position + rng.uniform(-1e-3, 1e-3, len(position))
        through.take_trajectory(robot.joint_names, position, PERIOD_S)
        direct.take_position(position)
        for driver in (through, direct):
            driver.advance()
        np.testing.assert_array_equal(through.arm.reference_position, direct.arm.reference_position)
    np.testing.assert_array_equal(through.arm.joint_position, direct.arm.joint_position)


def test_simulated_time_follows_the_real_time_factor(robot: RobotConfig) -> None:
    for factor in (0.5, 1.0, 2.0):
        driver = SimulatedDriver(robot, PERIOD_S, real_time_factor=factor)
        for _ in range(100):
            driver.advance()
        assert driver.arm.time_s == pytest.approx(100 * PERIOD_S * factor, abs=PERIOD_S)


def test_periods_that_the_computer_missed_are_made_up_for_within_bounds(
    robot: RobotConfig,
) -> None:
    driver = SimulatedDriver(robot, PERIOD_S)
    driver.advance(10)
    assert driver.arm.time_s == pytest.approx(10 * PERIOD_S)
    driver.reset()
    driver.advance(10_000)
    assert driver.arm.time_s == pytest.approx(0.1)


def test_start_poses(robot: RobotConfig) -> None:
    given = SimulatedDriver(robot, PERIOD_S, start_pose="0, -1.5, 1.5, -1.5, -1.5, 0.1")
    np.testing.assert_allclose(given.arm.joint_position, [0, -1.5, 1.5, -1.5, -1.5, 0.1])
    first, again, other = (
        SimulatedDriver(robot, PERIOD_S, start_pose="random", seed=seed).arm.joint_position
        for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()
    for pose, joint in zip(first, robot.joints, strict=True):
        assert joint.start_rad[0] <= pose <= joint.start_rad[1]


def anywhere(robot: RobotConfig) -> RobotConfig:
    """The arm with starts over the whole ranges of its joints: most of them touch something."""
    joints = tuple(dataclasses.replace(j, start_rad=j.position_rad) for j in robot.joints)
    return dataclasses.replace(robot, joints=joints)


def test_random_starts_are_clear_of_everything(robot: RobotConfig) -> None:
    wide = anywhere(robot)
    low, high = np.array([joint.position_rad for joint in robot.joints]).T
    clearance, rng = ClearanceModel(robot), np.random.default_rng(0)
    raw = [clearance.least(rng.uniform(low, high)) for _ in range(30)]
    assert min(raw) < 0.0, "nothing is shown if every pose is clear"
    driver = SimulatedDriver(wide, PERIOD_S, start_pose="random", seed=0)
    for _ in range(30):
        assert clearance.least(driver.arm.joint_position) >= 0.02 - 1e-9
        assert not driver.arm.in_contact
        driver.reset()


def test_a_random_start_that_cannot_be_had_is_refused_by_name(robot: RobotConfig) -> None:
    box = Workspace((5.0, 5.0, 5.0), (6.0, 6.0, 6.0))
    caged = dataclasses.replace(
        robot, surroundings=dataclasses.replace(robot.surroundings, workspace=box)
    )
    with pytest.raises(ConfigError, match="start_pose: none of"):
        SimulatedDriver(caged, PERIOD_S, start_pose="random")


@pytest.mark.parametrize("text", ["", "here", "0,0,0", "0,0,0,0,0,nan"])
def test_a_start_pose_that_is_none_is_refused_by_name(robot: RobotConfig, text: str) -> None:
    with pytest.raises(ConfigError, match="start_pose: expected"):
        SimulatedDriver(robot, PERIOD_S, start_pose=text)


def test_a_physics_rate_that_does_not_fit_is_refused_by_name(robot: RobotConfig) -> None:
    with pytest.raises(ConfigError, match="physics_rate_hz"):
        SimulatedDriver(robot, PERIOD_S, physics_rate_hz=700.0)
    fine = SimulatedDriver(robot, PERIOD_S, physics_rate_hz=1000.0)
    assert fine.arm.arm.timestep_s == pytest.approx(0.001)


def test_a_randomised_arm_is_the_one_of_training_to_the_bit(robot: RobotConfig) -> None:
    driver = SimulatedDriver(robot, PERIOD_S, randomization="realistic", seed=5)
    arm = make_randomized_arm(robot, "realistic", seed=5)
    arm.reset(robot.home_rad, 5)
    plants = [arm.plant]
    assert driver.plant == arm.plant
    for k in range(1200):
        q = robot.home_rad + 0.2 * np.sin(0.002 * k)
        driver.take_position(q)
        driver.advance()
        arm.command_position(q)
        arm.step(PERIOD_S)
        arm.sample()
        np.testing.assert_array_equal(driver.arm.joint_position, arm.joint_position)
        np.testing.assert_array_equal(driver.arm.measured_velocity, arm.measured_velocity)
        if arm.plant != plants[-1]:
            plants.append(arm.plant)
    assert driver.plant == arm.plant and len(plants) > 1
    driver.reset()
    arm.reset(robot.home_rad)
    assert driver.plant == arm.plant and arm.plant not in plants
