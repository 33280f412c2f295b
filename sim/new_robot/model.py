# SPDX-License-Identifier: Apache-2.0
"""What a robot model of unknown origin, MJCF or URDF, tells about the arm in it.

Finds the chain of joints from the base to the tool, and adds what this project needs of a model
and it lacks: a tool site, a floor, a position servo for every joint.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import mujoco
import numpy as np

from smfp_core.atomic import write_atomically
from smfp_core.robot import RobotConfigError
from smfp_core.specs import FloatArray
from smfp_sim.arm import is_position_servo, reaches
from smfp_sim.names import unused_name

# What makers of models call the tool, likeliest first.
_TOOL_NAMES = (
    *("tool0", "tcp", "tool", "ee", "eef", "ee_link", "end_effector", "pinch", "gripperframe"),
    *("gripper_frame_link", "grasp_site", "attachment_site", "flange", "hand"),
)
# A servo that is added: full effort at this error, and a ramp followed this late.
_SERVO_ERROR_RAD, _SERVO_LAG_S = 0.1, 0.03


@dataclass
class Survey:
    """The arm in a model.

    Attributes:
        spec: the model, completed where ``changes`` is not empty.
        base_frame: deepest body below the arm that is fixed to the world.
        tool_site: its site.
        joints: hinge joints from base to tool.
        others: joints that are none of the arm's.
        range_rad: [n, 2], position limits.
        effort_nm: [n], greatest torques.
        velocity_rad_s: [n], of a URDF; None where the model does not say.
        changes: what the model lacked, for people.
        assumed: what had to be assumed, for people.
    """

    spec: mujoco.MjSpec
    base_frame: str
    tool_site: str
    joints: list[str]
    others: list[str]
    range_rad: FloatArray
    effort_nm: FloatArray
    velocity_rad_s: list[float | None]
    changes: list[str]
    assumed: list[str]


def survey(path: Path, tool: str | None = None, effort_nm: float | None = None) -> Survey:
    """Read a model and find the arm in it.

    Args:
        path: an MJCF or URDF.
        tool: site or body at the tool; default: one with a usual name.
        effort_nm: torque limit of the joints that have none in the model.

    Raises:
        RobotConfigError: the model cannot be read, or holds no arm of hinge joints on a fixed base;
            names what is in the way, and the option that helps.
    """
    urdf = _urdf(path) if path.suffix.lower() == ".urdf" else None
    changes: list[str] = []
    try:
        if urdf is None:
            spec = mujoco.MjSpec.from_file(str(path))
        else:
            spec = mujoco.MjSpec.from_string(urdf)
            spec.modelfiledir = str(path.parent)
        # A URDF loses its base link and its visuals otherwise.
        spec.compiler.fusestatic = False
        spec.compiler.discardvisual = False
        _name_bodies(spec, changes)
        model = spec.compile()
    except (ValueError, OSError) as error:
        raise RobotConfigError(f"{path}: MuJoCo cannot read it: {error}") from error
    if urdf is not None:
        _check_meshes(path, urdf, spec)
    assumed: list[str] = []
    tool_body, tool_site = _find_tool(spec, model, tool, changes)
    chain = _chain(model, tool_body)
    joints = [joint for body in chain for joint in _joints_of(model, body)]
    for joint in joints:
        if model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_HINGE:
            kind = mujoco.mjtJoint(int(model.jnt_type[joint])).name.removeprefix("mjJNT_").lower()
            raise RobotConfigError(
                f"joint '{model.joint(joint).name}' on the way to the tool is a {kind} joint; "
                "only arms of hinge joints on a fixed base can be driven"
            )
    if len(joints) < 2:
        raise RobotConfigError(
            f"'{tool_site}' is moved by {len(joints)} joints, which is no arm; --tool names the "
            "site or body at its end"
        )
    names = [model.joint(joint).name for joint in joints]
    if not all(names):
        raise RobotConfigError("every joint of the arm needs a name")
    first = chain.index(int(model.jnt_bodyid[joints[0]]))
    base = model.body(chain[first - 1] if first else 0).name
    ranges = np.array([_range(spec, model, joint, changes) for joint in joints])
    efforts = np.array([_effort(model, joint, effort_nm, assumed) for joint in joints])
    limits = {} if urdf is None else _urdf_velocities(urdf)
    result = Survey(
        spec=spec,
        base_frame=base,
        tool_site=tool_site,
        joints=names,
        others=[model.joint(j).name for j in range(model.njnt) if j not in joints],
        range_rad=ranges,
        effort_nm=efforts,
        velocity_rad_s=[limits.get(name) for name in names],
        changes=changes,
        assumed=assumed,
    )
    _add_servos(result, model, joints)
    if not any(geom.type == mujoco.mjtGeom.mjGEOM_PLANE and _touches(geom) for geom in spec.geoms):
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        height = float(data.xpos[model.body(base).id][2])
        name = unused_name("floor", [geom.name for geom in spec.geoms])
        spec.worldbody.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 0.05], pos=[0, 0, height]
        )
        changes.append(f"a floor at the height of '{base}'")
    return result


def save_model(found: Survey, path: Path) -> None:
    """Write the completed model, and copy the meshes and textures that it needs beside it.

    MuJoCo writes six digits; ``found.range_rad`` and ``found.effort_nm`` follow what is written.

    Raises:
        OSError: something cannot be written, or a mesh of the model is not there.
    """
    spec = found.spec
    source = Path(spec.modelfiledir).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = f"{path.stem}_assets"
    # By where they come from: files of one name in two folders stay two.
    copied: dict[Path, str] = {}
    for kind, items in ((spec.meshdir, spec.meshes), (spec.texturedir, spec.textures)):
        for item in items:
            if item.file:
                name = Path(item.file).name
                file = name if spec.strippath else item.file
                origin = (source / kind / file).resolve()
                if origin not in copied:
                    copied[origin] = unused_name(name, copied.values())
                    target = path.parent / folder / copied[origin]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(origin, target)
                item.file = f"{folder}/{copied[origin]}"
    spec.meshdir = spec.texturedir = ""
    spec.strippath = False
    spec.modelfiledir = str(path.parent)
    write_atomically(path, spec.to_xml())
    model = mujoco.MjModel.from_xml_path(str(path))
    joints = [model.joint(name).id for name in found.joints]
    found.range_rad = model.jnt_range[joints].copy()
    found.effort_nm = np.array([_effort(model, joint, None, []) for joint in joints])


# What is in the model.


def _urdf(path: Path) -> str:
    """A URDF with a folder in place of each ``package://NAME``, which MuJoCo does not know.

    Raises:
        RobotConfigError: it cannot be read, or names a package that is not found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RobotConfigError(f"{path}: cannot be read: {error}") from error
    return re.sub(
        r"package://([^/\"']+)",
        lambda found: escape(str(_package_folder(path, found[1])), {'"': "&quot;"}),
        text,
    )


