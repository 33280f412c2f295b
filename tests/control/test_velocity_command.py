# SPDX-License-Identifier: Apache-2.0
"""Velocities that lead the arm along the reference, with the simulated arm in the loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lockstep import LockStep

from smfp_control.commands import VelocityFollower
from smfp_control.controller_watch import Hearing
from smfp_control.faults import Fault, FaultKind
from smfp_control.sim_driver import SimulatedDriver
from smfp_core.policy_file import PolicyFile
from smfp_core.reference import Reference, advance_reference
from smfp_core.robot import RobotConfig
from smfp_sim.arm import ArmModel
from smfp_sim.clearance import ClearanceModel

DRIFT_RAD_S = 0.02


class Drive:
    """A reference that swings the arm, a servo that drifts, and a follower between them."""

    def __init__(self, robot: RobotConfig, gain_per_s: float) -> None:
        self.robot, self.dt = robot, 1.0 / robot.control_rate_hz
        self.driver = SimulatedDriver(robot, self.dt)
        self.reference = Reference.at_rest(self.driver.arm.joint_position)
        self.follower = VelocityFollower(robot, gain_per_s)
        self.sent: list[np.ndarray] = []
        self.distance_rad: list[float] = []

    def run(self, seconds: float, speed_rad_s: float, trusted: bool = True) -> None:
        arm = self.driver.arm
        for tick in range(round(seconds / self.dt)):
            wanted = np.full(len(self.robot.joints), speed_rad_s * math.sin(6.0 * tick * self.dt))
            advance_reference(self.robot.limits, self.reference, wanted, self.dt)
            measured = arm.joint_position if trusted else None
            velocity = self.follower.follow(self.reference, measured)
            self.sent.append(velocity.copy())
            self.driver.take_velocity(velocity + DRIFT_RAD_S)
            self.driver.advance()
            distance = np.abs(self.reference.position - arm.joint_position).max()
            self.distance_rad.append(float(distance))


def test_a_servo_that_drifts_is_corrected_and_without_the_gain_is_not(robot: RobotConfig) -> None:
    corrected, open_loop = Drive(robot, 2.0), Drive(robot, 0.0)
    for drive in (corrected, open_loop):
        drive.run(10.0, 0.3)
    # Settled at drift over gain, 0.01 rad, beside what the servo lags behind in motion.
    assert max(corrected.distance_rad[-500:]) < 0.05
    assert open_loop.distance_rad[-1] > 0.15


@pytest.mark.parametrize("speed_rad_s", [0.3, 50.0])
def test_corrected_velocities_keep_to_the_limits_and_end_in_zeros(
    robot: RobotConfig, speed_rad_s: float
) -> None:
    drive = Drive(robot, 10.0)
    drive.reference.position += 0.3
    drive.run(1.5, speed_rad_s)
    drive.run(1.0, 0.0, trusted=False)
    assert drive.follower.settled and not drive.sent[-1].any()
    sent = np.array([np.zeros(len(robot.joints)), *drive.sent])
    assert (np.abs(sent) <= robot.limits.velocity + 1e-12).all()
    change = np.abs(np.diff(sent, axis=0))
    assert (change <= robot.limits.acceleration * drive.dt + 1e-12).all()
    correction = np.abs(sent[1])
    assert correction.max() > 0.0


@pytest.mark.parametrize("limit_m_s", [0.005, 0.025])
def test_corrections_move_no_guarded_point_faster_than_their_share(
    robot: RobotConfig, limit_m_s: float
) -> None:
    rng, dt = np.random.default_rng(0), 1.0 / robot.control_rate_hz
    levers = ClearanceModel(robot, ArmModel(robot).model).point_levers
    follower = VelocityFollower(robot, 10.0, levers, limit_m_s)
    reference = Reference.at_rest(robot.home_rad)
    greatest, before = 0.0, follower.value.copy()
    for tick in range(2000):
        if tick % 50 == 0:
            wanted = rng.uniform(-1.0, 1.0, len(levers[0])) * rng.choice([0.0, 0.5, 50.0])
            away = rng.uniform(-0.3, 0.3, len(levers[0])) * rng.choice([0.0, 0.01, 1.0])
        advance_reference(robot.limits, reference, wanted, dt)
        sent = follower.follow(reference, None if tick % 400 > 350 else reference.position + away)
        share = (levers @ np.abs(sent - reference.velocity)).max()
        greatest = max(greatest, share)
        assert share <= limit_m_s + 1e-9
        assert (np.abs(sent - before) <= robot.limits.acceleration * dt + 1e-12).all()
        before = sent.copy()
    assert greatest > 0.9 * limit_m_s


def test_without_a_gain_the_velocity_is_the_reference_s_own(robot: RobotConfig) -> None:
    follower = VelocityFollower(robot, 0.0)
    reference = Reference.at_rest(robot.home_rad)
    for _ in range(50):
        wanted = np.ones(len(robot.joints))
        advance_reference(robot.limits, reference, wanted, 1.0 / robot.control_rate_hz)
        sent = follower.follow(reference, robot.home_rad)
        np.testing.assert_allclose(sent, reference.velocity, atol=1e-12)


def assert_velocities_ramp(arm: LockStep, first: int = 0) -> None:
    """From rest, and from each velocity to the next, no more than the acceleration allows."""
    sent = np.array([np.zeros(len(arm.robot.joints)), *arm.velocities[first:]])
    change = np.abs(np.diff(sent, axis=0))
    assert (change <= arm.robot.limits.acceleration * arm.period_s + 1e-12).all()


def test_a_loop_of_velocities_reaches_its_goal_and_ends_in_zeros(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    arm = LockStep(robot, policy, velocity_gain_per_s=2.0)
    assert arm.loop.set_goal(near_goal) is None
    arm.run(0.3)
    assert np.abs(arm.velocities[-1]).max() > 0.1
    arm.run(2.7)
    assert math.dist(arm.tool(), near_goal) < 0.01
    arm.loop.set_goal(np.array([0.42, -0.2, 0.45]))
    arm.run(0.3)
    assert np.abs(arm.velocities[-1]).max() > 0.1
    arm.loop.request_stop()
    assert not arm.run(2.0)
    assert arm.loop.settled and not arm.velocities[-1].any()
    assert_velocities_ramp(arm)


@pytest.mark.parametrize("again", ["reset", "activate"])
@pytest.mark.parametrize("unnoticed_s", [0.0, 0.03, 0.054, 0.1, 0.3])
def test_a_driver_that_ended_in_motion_and_is_back_is_sent_velocities_from_rest(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray, unnoticed_s: float, again: str
) -> None:
    arm = LockStep(robot, policy, velocity_gain_per_s=2.0)
    loop = arm.loop
    loop.set_goal(near_goal)
    arm.run(0.3)
    assert np.abs(arm.velocities[-1]).max() > 0.1
    # Its states and its subscription end at once; that nobody listens is seen a little later.
    arm.heard, arm.tamper = False, lambda message: None
    arm.driver.take_velocity(np.zeros(len(robot.joints)))
    arm.run(unnoticed_s)
    loop.hearing = Hearing.NOBODY
    loop.external = Fault(FaultKind.NO_CONTROLLER, "nobody takes commands")
    arm.run(1.0)
    assert loop.settled
    if again == "activate":
        loop.request_stop()
        assert not arm.run(0.1), "what nobody takes is no reason to go on"
        loop.end()
    arm.heard, arm.tamper = True, lambda message: message
    loop.hearing, loop.external = Hearing.SURELY, None
    sent = len(arm.velocities)
    if again == "activate":
        arm.latch.clear()
        arm.publish()
        assert loop.observe(arm.now_ns) is None and loop.moving() is None
        loop.begin()
    else:
        arm.run(0.1)
        assert loop.reset() is None
    left = arm.driver.arm.joint_position
    arm.run(0.5)
    assert arm.latch.fault is None and len(arm.velocities) > sent
    assert_velocities_ramp(arm, sent)
    assert np.abs(arm.driver.arm.joint_position - left).max() < 1e-3
