# SPDX-License-Identifier: Apache-2.0
"""The FR3's MJCF and YAML against the manufacturer's figures."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from smfp_core.reference import Reference, advance_reference
from smfp_core.robot import load_robot
from smfp_sim.arm import ArmModel, Kinematics, SimulatedArm

# Franka Control Interface documentation, Denavit-Hartenberg parameters in Craig's convention:
# a, d, alpha of each joint; the last row is the flange, which does not turn.
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
    (0.0, 0.107, 0.0),
)

# libfranka 0.15, rate_limiting.h: the arm aborts beyond |v| <= sqrt(c * room) - b; for each joint
# b (rad/s), c (rad/s^2), and the positions (rad) that the room is measured from.
SPEED_NEAR_LIMITS = (
    (0.30, 12.0, -2.7501, 2.7501),
    (0.20, 5.17, -1.7918, 1.7918),
    (0.20, 7.00, -2.9065, 2.9065),
    (0.30, 8.00, -3.0481, -0.1458),
    (0.35, 34.0, -2.8101, 2.8101),
    (0.35, 11.0, 0.54092, 4.5205),
    (0.35, 34.0, -3.0196, 3.0196),
)

# franka_description 1.0.1, robots/fr3/inertials.yaml: masses of links 0 to 7, kg.
MASSES = (2.3966, 2.9274653454, 2.9355370338, 2.2449013699)
MASSES += (2.6155955791, 2.3271207594, 1.8170376524, 0.6271432862)


@pytest.fixture(scope="module")
def arm() -> ArmModel:
    return ArmModel(load_robot("fr3"))


def dh_tool_pose(q: np.ndarray) -> np.ndarray:
    """Closed-form pose of the flange in fr3_link0."""
    pose = np.eye(4)
    for angle, (a, d, alpha) in zip([*q, 0.0], DH, strict=True):
        c, s, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha), np.sin(alpha)
        pose = pose @ [
            [c, -s, 0.0, a],
            [s * ca, c * ca, -sa, -d * sa],
            [s * sa, c * sa, ca, d * ca],
            [0.0, 0.0, 0.0, 1.0],
        ]
    return pose


def test_tool_pose_equals_the_dh_chain_at_random_joints(arm: ArmModel) -> None:
    rng, kinematics = np.random.default_rng(0), Kinematics(arm)
    data = mujoco.MjData(arm.model)
    for q in rng.uniform(-np.pi, np.pi, (200, 7)):
        expected = dh_tool_pose(q)
        assert np.abs(kinematics.tool_position(q) - expected[:3, 3]).max() < 1e-9
        data.qpos[arm.position_index] = q
        mujoco.mj_kinematics(arm.model, data)
        rotation = data.site_xmat[arm.tool_site].reshape(3, 3)
        assert np.abs(rotation - expected[:3, :3]).max() < 1e-9


def test_limits_of_the_mjcf_are_those_of_the_yaml(arm: ArmModel) -> None:
    for joint in arm.robot.joints:
        drive = arm.model.actuator(joint.name)
        np.testing.assert_allclose(arm.model.joint(joint.name).range, joint.position_rad, atol=1e-9)
        np.testing.assert_allclose(drive.ctrlrange, joint.position_rad, atol=1e-9)
        np.testing.assert_allclose(drive.forcerange, (-joint.effort_nm, joint.effort_nm))
        total = arm.model.jnt_actfrcrange[arm.model.joint(joint.name).id]
        np.testing.assert_allclose(total, (-joint.effort_nm, joint.effort_nm))


def test_masses_are_the_published_ones(arm: ArmModel) -> None:
    masses = [arm.model.body(f"fr3_link{i}").mass[0] for i in range(8)]
    np.testing.assert_allclose(masses, MASSES)


def test_commands_stay_below_the_arms_speed_limits_near_the_ends_of_its_joints(
    arm: ArmModel,
) -> None:
    limits, dt = arm.robot.limits, 1.0 / arm.robot.control_rate_hz
    b, c, low, high = np.array(SPEED_NEAR_LIMITS).T
    reference = Reference.at_rest((limits.position_min + limits.position_max) / 2)
    # To one end and then to the other, as fast as the bounds of commands allow.
    for way in (1.0, -1.0):
        for _ in range(round(6.0 / dt)):
            room = high - reference.position if way > 0.0 else reference.position - low
            fastest = np.minimum(limits.velocity, np.sqrt(c * room) - b)
            advance_reference(limits, reference, way * limits.velocity, dt)
            assert np.all(way * reference.velocity <= fastest + 1e-9)
        end = limits.position_max if way > 0.0 else limits.position_min
        np.testing.assert_allclose(reference.position, end, atol=1e-2)


def test_home_is_free_of_contact_and_folded_poses_collide(arm: ArmModel) -> None:
    kinematics = Kinematics(arm)
    assert kinematics.contacts(arm.robot.home_rad) == ()
    assert kinematics.contacts(np.array([0, 0, 0, -0.2, 0, 1.6, 0])) == ()
    model = arm.model
    for q, links in (
        ([0.0, 0.9, 0.0, -2.6, 0.0, 3.0, 0.0], {"fr3_link7", "world"}),
        ([0.0, 0.5, 0.0, -3.0, 0.0, 1.6, 0.0], {"fr3_link7", "fr3_link1"}),
    ):
        touching = [
            {model.body(model.geom(geom).bodyid[0]).name for geom in pair}
            for pair in kinematics.contacts(np.array(q))
        ]
        assert links in touching, (q, touching)


def test_goals_lie_within_the_arms_reach(arm: ArmModel) -> None:
    rng, robot = np.random.default_rng(0), arm.robot
    goals = np.array([robot.goals.sample(rng) for _ in range(200)])
    # Data sheet: 0.855 m to the flange, from the shoulder.
    assert np.linalg.norm(goals - robot.goals.center_m, axis=1).max() < 0.855
    assert robot.goals.refusal(Kinematics(arm).tool_position(robot.home_rad)) is None


def test_servo_holds_the_stretched_arm_against_gravity(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    start = np.array([0.0, np.pi / 2, 0.0, -0.2, 0.0, 1.6, 0.0])
    plant.reset(start)
    plant.step(1.0)
    np.testing.assert_allclose(plant.joint_position, start, atol=1e-4)
    assert 20.0 < abs(plant.joint_effort[1]) < 87.0


@pytest.mark.parametrize("joint", range(7))
def test_each_servo_follows_a_slow_ramp(arm: ArmModel, joint: int) -> None:
    plant, reference = SimulatedArm(arm), arm.robot.home_rad.copy()
    for _ in range(500):
        reference[joint] += 0.5 * 0.002
        plant.command_position(reference)
        plant.step()
    error = reference - plant.joint_position
    assert error[joint] == pytest.approx(0.5 * 0.028, abs=0.002)
    assert np.abs(np.delete(error, joint)).max() < 0.003
    assert not plant.in_contact
