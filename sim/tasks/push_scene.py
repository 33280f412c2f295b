# SPDX-License-Identifier: Apache-2.0
"""What the push task has beside the arm: a puck on the floor, and starts of the arm beside it."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from smfp_core.robot import RobotConfigError
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel, ContactPair

OBJECT = "object"
# A choice: high enough for a flange to push it well above the floor, and low enough that it
# slides rather than tips, which it does up to radius / friction, 11 cm.
RADIUS_M, HEIGHT_M, MASS_KG = 0.045, 0.08, 0.2
# Sliding, torsional (m), rolling (m). Sliding: a choice within the 0.2 to 0.5 that tables give for
# dry wood and plastics; the other two are MuJoCo's defaults.
FRICTION = (0.4, 0.005, 0.0001)
_RGBA = (0.95, 0.70, 0.15, 1.0)

_IK_STEPS, _IK_DAMPING, _IK_STRIDE_RAD = 60, 1e-3, 0.3
_IK_POSITION_M, _IK_ANGLE_RAD = 1e-3, 0.01


def add_object(spec: mujoco.MjSpec) -> None:
    """Add the puck, a free body that stands on the world's floor at its origin until placed."""
    body = spec.worldbody.add_body(name=OBJECT, pos=[0.0, 0.0, HEIGHT_M / 2])
    body.add_freejoint(name=OBJECT)
    body.add_geom(
        name=OBJECT,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[RADIUS_M, HEIGHT_M / 2, 0.0],
        mass=MASS_KG,
        friction=FRICTION,
        # Its friction counts, not the greater one of the two, which is the floor's.
        priority=1,
        rgba=_RGBA,
    )


class PushScene:
    """The indices of puck, floor and tool in an arm's model, and starts of the arm.

    Args:
        arm: its model, with ``add_object``.

    Raises:
        RobotConfigError: the model has no floor to push things on.
    """

    def __init__(self, arm: ArmModel) -> None:
        model = arm.model
        self._arm, self._model = arm, model
        self._data = mujoco.MjData(model)
        planes = np.flatnonzero(
            (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) & (model.geom_contype > 0)
        )
        if len(planes) != 1:
            raise RobotConfigError(
                f"mjcf: pushing needs one plane as the floor, has {len(planes)} ({arm.robot.mjcf})"
            )
        floor = int(planes[0])
        mujoco.mj_kinematics(model, self._data)
        floor_position = arm.to_base(self._data.geom_xpos[floor], np.empty(3))
        self.floor_m = float(floor_position[2])
        body = model.body(OBJECT).id
        first = int(model.jnt_qposadr[model.body_jntadr[body]])
        self._place = slice(first, first + 7)
        dof = int(model.body_dofadr[body])
        self._velocity = slice(dof, dof + 3)
        # The part that is meant to push: the bodies that do not move against the tool.
        weld = model.body_weldid
        tool = weld[model.site_bodyid[arm.tool_site]]
        touching = [g for g in range(model.ngeom) if weld[model.geom_bodyid[g]] == tool]
        pairs = [
            tuple(sorted((OBJECT, model.geom(g).name or f"geom {g}"))) for g in (floor, *touching)
        ]
        self._standing, self._wanted = pairs[0], frozenset(pairs)
        self._joints = arm.position_index
        self._jacobian = np.zeros((2, 3, model.nv))

    def is_wanted(self, pair: ContactPair) -> bool:
        """Whether these geoms may touch: puck and floor, puck and tool."""
        return pair in self._wanted

    def object_position(self, data: mujoco.MjData) -> FloatArray:
        """Centre of the puck [3], m, base frame."""
        # Not xpos, which a step of the physics leaves behind by a step.
        return self._arm.to_base(data.qpos[self._place][:3], np.empty(3))

    def object_velocity(self, data: mujoco.MjData) -> FloatArray:
        """Its velocity [3], m/s, base frame."""
        return np.dot(data.qvel[self._velocity], self._arm.base_rotation)

    def object_tilt(self, data: mujoco.MjData) -> float:
        """Angle (rad) between its axis and the vertical."""
        _, x, y, _ = data.qpos[self._place][3:].tolist()
        return math.acos(max(-1.0, 1.0 - 2.0 * (x * x + y * y)))

    def tool_tilt_cosine(self, data: mujoco.MjData) -> float:
        """Cosine of the angle between the tool's z axis and straight down."""
        return -float(data.site_xmat[self._arm.tool_site, 8])

    def solve(self, tool: FloatArray, seed: FloatArray) -> FloatArray | None:
        """Joints [n] (rad) near ``seed`` with the tool at ``tool`` [3] (m, base), z axis down.

        Damped least squares; None if it does not get there within the joint limits.
        """
        arm, model, data = self._arm, self._model, self._data
        place, axis = data.site_xpos[arm.tool_site], data.site_xmat[arm.tool_site]
        world = arm.base_position + arm.base_rotation @ tool
        down = np.array([0.0, 0.0, -1.0])
        q = np.array(seed, np.float64)
        for _ in range(_IK_STEPS):
            data.qpos[self._joints] = q
            mujoco.mj_kinematics(model, data)
            pointing = axis[2::3]
            error = np.concatenate([world - place, np.cross(pointing, down)])
            aligned = float(pointing @ down) > math.cos(_IK_ANGLE_RAD)
            if aligned and float(np.linalg.norm(error[:3])) < _IK_POSITION_M:
                return q if self._within_limits(q) else None
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, self._jacobian[0], self._jacobian[1], arm.tool_site)
            jacobian = self._jacobian[:, :, arm.velocity_index]
            # Turning about its own axis is left free.
            turning = jacobian[1] - np.outer(pointing, pointing @ jacobian[1])
            rows = np.concatenate([jacobian[0], turning])
            step = rows.T @ np.linalg.solve(rows @ rows.T + _IK_DAMPING * np.eye(6), error)
            q += step * min(1.0, _IK_STRIDE_RAD / (float(np.abs(step).max()) + 1e-12))
        return None

    def is_clear(self, q: FloatArray, puck: FloatArray) -> bool:
        """Whether the arm at ``q`` [n] (rad) touches nothing, the puck at ``puck`` [3] neither."""
        data = self._data
        data.qpos[self._joints] = q
        world = self._arm.base_position + self._arm.base_rotation @ puck
        data.qpos[self._place] = [*world, 1.0, 0.0, 0.0, 0.0]
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_collision(self._model, data)
        return all(pair == self._standing for pair in self._arm.contact_pairs(data))

    def _within_limits(self, q: FloatArray) -> bool:
        limits = self._arm.robot.limits
        return bool(np.all((q > limits.position_min) & (q < limits.position_max)))
