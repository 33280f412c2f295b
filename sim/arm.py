# SPDX-License-Identifier: Apache-2.0
"""The arm in MuJoCo: its model checked against its YAML, forward kinematics, and a robot stand-in.

Everything here is in the order of the YAML's joints; positions of the tool are in the frame of
the body that the YAML calls ``base_frame``. No gymnasium, no ROS: the training task and the
simulated robot node share this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from smfp_core.robot import JointConfig, RobotConfig, RobotConfigError
from smfp_core.rotation import Quaternion, multiply
from smfp_core.specs import NEAR_OBSTACLE_M, FloatArray, RobotState
from smfp_sim.clearance import ClearanceModel
from smfp_sim.scene import Change, as_slice, compile_scene

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# YAML and MJCF hold the same figures; the difference allowed is that of decimal rounding.
_TOLERANCE = 1e-6
# Sum of squared joint positions or velocities (SI) beyond which a state is no arm's.
_ABSURD = 1e8

ContactPair = tuple[str, str]


@dataclass(frozen=True)
class Reading:
    """A joint state as the computer gets it: [n] each, rad, rad/s and N m, of time ``time_s``."""

    time_s: float
    position: FloatArray
    velocity: FloatArray
    effort: FloatArray


class SimulationDiverged(RuntimeError):  # noqa: N818 - what happened, as StopIteration
    """The physics left the range of finite, sane numbers; the state is not to be used."""


def is_position_servo(model: mujoco.MjModel, drive: int) -> bool:
    """Whether an actuator pulls its joint to the very angle that it is given, at once."""
    stiffness = model.actuator_gainprm[drive, 0]
    return bool(
        stiffness > 0.0
        and model.actuator_biasprm[drive, 1] == -stiffness
        and model.actuator_gear[drive, 0] == 1.0
        and model.actuator_dyntype[drive] == mujoco.mjtDyn.mjDYN_NONE
    )


def reaches(model: mujoco.MjModel, drive: int, low: float, high: float) -> bool:
    """Whether an actuator takes every command from ``low`` to ``high``."""
    least, most = model.actuator_ctrlrange[drive]
    limited = bool(model.actuator_ctrllimited[drive])
    return not limited or bool(least <= low + _TOLERANCE and most >= high - _TOLERANCE)


class ArmModel:
    """A robot's compiled MJCF and the indices of its joints, drives and tool; read-only, shareable.

    Args:
        robot: the description that names the MJCF.
        change: is given the MJCF as a specification to change before it is compiled.

    Raises:
        RobotConfigError: the MJCF does not compile, lacks something that the YAML names, or
            disagrees with it; the text names the YAML field.
    """

    def __init__(self, robot: RobotConfig, change: Change | None = None) -> None:
        self.robot = robot
        self.model: mujoco.MjModel = compile_scene(robot, change)
        # By default MuJoCo resets a state gone bad, which would look like a jump of the arm.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        joints = [self._find_joint(i, joint) for i, joint in enumerate(robot.joints)]
        self.position_index: NDArray[np.intp] = self.model.jnt_qposadr[joints].astype(np.intp)
        self.velocity_index: NDArray[np.intp] = self.model.jnt_dofadr[joints].astype(np.intp)
        self.actuator_index: NDArray[np.intp] = np.array(
            [self._find_drive(i, joint, joints[i]) for i, joint in enumerate(robot.joints)], np.intp
        )
        self.tool_site = self._find("site", mujoco.mjtObj.mjOBJ_SITE, robot.tool_site, "tool_site")
        base = self._find("body", mujoco.mjtObj.mjOBJ_BODY, robot.base_frame, "base_frame")
        if self.model.body_weldid[base] != 0:
            raise self._error("base_frame", f"body '{robot.base_frame}' is not fixed to the world")
        data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, data)
        self.base_position: FloatArray = data.xpos[base].copy()
        self.base_rotation: FloatArray = data.xmat[base].reshape(3, 3).copy()
        ticks = 1.0 / (robot.control_rate_hz * self.timestep_s)
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6:
            raise self._error(
                "control_rate_hz",
                f"the period is not a whole multiple of the timestep {self.timestep_s} s",
            )

    @property
    def timestep_s(self) -> float:
        """Length of one physics step, as ``model.opt`` has it."""
        return float(self.model.opt.timestep)

    def _error(self, field: str, text: str) -> RobotConfigError:
        return RobotConfigError(f"{field}: {text} ({self.robot.mjcf})")

    def _find(self, kind: str, code: mujoco.mjtObj, name: str, field: str) -> int:
        index = mujoco.mj_name2id(self.model, code, name)
        if index < 0:
            raise self._error(field, f"no {kind} named '{name}' in the MJCF")
        return int(index)

    def _find_joint(self, i: int, joint: JointConfig) -> int:
        field = f"joints[{i}]"
        index = self._find("joint", mujoco.mjtObj.mjOBJ_JOINT, joint.name, f"{field}.name")
        if self.model.jnt_type[index] != mujoco.mjtJoint.mjJNT_HINGE:
            raise self._error(f"{field}.name", f"joint '{joint.name}' is not a hinge")
        if not self.model.jnt_limited[index]:
            raise self._error(f"{field}.position_rad", f"joint '{joint.name}' has no range")
        self._agree(f"{field}.position_rad", joint.position_rad, self.model.jnt_range[index])
        return index

    def _find_drive(self, i: int, joint: JointConfig, index: int) -> int:
        model, field = self.model, f"joints[{i}]"
        drives = np.flatnonzero(
            (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT)
            & (model.actuator_trnid[:, 0] == index)
        )
        if len(drives) != 1:
            raise self._error(
                f"{field}.name",
                f"joint '{joint.name}' must have one actuator in the MJCF, has {len(drives)}",
            )
        drive = int(drives[0])
        if not is_position_servo(model, drive):
            raise self._error(
                f"{field}.name",
                f"the actuator of '{joint.name}' is not a position servo of gear 1 without "
                "activation dynamics",
            )
        if not reaches(model, drive, *joint.position_rad):
            raise self._error(
                f"{field}.position_rad", f"the ctrlrange of '{joint.name}' does not cover it"
            )
        effort = (-joint.effort_nm, joint.effort_nm)
        self._agree(f"{field}.effort_nm", effort, model.actuator_forcerange[drive])
        return drive

    def _agree(self, field: str, wanted: ArrayLike, found: FloatArray) -> None:
        if not np.allclose(wanted, found, rtol=0.0, atol=_TOLERANCE):
            raise self._error(field, f"the YAML says {list(np.ravel(wanted))}, the MJCF {found}")

    def to_base(self, point: FloatArray, out: FloatArray) -> FloatArray:
        """Write ``point`` [3], world frame, to ``out`` [3] in the base frame."""
        # Not matmul, which takes several times as long for so little.
        return np.dot(point - self.base_position, self.base_rotation, out=out)

    def contact_pairs(self, data: mujoco.MjData) -> tuple[ContactPair, ...]:
        """Names of the geoms that touch in ``data``, each pair once and sorted."""
        pairs = {
            tuple(sorted(self.model.geom(int(geom)).name or f"geom {geom}" for geom in contact))
            for contact in data.contact.geom
        }
        return tuple(sorted((a, b) for a, b in pairs))


class Kinematics:
    """Geometry of the arm at given joint positions, in a private ``MjData``: not thread-safe."""

    def __init__(self, arm: ArmModel) -> None:
        self._arm = arm
        self._model = arm.model
        self._data = mujoco.MjData(arm.model)
        self._index = as_slice(arm.position_index)
        self._velocity_index = as_slice(arm.velocity_index)
        # Views, which follow the data: each access of an attribute of it would make one.
        self._joint_positions = self._data.qpos
        self._site_position = self._data.site_xpos[arm.tool_site]
        self._site_rotation = self._data.site_xmat[arm.tool_site]
        self._jacobian = np.zeros((3, arm.model.nv))
        self._turn_jacobian = np.zeros((3, arm.model.nv))
        self._quat = np.empty(4)
        mujoco.mju_mat2Quat(self._quat, arm.base_rotation.T.ravel())
        w, x, y, z = self._quat.tolist()
        self._from_world: Quaternion = (x, y, z, w)
        self._to_base = np.ascontiguousarray(arm.base_rotation.T)
        # Without obstacles none is near, whoever asks.
        obstacles = arm.robot.surroundings.obstacles
        self._clearance = ClearanceModel(arm.robot, arm.model) if obstacles else None

    def tool_position(self, q: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Position [3] (m, base frame) of the tool site at joint positions ``q`` [n] (rad)."""
        self._joint_positions[self._index] = q
        mujoco.mj_kinematics(self._model, self._data)
        return self._arm.to_base(self._site_position, np.empty(3) if out is None else out)

    def update(self, state: RobotState) -> None:
        """Write what ``state`` has room for of the tool at its measured joints, in place."""
        state.tool_jacobian_m_rad[:] = self.tool_jacobian(state.joint_position_rad)
        self._arm.to_base(self._site_position, state.tool_position_m)
        if state.tool_orientation is not None and state.tool_turn_jacobian is not None:
            state.tool_orientation[:] = self._orientation()
            site, turning = self._arm.tool_site, self._turn_jacobian
            mujoco.mj_jacSite(self._model, self._data, None, turning, site)
            state.tool_turn_jacobian[:] = self._to_base.dot(turning[:, self._velocity_index])
        if self._clearance is None:
            return
        if state.obstacle_gradient is not None and state.obstacle_nearness is not None:
            self._clearance.set_pose(state.joint_position_rad)
            clearance_m, gradient = self._clearance.nearest_obstacle(NEAR_OBSTACLE_M)
            state.obstacle_nearness[0] = 1.0 - clearance_m / NEAR_OBSTACLE_M
            np.multiply(gradient, state.obstacle_nearness, out=state.obstacle_gradient)

    def tool_orientation(self, q: FloatArray) -> FloatArray:
        """Orientation [4] (quaternion x, y, z, w, base frame) of the tool site at ``q`` [n]."""
        self._joint_positions[self._index] = q
        mujoco.mj_kinematics(self._model, self._data)
        return np.array(self._orientation())

    def tool_jacobian(self, q: FloatArray) -> FloatArray:
        """Derivative [3, n] (m/rad, base frame) of the tool position by the joint positions."""
        self._joint_positions[self._index] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian, None, self._arm.tool_site)
        return self._to_base.dot(self._jacobian[:, self._velocity_index])

    def _orientation(self) -> Quaternion:
        mujoco.mju_mat2Quat(self._quat, self._site_rotation)
        w, x, y, z = self._quat.tolist()
        return multiply(self._from_world, (x, y, z, w))

    def contacts(self, q: FloatArray) -> tuple[ContactPair, ...]:
        """Pairs of geoms that would touch at joint positions ``q`` [n] (rad), with obstacles."""
        self._joint_positions[self._index] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        return self._arm.contact_pairs(self._data) if self._data.ncon else ()


