# SPDX-License-Identifier: Apache-2.0
"""Distances between what may not touch, and the bounds on how fast they change."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import mujoco
import numpy as np
import pytest

from smfp_core.robot import (
    Obstacle,
    RobotConfig,
    RobotConfigError,
    Surroundings,
    Workspace,
    load_robot,
)
from smfp_core.specs import NEAR_OBSTACLE_M, RobotState
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel

ROBOT = load_robot("ur5e")
LOW, HIGH = ROBOT.limits.position_min, ROBOT.limits.position_max


def surrounded(**fields: object) -> RobotConfig:
    return dataclasses.replace(
        ROBOT, surroundings=dataclasses.replace(ROBOT.surroundings, **fields)
    )


CELL = surrounded(
    workspace=Workspace((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2)),
    obstacles=(
        Obstacle("ball", (0.5, 0.4, 0.3), radius_m=0.1),
        Obstacle("wall", (0.0, -0.7, 0.5), size_m=(1.0, 0.02, 1.0), yaw_rad=0.3),
    ),
)


@pytest.fixture(scope="module")
def cell() -> ClearanceModel:
    return ClearanceModel(CELL)


def distances(model: ClearanceModel, q: np.ndarray) -> np.ndarray:
    model.set_pose(q)
    return np.array([model.distance(row) for row in range(len(model.levers))])


def to_cylinder(model: mujoco.MjModel, data: mujoco.MjData, point: np.ndarray, geom: int) -> float:
    local = (point - data.geom_xpos[geom]) @ data.geom_xmat[geom].reshape(3, 3)
    radial = max(float(np.hypot(local[0], local[1])) - model.geom_size[geom, 0], 0.0)
    return float(np.hypot(radial, max(abs(local[2]) - model.geom_size[geom, 1], 0.0)))


def capsule_to_cylinder(
    model: mujoco.MjModel, data: mujoco.MjData, capsule: int, cylinder: int
) -> float:
    """By ternary search along the capsule's axis: the distance to a convex body is convex."""
    axis = data.geom_xmat[capsule].reshape(3, 3)[:, 2]
    radius, half = model.geom_size[capsule, :2]

    def at(s: float) -> float:
        return to_cylinder(model, data, data.geom_xpos[capsule] + s * axis, cylinder)

    low, high = -half, half
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if at(a) < at(b) else (a, high)
    return at((low + high) / 2) - radius


def test_distances_of_capsules_and_cylinders_are_the_closed_form_ones() -> None:
    clearance = ClearanceModel(ROBOT)
    model = mujoco.MjModel.from_xml_path(str(ROBOT.mjcf))
    data = mujoco.MjData(model)
    rows = [
        (row, a if model.geom_type[a] == mujoco.mjtGeom.mjGEOM_CAPSULE else b, a, b)
        for row, (a, b) in enumerate(clearance.pairs)
        if {int(model.geom_type[a]), int(model.geom_type[b])}
        == {int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER)}
    ]
    assert len(rows) > 10
    rng = np.random.default_rng(0)
    near = 0
    for q in rng.uniform(LOW, HIGH, (40, 6)):
        clearance.set_pose(q)
        data.qpos[:6] = q
        mujoco.mj_kinematics(model, data)
        for row, capsule, a, b in rows:
            expected = capsule_to_cylinder(model, data, capsule, a + b - capsule)
            found = clearance.distance(row)
            if expected > 0.0:
                assert found == pytest.approx(expected, abs=1e-6)
                near += expected < 0.2
            elif expected < -1e-6:
                assert found <= 0.0
    assert near > 50


def test_no_motion_changes_a_distance_faster_than_its_lever_says(cell: ClearanceModel) -> None:
    rng = np.random.default_rng(1)
    for scale in (0.02, 0.3):
        for q in rng.uniform(LOW, HIGH, (60, 6)):
            other = q + rng.uniform(-scale, scale, 6) * rng.integers(0, 2, 6)
            before, after = distances(cell, q), distances(cell, other)
            # How far two bodies overlap is only an estimate, which nothing relies on.
            apart = (before > 0.0) & (after > 0.0)
            change = np.abs(after - before)
            assert (change <= cell.levers @ np.abs(other - q) + 1e-9)[apart].all()


def test_levers_are_zero_only_for_joints_that_carry_both_or_none(cell: ClearanceModel) -> None:
    row = next(
        row
        for row in range(len(cell.pairs))
        if cell.label(row) == "forearm (forearm_link) and wrist_3 (wrist_3_link)"
    )
    assert (cell.levers[row, :3] == 0.0).all() and (cell.levers[row, 3:] > 0.0).all()


def test_jacobians_of_tool_and_elbow_are_those_of_their_positions(cell: ClearanceModel) -> None:
    rng = np.random.default_rng(2)
    found = np.zeros((2, 3, 6))
    base = ArmModel(ROBOT).base_rotation
    for q in rng.uniform(LOW, HIGH, (20, 6)):
        cell.set_pose(q)
        cell.point_jacobians(found)
        for index in range(2):
            expected = np.zeros((3, 6))
            for joint in range(6):
                ends = []
                for sign in (1.0, -1.0):
                    cell.set_pose(q + sign * 1e-6 * np.eye(6)[joint])
                    ends.append(cell.point_position(index))
                expected[:, joint] = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(base.T @ found[index], expected, atol=1e-8)
            speeds = np.linalg.norm(found[index], axis=0)
            assert (speeds <= cell.point_levers[index] + 1e-9).all()


