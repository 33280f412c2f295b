# SPDX-License-Identifier: Apache-2.0
"""The UR5e's MJCF against the manufacturer's figures."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from smfp_core.reference import Reference, ReferenceLimits, advance_reference
from smfp_core.robot import load_robot
from smfp_sim.arm import ArmModel, Kinematics, SimulatedArm

# Universal Robots, "DH parameters for calculations of kinematics and dynamics", UR5e: a, d, alpha.
DH = (
    (0.0, 0.1625, np.pi / 2),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, np.pi / 2),
    (0.0, 0.0997, -np.pi / 2),
    (0.0, 0.0996, 0.0),
)

# Universal_Robots_ROS2_Description 2.4.5, config/ur5e/physical_parameters.yaml: mass (kg), centre
# of mass in the link frame (m), tensor about it along the link's axes (kg m^2).
LINKS = {
    "shoulder_link": (3.761, (0, -0.00193, -0.02561), (0.0102675, 0.0102675, 0.00666)),
    "upper_arm_link": (8.058, (-0.2125, 0, 0.11336), (0.0151074, 0.1338858354, 0.1338858354)),
    "forearm_link": (2.846, (-0.2422, 0, 0.0265), (0.004095, 0.0312093676, 0.0312093676)),
    "wrist_1_link": (1.37, (0, -0.01634, -0.0018), (0.0025599, 0.0025599, 0.0021942)),
    "wrist_2_link": (1.3, (0, 0.01634, -0.0018), (0.0025599, 0.0025599, 0.0021942)),
    "wrist_3_link": (0.365, (0, 0, -0.001159), (9.890414e-05, 9.890414e-05, 0.0001321172)),
}
BASE_MASS = 4.0

# Solids that the real links fill, in link frames (m): ends of the axis and radius, measured on
# the manufacturer's visual meshes; tubes with the radii of physical_parameters.yaml.
SOLIDS = {
    "base_link": [((0, 0, 0), (0, 0, 0.099), 0.0755)],
    "shoulder_link": [((0, 0, -0.064), (0, 0, 0.060), 0.060), ((0, 0, 0), (0, -0.074, 0), 0.060)],
    "upper_arm_link": [
        ((0, 0, 0.073), (0, 0, 0.200), 0.060),
        ((0, 0, 0.138), (-0.425, 0, 0.138), 0.054),
        ((-0.425, 0, 0.060), (-0.425, 0, 0.200), 0.060),
    ],
    "forearm_link": [
        ((0, 0, -0.024), (0, 0, 0.060), 0.058),
        ((0, 0, 0.007), (-0.3922, 0, 0.007), 0.040),
        ((-0.3922, 0, -0.049), (-0.3922, 0, 0.060), 0.039),
    ],
    "wrist_1_link": [
        ((0, 0, -0.073), (0, 0, 0.039), 0.039),
        ((0, -0.054, 0), (0, 0.056, 0), 0.039),
    ],
    "wrist_2_link": [
        ((0, 0, -0.046), (0, 0, 0.039), 0.039),
        ((0, -0.057, 0), (0, 0.053, 0), 0.039),
    ],
    "wrist_3_link": [((0, 0, -0.046), (0, 0, 0), 0.0375)],
}


@pytest.fixture(scope="module")
def arm() -> ArmModel:
    return ArmModel(load_robot("ur5e"))


def dh_tool_pose(q: np.ndarray) -> np.ndarray:
    """Closed-form pose of the flange; base_link is the DH base turned by pi about z (REP 103)."""
    pose = np.diag([-1.0, -1.0, 1.0, 1.0])
    for angle, (a, d, alpha) in zip(q, DH, strict=True):
        c, s, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha), np.sin(alpha)
        pose = pose @ [
            [c, -s * ca, s * sa, a * c],
            [s, c * ca, -c * sa, a * s],
            [0.0, sa, ca, d],
            [0.0, 0.0, 0.0, 1.0],
        ]
    return pose


def test_tool_pose_equals_the_dh_chain_at_random_joints(arm: ArmModel) -> None:
    rng, kinematics = np.random.default_rng(0), Kinematics(arm)
    data = mujoco.MjData(arm.model)
    for q in rng.uniform(-2 * np.pi, 2 * np.pi, (200, 6)):
        expected = dh_tool_pose(q)
        assert np.abs(kinematics.tool_position(q) - expected[:3, 3]).max() < 1e-9
        data.qpos[arm.position_index] = q
        mujoco.mj_kinematics(arm.model, data)
        rotation = data.site_xmat[arm.tool_site].reshape(3, 3)
        assert np.abs(rotation - expected[:3, :3]).max() < 1e-9


def test_masses_and_inertia_are_the_published_ones(arm: ArmModel) -> None:
    model = arm.model
    for name, (mass, centre, tensor) in LINKS.items():
        body = model.body(name).id
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.body_iquat[body])
        rotation = rotation.reshape(3, 3)
        about_link_axes = rotation @ np.diag(model.body_inertia[body]) @ rotation.T
        assert model.body_mass[body] == pytest.approx(mass)
        np.testing.assert_allclose(model.body_ipos[body], centre, atol=1e-12)
        np.testing.assert_allclose(about_link_axes, np.diag(tensor), atol=1e-9)
    total = BASE_MASS + sum(mass for mass, _, _ in LINKS.values())
    assert model.body_mass.sum() == pytest.approx(total)
    assert total == pytest.approx(21.7)


def test_limits_of_the_mjcf_are_those_of_the_yaml(arm: ArmModel) -> None:
    for joint in arm.robot.joints:
        drive = arm.model.actuator(joint.name)
        np.testing.assert_allclose(arm.model.joint(joint.name).range, joint.position_rad, atol=1e-9)
        np.testing.assert_allclose(drive.ctrlrange, joint.position_rad, atol=1e-9)
        np.testing.assert_allclose(drive.forcerange, (-joint.effort_nm, joint.effort_nm))
        # Servo and gravity compensation together, too.
        total = arm.model.jnt_actfrcrange[arm.model.joint(joint.name).id]
        np.testing.assert_allclose(total, (-joint.effort_nm, joint.effort_nm))


def test_one_control_period_is_one_physics_step(arm: ArmModel) -> None:
    assert arm.timestep_s * arm.robot.control_rate_hz == pytest.approx(1.0)


@pytest.mark.parametrize("body", SOLIDS)
def test_collision_geometry_covers_the_real_links(arm: ArmModel, body: str) -> None:
    index = arm.model.body(body).id
    geoms = np.flatnonzero((arm.model.geom_bodyid == index) & (arm.model.geom_contype != 0))
    for start, end, radius in SOLIDS[body]:
        points = _surface(np.array(start, float), np.array(end, float), radius)
        outside = np.min([_distance(arm.model, geom, points) for geom in geoms], axis=0)
        assert outside.max() < 1e-4


def _surface(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    axis = (end - start) / np.linalg.norm(end - start)
    across = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    angles = np.linspace(0.0, 2 * np.pi, 48)[:, None]
    ring = np.cos(angles) * across + np.sin(angles) * np.cross(axis, across)
    along = np.linspace(0.0, 1.0, 60)
    return np.concatenate([start + f * (end - start) + radius * ring for f in along])


def _distance(model: mujoco.MjModel, geom: int, points: np.ndarray) -> np.ndarray:
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    local = (points - model.geom_pos[geom]) @ rotation.reshape(3, 3)
    size, kind = model.geom_size[geom], model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        local[:, 2] -= np.clip(local[:, 2], -size[1], size[1])
        return np.linalg.norm(local, axis=1) - size[0]
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        radial = np.hypot(local[:, 0], local[:, 1]) - size[0]
        return np.maximum(radial, np.abs(local[:, 2]) - size[1])
    assert kind == mujoco.mjtGeom.mjGEOM_BOX
    return (np.abs(local) - size).max(axis=1)


def test_home_and_stretched_poses_are_free_of_contact(arm: ArmModel) -> None:
    kinematics = Kinematics(arm)
    up, level = [0, -np.pi / 2, 0, -np.pi / 2, 0, 0], [0.0] * 6
    for q in (arm.robot.home_rad, np.array(up), np.array(level)):
        assert kinematics.contacts(q) == ()


@pytest.mark.parametrize(
    ("q", "links"),
    [
        ([0.0, -1.57, 2.9, 0.0, 0.0, 0.0], {"forearm_link", "shoulder_link"}),
        ([-0.6, -1.5, -2.6, 2.9, 0.5, -1.0], {"upper_arm_link", "wrist_2_link"}),
        ([-2.0, -0.7, -2.7, 1.4, -2.6, -0.7], {"forearm_link", "wrist_3_link"}),
        ([-1.4, -1.4, 2.6, -0.3, -2.2, 2.3], {"shoulder_link", "wrist_3_link"}),
        ([0.3, -0.3, 2.8, 2.0, -0.1, 1.4], {"forearm_link", "base_link"}),
        ([0.0, 0.3, 0.0, 0.0, 0.0, 0.0], {"forearm_link", "world"}),
    ],
)
def test_folded_poses_collide(arm: ArmModel, q: list[float], links: set[str]) -> None:
    model = arm.model
    touching = [
        {model.body(model.geom(geom).bodyid[0]).name for geom in pair}
        for pair in Kinematics(arm).contacts(np.array(q))
    ]
    assert links in touching


@pytest.mark.parametrize("joint", range(6))
def test_each_servo_tracks_a_ramp_of_1_rad_s(arm: ArmModel, joint: int) -> None:
    plant = SimulatedArm(arm)
    start = np.array([0.0, -1.57, 0.3, -1.57, -1.57, 0.0])
    plant.reset(start)
    limits = ReferenceLimits(start - 9.0, start + 9.0, np.full(6, 1.0), np.full(6, 5.0))
    reference = Reference.at_rest(start)
    velocity = np.zeros(6)
    velocity[joint] = -1.0 if joint == 1 else 1.0
    errors, efforts = [], []
    for tick in range(900):
        advance_reference(limits, reference, velocity * (tick < 500), 0.002)
        plant.command_position(reference.position)
        plant.step()
        errors.append(np.abs(reference.position - plant.joint_position))
        efforts.append(np.abs(plant.joint_effort))
    # The servo follows by its look-ahead time, 0.03 s less the tick that has passed.
    assert errors[499][joint] == pytest.approx(0.028, abs=0.001)
    assert np.max(errors, axis=0)[joint] < 0.03
    assert np.delete(np.max(errors, axis=0), joint).max() < 0.005
    assert errors[-1].max() < 0.001
    effort_limits = np.array([j.effort_nm for j in arm.robot.joints])
    assert np.all(np.max(efforts, axis=0) < 0.6 * effort_limits)


def test_servo_holds_the_stretched_arm_against_gravity(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    plant.reset(np.zeros(6))
    plant.step(1.0)
    np.testing.assert_allclose(plant.joint_position, 0.0, atol=1e-6)
    # Moment of the links' weight about the shoulder, base frame; joints 2 to 6 bear it.
    data = plant.data
    moving = range(arm.model.body("upper_arm_link").id, arm.model.nbody)
    moment = sum(9.81 * arm.model.body_mass[b] * data.xipos[b][0] for b in moving)
    assert abs(plant.joint_effort[1]) == pytest.approx(moment, rel=1e-3)