class SimulatedArm:
    """An arm under the servos of its MJCF: takes the commands of a driver, gives joint states.

    Starts at the home pose. Not thread-safe.
    """

    def __init__(self, arm: ArmModel) -> None:
        self.arm = arm
        self.model = arm.model
        self.data = mujoco.MjData(arm.model)
        self._q, self._v, self._u = arm.position_index, arm.velocity_index, arm.actuator_index
        self._ctrl_low = np.array([joint.position_rad[0] for joint in arm.robot.joints])
        self._ctrl_high = np.array([joint.position_rad[1] for joint in arm.robot.joints])
        self._velocity_command: FloatArray | None = None
        self._pairs: tuple[ContactPair, ...] = ()
        self._effort = np.zeros(len(self._u))
        self.reset(arm.robot.home_rad)

    def reset(self, q: ArrayLike, seed: int | None = None) -> None:
        """Stand still at joint positions ``q`` [n] (rad), servos holding there, time zero.

        ``seed`` is that of what is random; here nothing is.
        """
        start = self._checked(q)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._q] = start
        self.data.ctrl[self._u] = start
        self._velocity_command = None
        self._begin()

    def place(self, body: str, position: ArrayLike) -> None:
        """Stand a free body of the scene at ``position`` [3] (m, base frame); after a reset."""
        joint = self.model.body_jntadr[self.model.body(body).id]
        first = self.model.jnt_qposadr[joint]
        world = self.arm.base_position + self.arm.base_rotation @ np.asarray(position)
        self.data.qpos[first : first + 7] = [*world, 1.0, 0.0, 0.0, 0.0]
        self._begin()

    def command_position(self, q: ArrayLike) -> None:
        """Set the servo references [n] (rad), clipped to the joint ranges."""
        self._velocity_command = None
        self._move_servos(self._checked(q))

    def command_velocity(self, velocity: ArrayLike) -> None:
        """Move the servo references at ``velocity`` [n] (rad/s) until another command comes."""
        self._velocity_command = self._checked(velocity)

    def step(self, dt_s: float | None = None) -> None:
        """Advance by ``dt_s`` (default: one physics step), a whole number of physics steps.

        Raises:
            ValueError: ``dt_s`` is not a whole, positive number of physics steps.
            SimulationDiverged: the state is no longer finite and sane.
        """
        timestep, data = self.arm.timestep_s, self.data
        touched: set[ContactPair] = set()
        for _ in range(self._steps(dt_s)):
            if self._velocity_command is not None:
                self._move_servos(self.reference_position + self._velocity_command * timestep)
            mujoco.mj_step(self.model, data)
            if data.ncon:
                touched.update(self.arm.contact_pairs(data))
        self._observe(tuple(sorted(touched)))
        self._check_sane()

    def sample(self) -> None:
        """Take a joint state; once a control period, after ``step``. Here it is the true one."""

    @property
    def arrivals(self) -> list[Reading]:
        """Joint states that the computer got at the last ``sample``."""
        return [Reading(self.time_s, self.joint_position, self.joint_velocity, self.joint_effort)]

    @property
    def measured_position(self) -> FloatArray:
        """Joint positions [n] (rad) as the computer knows them."""
        return self.joint_position

    @property
    def measured_velocity(self) -> FloatArray:
        """Joint velocities [n] (rad/s) as the computer knows them."""
        return self.joint_velocity

    @property
    def measured_effort(self) -> FloatArray:
        """Drive torques [n] (N m) as the computer knows them."""
        return self.joint_effort

    @property
    def joint_position(self) -> FloatArray:
        """Joint positions [n], rad."""
        return self.data.qpos[self._q]

    @property
    def joint_velocity(self) -> FloatArray:
        """Joint velocities [n], rad/s."""
        return self.data.qvel[self._v]

    @property
    def joint_effort(self) -> FloatArray:
        """Torques [n] (N m) that the drives gave in the last step, gravity's share included."""
        return self._effort.copy()

    @property
    def reference_position(self) -> FloatArray:
        """Servo references [n], rad."""
        return self.data.ctrl[self._u]

    @property
    def time_s(self) -> float:
        """Simulated time since the reset."""
        return float(self.data.time)

    @property
    def in_contact(self) -> bool:
        """Whether the arm touched itself, floor or obstacle in the last ``step`` (or at reset)."""
        return bool(self._pairs)

    def contacts(self) -> tuple[ContactPair, ...]:
        """Pairs of geom names that touched during the last ``step`` (or at reset)."""
        return self._pairs

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on to the bit, as arrays."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        moving = self._velocity_command
        return {
            "physics": state,
            "velocity_command": np.zeros(0) if moving is None else moving.copy(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a ``snapshot`` of an arm with the same MJCF.

        Raises:
            ValueError: the snapshot is of another model.
        """
        state, moving = snapshot["physics"], snapshot["velocity_command"]
        size = mujoco.mj_stateSize(self.model, _STATE)
        if state.shape != (size,) or moving.shape not in ((0,), (len(self._u),)):
            raise ValueError(f"physics: expected {size} values, got {state.shape}: another model?")
        self._velocity_command = moving.copy() if len(moving) else None
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        mujoco.mj_forward(self.model, self.data)
        # mj_forward replaced the warm start, which the next step's last bits depend on.
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        self._observe(self.arm.contact_pairs(self.data))

    def _begin(self) -> None:
        mujoco.mj_forward(self.model, self.data)
        # mj_forward leaves its accelerations as a warm start; without them every reset is alike.
        self.data.qacc_warmstart[:] = 0.0
        self._observe(self.arm.contact_pairs(self.data))

    def _steps(self, dt_s: float | None) -> int:
        timestep = self.arm.timestep_s
        steps = 1 if dt_s is None else round(dt_s / timestep)
        if dt_s is not None and (steps < 1 or abs(steps * timestep - dt_s) > 1e-9):
            raise ValueError(f"dt_s: {dt_s} is not a whole number of steps of {timestep} s")
        return steps

    def _move_servos(self, q: FloatArray) -> None:
        # np.clip costs more in its Python layers than all of this.
        self.data.ctrl[self._u] = np.minimum(np.maximum(q, self._ctrl_low), self._ctrl_high)

    def _observe(self, pairs: tuple[ContactPair, ...]) -> None:
        self._pairs = pairs
        self._effort[:] = self.data.qfrc_actuator[self._v]

    def _check_sane(self) -> None:
        # NaN fails every comparison.
        q, v = self.data.qpos, self.data.qvel
        if not (q.dot(q) < _ABSURD and v.dot(v) < _ABSURD):
            raise SimulationDiverged(
                f"the simulation of '{self.arm.robot.name}' diverged; reset the arm"
            )

    def _checked(self, values: ArrayLike) -> FloatArray:
        array = np.array(values, np.float64)
        if array.shape != (len(self._u),):
            raise ValueError(f"expected {len(self._u)} joint values, got shape {array.shape}")
        if not math.isfinite(array.dot(array)):
            raise ValueError(f"joint values must be finite, got {array}")
        return array