def test_every_contact_that_mujoco_finds_is_a_watched_pair() -> None:
    everything = ClearanceModel(surrounded(never_touching=()))
    watched = {tuple(sorted(pair)) for pair in everything.pairs}
    model = mujoco.MjModel.from_xml_path(str(ROBOT.mjcf))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(3)
    found = set()
    for q in rng.uniform(LOW, HIGH, (1500, 6)):
        data.qpos[:6] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        found |= {tuple(sorted(map(int, pair))) for pair in data.contact.geom}
    assert len(found) > 30
    assert found <= watched


@pytest.mark.parametrize(
    ("bodies", "joints", "least_m"),
    [
        ({"base_link", "upper_arm_link"}, (1,), 0.002),
        ({"forearm_link", "wrist_2_link"}, (3, 4), 0.014),
        ({"wrist_1_link", "wrist_3_link"}, (4, 5), 0.014),
    ],
)
def test_bodies_that_the_yaml_calls_never_touching_never_touch(
    bodies: set[str], joints: tuple[int, ...], least_m: float
) -> None:
    assert bodies in [set(pair) for pair in ROBOT.surroundings.never_touching]
    everything = ClearanceModel(surrounded(never_touching=()))
    rows = [
        row
        for row in range(len(everything.pairs))
        if {
            part.split("(")[1].rstrip(")")
            for part in everything.label(row).split(" and ")
            if "(" in part
        }
        == bodies
    ]
    assert rows
    # Turning about the pan axis moves the upper arm about the base, which is round.
    moving = [(everything.levers[row] > 0.0).nonzero()[0] for row in rows]
    assert all(set(row) <= {0, *joints} for row in moving)
    count = 720 if len(joints) == 1 else 60
    q, least = np.zeros(6), np.inf
    for angles in itertools.product(np.linspace(-np.pi, np.pi, count), repeat=len(joints)):
        q[list(joints)] = angles
        everything.set_pose(q)
        least = min(least, min(everything.distance(row) for row in rows))
    assert least > least_m


def test_obstacles_stand_where_the_base_frame_says(cell: ClearanceModel) -> None:
    q = ROBOT.home_rad
    tool = Kinematics(ArmModel(ROBOT)).tool_position(q)
    cell.set_pose(q)
    np.testing.assert_allclose(cell.point_position(0), tool, atol=1e-12)
    ball = surrounded(obstacles=(Obstacle("ball", tuple(tool), radius_m=0.01),))
    touched = ClearanceModel(ball)
    rows = [row for row in range(len(touched.pairs)) if "obstacle ball" in touched.label(row)]
    touched.set_pose(q)
    assert min(touched.distance(row) for row in rows) <= 0.0
    # A wall 0.02 thick at y = -0.7, turned by 0.3 about z; the base cylinder's neighbours above.
    shoulder = next(
        row
        for row in range(len(cell.pairs))
        if cell.label(row) == "obstacle wall and shoulder (shoulder_link)"
    )
    assert cell.distance(shoulder) == pytest.approx(0.7 * np.cos(0.3) - 0.01 - 0.061, abs=1e-6)


def rows_of_obstacles(model: ClearanceModel, body: str) -> list[int]:
    return [row for row in model.obstacle_rows if model.label(row).endswith(f"({body})")]


def excluding_the_world(folder: Path, body: str) -> Path:
    exclude = f'<exclude body1="world" body2="{body}"/>'
    path, text = folder / "excluding.xml", ROBOT.mjcf.read_text()
    path.write_text(text.replace("<contact>", f"<contact>{exclude}", 1))
    assert exclude in path.read_text()
    return path


def test_an_mjcf_that_lets_a_link_pass_through_obstacles_is_refused(tmp_path: Path) -> None:
    path = excluding_the_world(tmp_path, "forearm_link")
    ball = surrounded(obstacles=(Obstacle("ball", (1.0, 0.0, 1.0), radius_m=0.01),))
    with pytest.raises(RobotConfigError, match="exclude of world and 'forearm_link'"):
        ArmModel(dataclasses.replace(ball, mjcf=path))
    # Without obstacles it is about the MJCF's own world.
    ArmModel(dataclasses.replace(ROBOT, mjcf=path))