def _package_folder(path: Path, package: str) -> Path:
    """Folder of a ROS package: that which holds ``path``, an installed one, or one beside that."""
    above = path.resolve().parents
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    candidates = (
        *(folder for folder in above if folder.name == package),
        *(Path(prefix) / "share" / package for prefix in prefixes),
        *(folder / package for folder in above),
    )
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise RobotConfigError(
        f"{path}: package://{package} was not found: source the workspace that has it, or give "
        "paths relative to the file"
    )


def _check_meshes(path: Path, urdf: str, spec: mujoco.MjSpec) -> None:
    """Refuse a URDF of which MuJoCo takes two meshes for one: those of one name in two folders.

    Raises:
        RobotConfigError: names a mesh that would collide with another one's shape.
    """
    files = {mesh.file for mesh in spec.meshes}
    for mesh in ElementTree.fromstring(urdf).iterfind(".//collision//mesh"):
        if mesh.get("filename") not in files:
            raise RobotConfigError(
                f"{path}: MuJoCo takes '{mesh.get('filename')}' for another mesh of that name; "
                "give every mesh file a name of its own"
            )


def _find_tool(
    spec: mujoco.MjSpec, model: mujoco.MjModel, wanted: str | None, changes: list[str]
) -> tuple[int, str]:
    sites = {model.site(i).name: i for i in range(model.nsite)}
    bodies = {model.body(i).name: i for i in range(1, model.nbody)}
    for name in (wanted,) if wanted else _TOOL_NAMES:
        if name in sites:
            return int(model.site_bodyid[sites[name]]), name
    for name in (wanted,) if wanted else _TOOL_NAMES:
        if name in bodies:
            site = f"{name}_site"
            spec.body(name).add_site(name=site, group=4)
            changes.append(f"a site at the origin of body '{name}'")
            return bodies[name], site
    raise RobotConfigError(
        f"--tool: {'no site or body ' + repr(wanted) if wanted else 'none has a usual name'}; "
        f"sites: {', '.join(filter(None, sites)) or 'none'}; bodies: {', '.join(bodies)}"
    )


def _chain(model: mujoco.MjModel, body: int) -> list[int]:
    chain: list[int] = []
    while body != 0:
        chain.insert(0, body)
        body = int(model.body_parentid[body])
    return chain


def _joints_of(model: mujoco.MjModel, body: int) -> range:
    start = int(model.body_jntadr[body])
    return range(start, start + int(model.body_jntnum[body])) if start >= 0 else range(0)


