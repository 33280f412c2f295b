# SPDX-License-Identifier: Apache-2.0
"""The exported URDF against MuJoCo: the same arm, to rounding."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
import pytest

from smfp_core.robot import RobotConfig, RobotConfigError, load_robot
from smfp_sim.arm import ArmModel
from smfp_sim.urdf import main, robot_urdf, rpy

ROBOTS = ("ur5e", "fr3")

# A joint beside its body's origin, a reference value, pitches of 90 degrees, a slide, a capsule.
ODD = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <worldbody>
    <body name="base_link" pos="0.1 0.2 0.3" euler="0.3 -0.2 0.9">
      <geom size="0.05"/>
      <body name="one" pos="0 0 0.2" euler="0 1.5707963267948966 0.4">
        <joint name="a" axis="0.2 0.3 1" pos="0.03 -0.02 0.05" range="-2 2" ref="0.4"/>
        <geom type="capsule" fromto="0 0 0 0 0.1 0.2" size="0.03" rgba="1 0 0 1"/>
        <body name="stump" pos="0.1 0 0" euler="0 -1.5707963267948966 0">
          <geom type="box" size="0.01 0.02 0.03"/>
          <body name="two" pos="0 0.1 0">
            <joint name="b" axis="0 1 0" pos="0.01 0 0" range="-2 2"/>
            <geom type="cylinder" size="0.02 0.05"/>
            <body name="rail" pos="0 0 0.1">
              <joint name="finger" type="slide" axis="1 0 0" range="-0.1 0.1" ref="0.02"/>
              <geom size="0.01"/>
              <site name="tool" pos="0.01 0.02 0.03" euler="0.1 0.2 0.3"/>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="a" kp="100" kv="1" forcerange="-10 10"/>
    <position joint="b" kp="100" kv="1" forcerange="-10 10"/>
  </actuator>
</mujoco>
"""