@pytest.mark.parametrize("body", ["shoulder_link", "forearm_link", "wrist_3_link"])
def test_a_pair_with_the_world_that_never_touches_takes_no_obstacle_away(body: str) -> None:
    q = ROBOT.home_rad
    arm = ArmModel(ROBOT)
    data = mujoco.MjData(arm.model)
    data.qpos[arm.position_index] = q
    mujoco.mj_kinematics(arm.model, data)
    geom = next(
        geom
        for geom in range(arm.model.ngeom)
        if arm.model.geom_bodyid[geom] == arm.model.body(body).id and arm.model.geom_contype[geom]
    )
    center = arm.to_base(data.geom_xpos[geom], np.empty(3))
    robot = surrounded(obstacles=(Obstacle("ball", tuple(center), radius_m=0.01),))
    expected = ClearanceModel(robot)
    both = (*robot.surroundings.never_touching, (body, "world"))
    surroundings = dataclasses.replace(robot.surroundings, never_touching=both)
    robot = dataclasses.replace(robot, surroundings=surroundings)
    clearance = ClearanceModel(robot)
    rows = rows_of_obstacles(clearance, body)
    assert len(rows) == len(rows_of_obstacles(expected, body)) > 0
    # The floor is what the exclusion is of.
    assert len(clearance.pairs) < len(expected.pairs)
    for model in (clearance, expected):
        model.set_pose(q)
    found = min(clearance.distance(row) for row in rows)
    assert found < 0.0
    assert clearance.nearest_obstacle(0.1)[0] == expected.nearest_obstacle(0.1)[0] == found
    assert clearance.levers[rows].any(axis=1).all()


def test_an_obstacle_that_the_fixed_base_touches_is_not_in_its_way() -> None:
    clearance = ClearanceModel(
        surrounded(
            obstacles=(Obstacle("plinth", (0.0, 0.0, 0.01), radius_m=0.05),),
            never_touching=(*ROBOT.surroundings.never_touching, ("base_link", "world")),
        )
    )
    assert not rows_of_obstacles(clearance, "base_link")
    assert clearance.obstacle_rows and clearance.least(ROBOT.home_rad) > 0.0


def test_the_workspace_is_measured_to_its_nearest_face(cell: ClearanceModel) -> None:
    tool_row, elbow_row = len(cell.pairs), len(cell.pairs) + 1
    cell.set_pose(ROBOT.home_rad)
    for index, row in enumerate((tool_row, elbow_row)):
        x, y, z = cell.point_position(index)
        assert cell.distance(row) == pytest.approx(min(0.9 - abs(x), 0.9 - abs(y), z, 1.2 - z))
    assert "tool" in cell.label(tool_row) and "elbow" in cell.label(elbow_row)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"elbow_body": "knee"}, "surroundings.elbow_body: no body named 'knee'"),
        (
            {"never_touching": (("base_link", "foot"),)},
            r"surroundings.never_touching\[0\]: no body named 'foot'",
        ),
    ],
)
def test_surroundings_that_the_model_lacks_are_refused(fields: dict, text: str) -> None:
    with pytest.raises(RobotConfigError, match=text):
        ClearanceModel(surrounded(**fields))


def test_a_robot_without_surroundings_watches_all_pairs() -> None:
    bare = dataclasses.replace(ROBOT, surroundings=Surroundings())
    assert len(ClearanceModel(bare).pairs) > len(ClearanceModel(ROBOT).pairs)
    assert ClearanceModel(bare).points == ("tool",)


def test_an_obstacle_is_seen_with_its_distance_and_the_derivative_of_it() -> None:
    robot, rng = load_robot("ur5e_post"), np.random.default_rng(3)
    clearance, kinematics = ClearanceModel(robot), Kinematics(ArmModel(robot))
    state = RobotState(*(np.zeros(6) for _ in range(4)), np.zeros(3), np.zeros((3, 6)))
    state.make_room(obstacles=True)
    seen = 0
    for _ in range(200):
        q = np.array(robot.home_rad) + rng.uniform(-0.8, 0.8, 6)
        clearance.set_pose(q)
        nearest = min(clearance.distance(row) for row in clearance.obstacle_rows)
        state.joint_position_rad[:] = q
        kinematics.update(state)
        if nearest >= NEAR_OBSTACLE_M:
            assert state.obstacle_nearness[0] == 0.0 and not state.obstacle_gradient.any()
            continue
        nearness = 1.0 - nearest / NEAR_OBSTACLE_M
        assert state.obstacle_nearness[0] == pytest.approx(nearness, abs=1e-9)
        slopes = np.zeros(6)
        for joint in range(6):
            ends = []
            for side in (-1e-4, 1e-4):
                clearance.set_pose(q + side * np.eye(6)[joint])
                ends.append(min(clearance.distance(row) for row in clearance.obstacle_rows))
            slopes[joint] = (ends[1] - ends[0]) / 2e-4
        if nearest > 0.0:
            np.testing.assert_allclose(state.obstacle_gradient / nearness, slopes, atol=1e-3)
            seen += 1
    assert seen > 20


def test_an_arm_without_obstacles_sees_none() -> None:
    state = RobotState(*(np.zeros(6) for _ in range(4)), np.zeros(3), np.zeros((3, 6)))
    state.make_room(obstacles=True)
    Kinematics(ArmModel(ROBOT)).update(state)
    assert not state.obstacle_nearness.any() and not state.obstacle_gradient.any()
    state.make_room()
    assert state.obstacle_nearness is None and state.obstacle_gradient is None
