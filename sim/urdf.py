# SPDX-License-Identifier: Apache-2.0
"""The arm of an MJCF as URDF, for programs that know no MJCF; ``python -m smfp_sim.urdf ur5e``.

Links have the names of the bodies, joints those of the MJCF, and the tool site becomes a link. The
figures are written in full, so that the forward kinematics is MuJoCo's to rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np

from smfp_core.robot import RobotConfig, RobotConfigError, load_robot
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel
from smfp_sim.names import unused_name

# MuJoCo's viewer shows groups 0 to 2; collision shapes are put into 3 by convention.
_LAST_SHOWN_GROUP = 2
_KINDS = {
    int(mujoco.mjtJoint.mjJNT_HINGE): "revolute",
    int(mujoco.mjtJoint.mjJNT_SLIDE): "prismatic",
}


def robot_urdf(robot: RobotConfig) -> str:
    """The URDF of ``robot``: kinematics, limits of its YAML, inertia, shapes.

    A capsule, which URDF lacks, becomes a cylinder and two balls; planes and ellipsoids are left
    out. Meshes are named by the paths of their files on this computer.

    Raises:
        RobotConfigError: the MJCF has joints that URDF cannot have: balls, or several on one body.
    """
    return _Exporter(ArmModel(robot)).text()


def rpy(rotation: FloatArray) -> tuple[float, float, float]:
    """Roll, pitch, yaw (rad) of a rotation matrix [3, 3] = Rz(yaw) Ry(pitch) Rx(roll).

    Exact to rounding wherever the pitch is: at +-90 degrees the yaw is arbitrary, and the roll is
    taken from what the yaw leaves.
    """
    r = rotation
    yaw = math.atan2(r[1, 0], r[0, 0])
    pitch = math.atan2(-r[2, 0], math.hypot(r[0, 0], r[1, 0]))
    sin, cos = math.sin(yaw), math.cos(yaw)
    roll = math.atan2(sin * r[0, 2] - cos * r[1, 2], cos * r[1, 1] - sin * r[0, 1])
    return roll, pitch, yaw


def _pose(position: FloatArray, quat: FloatArray) -> FloatArray:
    pose, rotation = np.eye(4), np.empty(9)
    mujoco.mju_quat2Mat(rotation, quat)
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), position
    return pose


def _shift(offset: FloatArray) -> FloatArray:
    return _pose(offset, np.array([1.0, 0.0, 0.0, 0.0]))


def _words(values: FloatArray | tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)


class _Exporter:
    def __init__(self, arm: ArmModel) -> None:
        self._arm, self._model = arm, arm.model
        self._root = ET.Element("robot", name=arm.robot.name)
        self._limits = {joint.name: joint for joint in arm.robot.joints}

    def text(self) -> str:
        model = self._model
        for body in range(model.nbody):
            self._add_link(body)
        for body in range(1, model.nbody):
            self._add_joint(body)
        self._add_tool()
        ET.indent(self._root)
        return '<?xml version="1.0"?>\n' + ET.tostring(self._root, encoding="unicode") + "\n"

    def _anchor(self, body: int) -> FloatArray:
        """Where a link's frame lies in its body's: URDF turns links about their origin."""
        first = int(self._model.body_jntadr[body])
        return self._model.jnt_pos[first] if self._model.body_jntnum[body] else np.zeros(3)

    def _origin(self, parent: ET.Element, body: int, pose: FloatArray) -> None:
        """``pose`` [4, 4] in the frame of ``body``, as an element."""
        own = _shift(-self._anchor(body)) @ pose
        ET.SubElement(parent, "origin", xyz=_words(own[:3, 3]), rpy=_words(rpy(own[:3, :3])))

    def _add_link(self, body: int) -> None:
        model = self._model
        name = model.body(body).name
        if not name:
            raise RobotConfigError(
                f"mjcf: body number {body} of {self._arm.robot.mjcf} has no name; a link needs one"
            )
        link = ET.SubElement(self._root, "link", name=name)
        if body and model.body_mass[body] > 0.0:
            inertial = ET.SubElement(link, "inertial")
            self._origin(inertial, body, _pose(model.body_ipos[body], model.body_iquat[body]))
            ET.SubElement(inertial, "mass", value=_words(model.body_mass[body : body + 1]))
            x, y, z = (repr(float(value)) for value in model.body_inertia[body])
            tensor = {"ixx": x, "iyy": y, "izz": z, "ixy": "0", "ixz": "0", "iyz": "0"}
            ET.SubElement(inertial, "inertia", tensor)
        for geom in np.flatnonzero(model.geom_bodyid == body):
            if body and model.geom_group[geom] <= _LAST_SHOWN_GROUP:
                self._add_shapes(link, "visual", int(geom))
            if body and (model.geom_contype[geom] or model.geom_conaffinity[geom]):
                self._add_shapes(link, "collision", int(geom))

    def _add_shapes(self, link: ET.Element, kind: str, geom: int) -> None:
        model = self._model
        pose = _pose(model.geom_pos[geom], model.geom_quat[geom])
        for placed, shape in self._shapes(geom):
            element = ET.SubElement(link, kind)
            self._origin(element, int(model.geom_bodyid[geom]), pose @ placed)
            ET.SubElement(element, "geometry").append(shape)
            if kind == "visual":
                material = int(model.geom_matid[geom])
                rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
                # Colours that differ need names that differ.
                colour = ET.SubElement(element, "material", name=f"rgba {_words(rgba)}")
                ET.SubElement(colour, "color", rgba=_words(rgba))

    def _shapes(self, geom: int) -> Iterator[tuple[FloatArray, ET.Element]]:
        """Poses [4, 4] in the frame of the geom, and shapes of URDF."""
        model = self._model
        kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
        here = np.eye(4)
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            yield here, ET.Element("box", size=_words(2.0 * size))
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            yield here, ET.Element("sphere", radius=_words(size[:1]))
        elif kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE):
            radius, length = _words(size[:1]), _words(2.0 * size[1:2])
            yield here, ET.Element("cylinder", radius=radius, length=length)
            if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
                for end in (-size[1], size[1]):
                    yield _shift(np.array([0.0, 0.0, end])), ET.Element("sphere", radius=radius)
        elif kind == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = int(model.geom_dataid[geom])
            # MuJoCo moves a mesh to its centre of mass; the file has it where it was.
            moved = _pose(model.mesh_pos[mesh], model.mesh_quat[mesh])
            path = self._mesh_path(mesh)
            scale = _words(model.mesh_scale[mesh])
            back = np.linalg.inv(moved).astype(np.float64)
            yield back, ET.Element("mesh", filename=path.as_uri(), scale=scale)

    def _mesh_path(self, mesh: int) -> Path:
        name = self._model.paths[int(self._model.mesh_pathadr[mesh]) :].split(b"\0")[0].decode()
        return (self._arm.robot.mjcf.parent / name).resolve()

    def _add_joint(self, body: int) -> None:
        model = self._model
        name = model.body(body).name
        count, index = int(model.body_jntnum[body]), int(model.body_jntadr[body])
        kind = _KINDS.get(int(model.jnt_type[index])) if count else "fixed"
        if count > 1 or kind is None:
            raise RobotConfigError(
                f"mjcf: body '{name}' of {self._arm.robot.mjcf} has joints that URDF cannot have"
            )
        pose = _pose(model.body_pos[body], model.body_quat[body]) @ _shift(self._anchor(body))
        element = ET.SubElement(
            self._root, "joint", name=model.joint(index).name if count else f"{name}_fixed"
        )
        element.set("type", kind)
        parent = int(model.body_parentid[body])
        ET.SubElement(element, "parent", link=model.body(parent).name)
        ET.SubElement(element, "child", link=name)
        if not count:
            self._origin(element, parent, pose)
            return
        # The MJCF draws the body at its reference value, URDF at zero.
        axis, start = model.jnt_axis[index], -float(model.qpos0[model.jnt_qposadr[index]])
        if kind == "revolute":
            turn = np.empty(4)
            mujoco.mju_axisAngle2Quat(turn, axis, start)
            pose = pose @ _pose(np.zeros(3), turn)
        else:
            pose = pose @ _shift(start * axis)
        self._origin(element, parent, pose)
        ET.SubElement(element, "axis", xyz=_words(axis))
        self._add_limits(element, index)

    def _add_limits(self, element: ET.Element, index: int) -> None:
        model = self._model
        joint = self._limits.get(model.joint(index).name)
        if joint is not None:
            low, high = joint.position_rad
            most = {"velocity": joint.velocity_rad_s, "effort": joint.effort_nm}
        elif model.jnt_limited[index]:
            low, high = model.jnt_range[index]
            most = {"velocity": 0.0, "effort": 0.0}
        else:
            low, high = -2 * math.pi, 2 * math.pi
            most = {"velocity": 0.0, "effort": 0.0}
        numbers = {"lower": low, "upper": high, **most}
        ET.SubElement(element, "limit", {key: repr(float(x)) for key, x in numbers.items()})

    def _add_tool(self) -> None:
        model, site = self._model, self._arm.tool_site
        name, body = model.site(site).name, int(model.site_bodyid[site])
        links = {model.body(i).name for i in range(model.nbody)}
        if name in links:
            own = _shift(-self._anchor(body)) @ _pose(model.site_pos[site], model.site_quat[site])
            if name == model.body(body).name and np.allclose(own, np.eye(4), atol=1e-9):
                return  # that link is the tool's
            name = unused_name(f"{name}_site", links)
        ET.SubElement(self._root, "link", name=name)
        joint = ET.SubElement(self._root, "joint", name=f"{name}_fixed", type="fixed")
        ET.SubElement(joint, "parent", link=model.body(body).name)
        ET.SubElement(joint, "child", link=name)
        self._origin(joint, body, _pose(model.site_pos[site], model.site_quat[site]))


def main(arguments: list[str] | None = None) -> int:
    """Print the URDF of a robot."""
    parser = argparse.ArgumentParser(prog="python -m smfp_sim.urdf", description=main.__doc__)
    parser.add_argument("robot", help="name in config/robots, or a YAML file")
    chosen = parser.parse_args(arguments)
    try:
        print(robot_urdf(load_robot(chosen.robot)), end="")
    except RobotConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
