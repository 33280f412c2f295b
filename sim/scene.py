# SPDX-License-Identifier: Apache-2.0
"""What a robot's model is compiled from: its MJCF, and the obstacles of its YAML; its indices."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import NDArray

from smfp_core.robot import Obstacle, RobotConfig, RobotConfigError
from smfp_core.specs import FloatArray

Change = Callable[[mujoco.MjSpec], None]

_OBSTACLE_RGBA = (0.75, 0.25, 0.2, 1.0)
# Whatever masks the arm's geoms have, an obstacle is meant for all of them.
_ALL_GEOMS = 0x7FFFFFFF


def compile_scene(robot: RobotConfig, change: Change | None = None) -> mujoco.MjModel:
    """The model of ``robot`` among its obstacles, which are geoms ``obstacle <name>`` of the world.

    Args:
        robot: names the MJCF, and the surroundings in its base frame.
        change: is given the MJCF as a specification to change before it is compiled.

    Raises:
        RobotConfigError: the MJCF does not compile, or the obstacles do not fit it.
    """
    path, obstacles = str(robot.mjcf), robot.surroundings.obstacles
    try:
        if change is None and not obstacles:
            return mujoco.MjModel.from_xml_path(path)
        spec = mujoco.MjSpec.from_file(path)
        if change is not None:
            change(spec)
    except ValueError as error:
        raise RobotConfigError(f"mjcf: {robot.mjcf} does not compile: {error}") from error
    try:
        if obstacles:
            position, quat = _base_pose(robot)
            for obstacle in obstacles:
                _add_obstacle(spec, obstacle, position, quat)
            for exclude in spec.excludes:
                bodies = {exclude.bodyname1, exclude.bodyname2}
                if "world" in bodies:
                    link = " ".join(bodies - {"world"})
                    raise ValueError(
                        f"the MJCF's exclude of world and '{link}' would let it pass through "
                        "obstacles; remove it, and name the pair in never_touching"
                    )
        return spec.compile()
    except RobotConfigError:
        raise
    except (ValueError, KeyError) as error:
        field = "surroundings.obstacles" if obstacles else "mjcf"
        raise RobotConfigError(f"{field}: {robot.mjcf}: {error}") from error


def body_index(robot: RobotConfig, model: mujoco.MjModel, name: str, field: str) -> int:
    """Index of a body that the robot's YAML names.

    Raises:
        RobotConfigError: there is none; names the ``field``.
    """
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if index < 0:
        raise RobotConfigError(f"{field}: no body named '{name}' in {robot.mjcf}")
    return int(index)


def as_slice(index: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """``index`` as a slice where it is one: numpy gathers single elements much more slowly."""
    first = int(index[0])
    consecutive = np.array_equal(index, np.arange(first, first + len(index)))
    return slice(first, first + len(index)) if consecutive else index


def _base_pose(robot: RobotConfig) -> tuple[FloatArray, FloatArray]:
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    base = body_index(robot, model, robot.base_frame, "base_frame")
    return data.xpos[base].copy(), data.xquat[base].copy()


def _add_obstacle(
    spec: mujoco.MjSpec, obstacle: Obstacle, base_position: FloatArray, base_quat: FloatArray
) -> None:
    position, quat = np.empty(3), np.empty(4)
    turn = np.array([np.cos(obstacle.yaw_rad / 2), 0.0, 0.0, np.sin(obstacle.yaw_rad / 2)])
    mujoco.mju_rotVecQuat(position, np.array(obstacle.center_m), base_quat)
    mujoco.mju_mulQuat(quat, base_quat, turn)
    if obstacle.size_m is not None:
        shape, size = mujoco.mjtGeom.mjGEOM_BOX, [x / 2 for x in obstacle.size_m]
    else:
        shape, size = mujoco.mjtGeom.mjGEOM_SPHERE, [obstacle.radius_m or 0.0, 0.0, 0.0]
    spec.worldbody.add_geom(
        name=f"obstacle {obstacle.name}",
        type=shape,
        size=size,
        pos=position + base_position,
        quat=quat,
        rgba=_OBSTACLE_RGBA,
        contype=_ALL_GEOMS,
        conaffinity=_ALL_GEOMS,
    )