def transform(origin: ET.Element) -> np.ndarray:
    """[4, 4] of an ``origin``, by URDF's definition of roll, pitch and yaw."""
    r, p, y = map(float, origin.attrib["rpy"].split())
    x_turn = np.array([[1, 0, 0], [0, math.cos(r), -math.sin(r)], [0, math.sin(r), math.cos(r)]])
    y_turn = np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]])
    z_turn = np.array([[math.cos(y), -math.sin(y), 0], [math.sin(y), math.cos(y), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = z_turn @ y_turn @ x_turn
    pose[:3, 3] = list(map(float, origin.attrib["xyz"].split()))
    return pose


def motion(joint: ET.Element, value: float) -> np.ndarray:
    """[4, 4] of a joint at ``value``: Rodrigues' formula, or a shift along the axis."""
    pose = np.eye(4)
    axis = joint.find("axis")
    if axis is None:
        return pose
    u = np.array(list(map(float, axis.attrib["xyz"].split())))
    if joint.attrib["type"] == "prismatic":
        pose[:3, 3] = value * u
        return pose
    cross = np.array([[0, -u[2], u[1]], [u[2], 0, -u[0]], [-u[1], u[0], 0]])
    pose[:3, :3] = np.eye(3) + math.sin(value) * cross + (1 - math.cos(value)) * cross @ cross
    return pose


def pose_in_urdf(text: str, link: str, values: dict[str, float]) -> np.ndarray:
    """[4, 4] of a link in the frame of the root, at joint ``values``."""
    joints = {j.find("child").attrib["link"]: j for j in ET.fromstring(text).findall("joint")}
    pose = np.eye(4)
    while link in joints:
        joint = joints[link]
        value = values.get(joint.attrib["name"], 0.0)
        pose = transform(joint.find("origin")) @ motion(joint, value) @ pose
        link = joint.find("parent").attrib["link"]
    return pose


def agree(robot: RobotConfig, text: str) -> None:
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    data = mujoco.MjData(model)
    site = model.site(robot.tool_site).id
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = {}
        for index in range(model.njnt):
            value = rng.uniform(*model.jnt_range[index])
            data.qpos[model.jnt_qposadr[index]] = values[model.joint(index).name] = value
        mujoco.mj_kinematics(model, data)
        found = pose_in_urdf(text, robot.tool_site, values)
        assert found[:3, 3] == pytest.approx(data.site_xpos[site], abs=1e-9)
        assert found[:3, :3] == pytest.approx(data.site_xmat[site].reshape(3, 3), abs=1e-9)


@pytest.fixture
def odd(tmp_path: Path) -> RobotConfig:
    path = tmp_path / "odd.xml"
    path.write_text(ODD)
    ur5e = load_robot("ur5e")
    joints = tuple(
        dataclasses.replace(
            ur5e.joints[0], name=name, position_rad=(-2.0, 2.0), effort_nm=10.0, start_rad=(-1, 1)
        )
        for name in ("a", "b")
    )
    return dataclasses.replace(ur5e, name="odd", mjcf=path, joints=joints, tool_site="tool")


@pytest.mark.parametrize("name", ROBOTS)
def test_tool_pose_is_that_of_mujoco(name: str) -> None:
    robot = load_robot(name)
    agree(robot, robot_urdf(robot))


def test_joints_beside_origins_and_reference_values_are_kept(odd: RobotConfig) -> None:
    agree(odd, robot_urdf(odd))


@pytest.mark.parametrize("name", ROBOTS)
def test_another_program_reads_the_same_arm(name: str) -> None:
    robot = load_robot(name)
    model = mujoco.MjModel.from_xml_string(robot_urdf(robot))
    own = ArmModel(robot).model
    assert [model.joint(i).name for i in range(model.njnt)] == list(robot.joint_names)
    for joint in robot.joints:
        assert model.joint(joint.name).range == pytest.approx(joint.position_rad)
        body, same = model.joint(joint.name).bodyid[0], own.joint(joint.name).bodyid[0]
        assert model.body_mass[body] == pytest.approx(own.body_mass[same])
        # The axes of inertia may come in another order, by another turn.
        assert sorted(model.body_inertia[body]) == pytest.approx(sorted(own.body_inertia[same]))


def test_limits_are_those_of_the_yaml() -> None:
    robot = load_robot("ur5e")
    root = ET.fromstring(robot_urdf(robot))
    limits = {j.attrib["name"]: j.find("limit") for j in root.findall("joint")}
    for joint in robot.joints:
        limit = {key: float(value) for key, value in limits[joint.name].attrib.items()}
        assert (limit["lower"], limit["upper"]) == joint.position_rad
        assert (limit["velocity"], limit["effort"]) == (joint.velocity_rad_s, joint.effort_nm)


def test_a_capsule_becomes_a_cylinder_and_two_balls(odd: RobotConfig) -> None:
    root = ET.fromstring(robot_urdf(odd))
    visuals = root.findall("link[@name='one']/visual")
    kinds = sorted(v.find("geometry")[0].tag for v in visuals)
    assert kinds == ["cylinder", "sphere", "sphere"]
    by_kind = {v.find("geometry")[0].tag: transform(v.find("origin")) for v in visuals}
    balls = [
        transform(v.find("origin"))[:3, 3] for v in visuals if v.find("geometry/sphere") is not None
    ]
    # Ends of the capsule, less the joint's place, which is the origin of the link.
    anchor = np.array([0.03, -0.02, 0.05])
    ends = sorted(map(tuple, np.round(np.array(balls) + anchor, 9)))
    assert ends == [(0.0, 0.0, 0.0), (0.0, 0.1, 0.2)]
    assert by_kind["cylinder"][:3, 3] + anchor == pytest.approx([0.0, 0.05, 0.1])


def test_a_mesh_lies_where_mujoco_has_it(odd: RobotConfig, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="pip install '.[view]'")
    wedge = trimesh.Trimesh(
        [[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
    )
    (tmp_path / "assets").mkdir()
    wedge.export(tmp_path / "assets" / "wedge.stl")
    asset = '<asset><mesh name="w" file="wedge.stl" scale="0.1 0.1 0.2"/></asset>'
    text = ODD.replace('autolimits="true"/>', f'autolimits="true" meshdir="assets"/>{asset}')
    geom = '<geom type="mesh" mesh="w" pos="0.1 0.2 0.3" euler="0.5 0.6 0.7"/>'
    odd.mjcf.write_text(text.replace('<geom size="0.01"/>', geom))
    visual = ET.fromstring(robot_urdf(odd)).find("link[@name='rail']/visual")
    mesh = visual.find("geometry/mesh").attrib
    path = Path(mesh["filename"].removeprefix("file://"))
    corners = trimesh.load(path).vertices * list(map(float, mesh["scale"].split()))
    pose = transform(visual.find("origin"))
    found = corners @ pose[:3, :3].T + pose[:3, 3]

    model = mujoco.MjModel.from_xml_path(str(odd.mjcf))
    body = model.body("rail").id
    (index,) = np.flatnonzero(model.geom_bodyid == body)
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, model.geom_quat[index])
    wanted = model.mesh_vert @ turn.reshape(3, 3).T + model.geom_pos[index]

    def sorted_rows(points: np.ndarray) -> np.ndarray:
        return np.array(sorted({tuple(row) for row in np.round(points, 5)}))

    assert sorted_rows(found) == pytest.approx(sorted_rows(wanted), abs=2e-5)


def test_joints_that_urdf_lacks_are_refused_by_name(odd: RobotConfig, tmp_path: Path) -> None:
    text = ODD.replace('<geom size="0.01"/>', '<geom size="0.01"/><joint name="more"/>', 1)
    odd.mjcf.write_text(text)
    with pytest.raises(RobotConfigError, match=r"body 'rail'.*URDF"):
        robot_urdf(odd)


def test_a_tool_with_the_name_of_a_body_is_that_link_or_has_a_name_of_its_own(
    odd: RobotConfig,
) -> None:
    body = "rail"
    named = dataclasses.replace(odd, tool_site=body)
    for place, names in (("0 0 0", {body}), ("0 0 0.1", {body, f"{body}_site"})):
        tree = ET.fromstring(ODD)
        for tool in tree.iter("site"):
            tool.attrib = {"name": body, "pos": place}
        odd.mjcf.write_text(ET.tostring(tree, encoding="unicode"))
        root = ET.fromstring(robot_urdf(named))
        for kind in ("link", "joint"):
            found = [element.attrib["name"] for element in root.findall(kind)]
            assert len(found) == len(set(found))
        links = {element.attrib["name"] for element in root.findall("link")}
        assert {name for name in links if name.startswith(body)} == names


def test_a_body_without_a_name_is_refused(odd: RobotConfig) -> None:
    odd.mjcf.write_text(ODD.replace('<body name="rail"', "<body"))
    with pytest.raises(RobotConfigError, match=r"mjcf: body number .* has no name"):
        robot_urdf(odd)


@pytest.mark.parametrize("pitch", [-math.pi / 2, -1.57, 0.0, 1.2, math.pi / 2 - 1e-9, math.pi / 2])
def test_angles_are_exact_at_every_pitch(pitch: float) -> None:
    origin = ET.Element("origin", xyz="0 0 0", rpy=f"0.4 {pitch!r} -2.1")
    wanted = transform(origin)[:3, :3]
    again = ET.Element("origin", xyz="0 0 0", rpy=" ".join(map(repr, rpy(wanted))))
    assert transform(again)[:3, :3] == pytest.approx(wanted, abs=1e-14)


def test_command_prints_it_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ur5e"]) == 0
    assert ET.fromstring(capsys.readouterr().out).attrib["name"] == "ur5e"
    assert main(["nobody"]) == 1
    assert "nobody" in capsys.readouterr().err