def _range(
    spec: mujoco.MjSpec, model: mujoco.MjModel, joint: int, changes: list[str]
) -> tuple[float, float]:
    if model.jnt_limited[joint]:
        low, high = model.jnt_range[joint]
        return float(low), float(high)
    name = model.joint(joint).name
    found = spec.joint(name)
    # A spec has angles in the unit of its file.
    turn = 180.0 if spec.compiler.degree else math.pi
    found.range, found.limited = (-turn, turn), mujoco.mjtLimited.mjLIMITED_TRUE
    changes.append(f"a range of +-pi rad for joint '{name}', which has none")
    return -math.pi, math.pi


def _touches(geom: mujoco.MjsGeom) -> bool:
    """Whether it can be in contact with anything; else it is only drawn."""
    return bool(geom.contype or geom.conaffinity)


def _name_bodies(spec: mujoco.MjSpec, changes: list[str]) -> None:
    """A name for every body that has none: frames, and pairs that may touch, go by names."""
    taken = {body.name for body in spec.bodies}
    given = []
    for body in spec.bodies:
        if not body.name:
            body.name = unused_name("body", taken)
            taken.add(body.name)
            given.append(body.name)
    if given:
        changes.append(f"names for bodies that have none: {', '.join(given)}")


def _drives(model: mujoco.MjModel, joint: int) -> list[int]:
    drives = (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (
        model.actuator_trnid[:, 0] == joint
    )
    return [int(drive) for drive in np.flatnonzero(drives)]


def _effort(model: mujoco.MjModel, joint: int, given_nm: float | None, assumed: list[str]) -> float:
    # The least of what drive and joint let through, in the weaker direction.
    most = [_weaker(model.jnt_actfrcrange[joint])] if model.jnt_actfrclimited[joint] else []
    for drive in _drives(model, joint):
        gear = abs(float(model.actuator_gear[drive, 0]))
        is_motor = model.actuator_biastype[drive] == mujoco.mjtBias.mjBIAS_NONE
        if model.actuator_forcelimited[drive]:
            most.append(_weaker(model.actuator_forcerange[drive]) * gear)
        elif is_motor and model.actuator_ctrllimited[drive]:
            gain = abs(float(model.actuator_gainprm[drive, 0]))
            most.append(_weaker(model.actuator_ctrlrange[drive]) * gain * gear)
    name = model.joint(joint).name
    if most:
        return min(most)
    if given_nm is None:
        raise RobotConfigError(
            f"effort_nm: the model does not say how strong joint '{name}' is; give --effort-nm"
        )
    assumed.append(f"effort_nm of '{name}': as --effort-nm says")
    return given_nm


def _weaker(span: FloatArray) -> float:
    return float(np.abs(span).min())


def _urdf_velocities(urdf: str) -> dict[str, float]:
    # MuJoCo does not keep what a URDF says of speed.
    found = {}
    for joint in ElementTree.fromstring(urdf).iter("joint"):
        limit = joint.find("limit")
        text = (limit.get("velocity") if limit is not None else None) or "0"
        try:
            velocity = float(text)
        except ValueError as error:
            raise RobotConfigError(
                f"joint '{joint.get('name')}': velocity '{text}' is no number"
            ) from error
        if velocity > 0.0:
            found[str(joint.get("name"))] = velocity
    return found


def _add_servos(found: Survey, model: mujoco.MjModel, joints: Sequence[int]) -> None:
    """A position servo for every joint that has none, in place of what drives it."""
    added = []
    for joint, name, effort, limits in zip(
        joints, found.joints, found.effort_nm, found.range_rad, strict=True
    ):
        drives = _drives(model, joint)
        if (
            len(drives) == 1
            and is_position_servo(model, drives[0])
            and reaches(model, drives[0], *limits)
            and np.allclose(model.actuator_forcerange[drives[0]], (-effort, effort))
        ):
            continue
        for actuator in list(found.spec.actuators):
            if actuator.target == name and actuator.trntype == mujoco.mjtTrn.mjTRN_JOINT:
                found.spec.delete(actuator)
        inertia = float(model.dof_M0[model.jnt_dofadr[joint]])
        stiffness = effort / _SERVO_ERROR_RAD
        damping = max(_SERVO_LAG_S * stiffness, 2.0 * math.sqrt(stiffness * inertia))
        names = [actuator.name for actuator in found.spec.actuators]
        servo = found.spec.add_actuator(
            name=unused_name(f"{name}_servo", names), target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        servo.set_to_position(kp=stiffness, kv=damping)
        servo.forcerange, servo.forcelimited = (-effort, effort), mujoco.mjtLimited.mjLIMITED_TRUE
        servo.ctrlrange, servo.ctrllimited = limits, mujoco.mjtLimited.mjLIMITED_TRUE
        added.append(name)
    if added:
        # Stiff servos need it at the usual time step.
        found.spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        found.changes.append(f"position servos for {', '.join(added)}")
        found.assumed.append("gains of the servos that were added: fit them to the arm's own")
