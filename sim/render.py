# SPDX-License-Identifier: Apache-2.0
"""Pictures of the arm and its goal without a display; ``python -m smfp_sim.render --help``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from smfp_core.atomic import check_writable, write_atomically
from smfp_core.robot import load_robot
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel

GOAL_RGBA = np.array([0.10, 0.75, 0.35, 0.9], np.float32)
GOAL_RADIUS_M = 0.02
GOAL_AXIS_M, GOAL_AXIS_RADIUS_M = 0.1, 0.004
TOOL_RGBA = np.array([0.90, 0.35, 0.10, 1.0], np.float32)
TOOL_RADIUS_M = 0.008


class RenderingUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, as its text says
    """No OpenGL implementation works here."""


class SceneRenderer:
    """Draws an arm at given joint positions, with markers at its tool point and its goal.

    Args:
        arm: the model.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        camera: name of a camera of the MJCF; MuJoCo's free camera if the MJCF lacks it.

    Raises:
        RenderingUnavailable: there is no OpenGL here; names the packages that bring it.
    """

    def __init__(
        self, arm: ArmModel, width: int = 640, height: int = 480, camera: str = "overview"
    ) -> None:
        self._arm = arm
        self._data = mujoco.MjData(arm.model)
        self._context = _open_context(width, height)
        arm.model.vis.global_.offwidth = max(width, arm.model.vis.global_.offwidth)
        arm.model.vis.global_.offheight = max(height, arm.model.vis.global_.offheight)
        self._drawer = mujoco.MjrContext(arm.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawer)
        self._scene = mujoco.MjvScene(arm.model, maxgeom=arm.model.ngeom + 200)
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(arm.model, self._camera)
        fixed = mujoco.mj_name2id(arm.model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if fixed >= 0:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = fixed
        self._area = mujoco.MjrRect(0, 0, width, height)

    def frame(
        self,
        q: FloatArray,
        goal: FloatArray | None = None,
        everything: FloatArray | None = None,
    ) -> NDArray[np.uint8]:
        """The picture, RGB [height, width, 3].

        Args:
            q: joint positions [n], rad.
            goal: position [3], metres, base frame, or pose [7], with a quaternion x, y, z, w,
                which is drawn with its axes.
            everything: positions [nq] as the model has them, where more than the arm moves.
        """
        arm, data = self._arm, self._data
        if everything is not None:
            data.qpos[:] = everything
        data.qpos[arm.position_index] = q
        mujoco.mj_forward(arm.model, data)
        self._context.make_current()
        mujoco.mjv_updateScene(
            arm.model,
            data,
            self._options,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        self._mark(data.site_xpos[arm.tool_site], TOOL_RADIUS_M, TOOL_RGBA)
        if goal is not None:
            world = arm.base_position + arm.base_rotation @ np.asarray(goal)[:3]
            self._mark(world, GOAL_RADIUS_M, GOAL_RGBA)
            if len(goal) > 3:
                self._mark_axes(world, np.asarray(goal)[3:])
        picture = np.empty((self._area.height, self._area.width, 3), np.uint8)
        mujoco.mjr_render(self._area, self._scene, self._drawer)
        mujoco.mjr_readPixels(picture, None, self._area, self._drawer)
        return picture[::-1]

    def close(self) -> None:
        """Free the OpenGL context; the renderer is not to be used again."""
        self._context.make_current()
        self._drawer.free()
        self._context.free()

    def _mark(self, position: FloatArray, radius: float, rgba: NDArray[np.float32]) -> None:
        sphere, size, upright = mujoco.mjtGeom.mjGEOM_SPHERE, np.full(3, radius), np.eye(3).ravel()
        marker = self._scene.geoms[self._scene.ngeom]
        mujoco.mjv_initGeom(marker, sphere, size, position, upright, rgba)
        self._scene.ngeom += 1

    def _mark_axes(self, origin: FloatArray, orientation: FloatArray) -> None:
        """Red, green and blue for x, y and z of a quaternion x, y, z, w in the base frame."""
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, np.roll(orientation, 1))
        axes = self._arm.base_rotation @ rotation.reshape(3, 3)
        capsule, zeros = mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3)
        for i in range(3):
            rgba = np.array([*np.eye(3)[i], 1.0], np.float32)
            geom = self._scene.geoms[self._scene.ngeom]
            mujoco.mjv_initGeom(geom, capsule, zeros, zeros, np.eye(3).ravel(), rgba)
            tip = origin + GOAL_AXIS_M * axes[:, i]
            mujoco.mjv_connector(geom, capsule, GOAL_AXIS_RADIUS_M, origin, tip)
            self._scene.ngeom += 1


def _open_context(width: int, height: int) -> Any:
    """An OpenGL context that is current; ``MUJOCO_GL`` picks the kind, as everywhere in MuJoCo.

    mujoco.Renderer reads that variable once, when mujoco is imported, and takes GLFW without it,
    which needs a display; here a machine without one takes EGL, whoever imported mujoco before.
    """
    headless = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
    backend = os.environ.get("MUJOCO_GL") or ("egl" if headless else "glfw")
    try:
        context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        context.make_current()
        return context
    except Exception as error:  # the loaders raise whatever they meet, AttributeError included
        raise RenderingUnavailable(
            f"OpenGL through '{backend}' does not work here ({type(error).__name__}: {error}). "
            "Debian and Ubuntu: `apt-get install libegl1 libopengl0 libgl1-mesa-dri` and "
            "MUJOCO_GL=egl, or `apt-get install libosmesa6` and MUJOCO_GL=osmesa"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Write one picture of a robot at its home pose."""
    parser = argparse.ArgumentParser(prog="python -m smfp_sim.render", description=main.__doc__)
    parser.add_argument("output", type=Path, help="image to write, for example arm.png")
    parser.add_argument("--robot", default="ur5e", help="robot name or path of its YAML")
    parser.add_argument("--camera", default="overview", help="camera of the MJCF")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--goal", type=float, nargs=3, metavar=("X", "Y", "Z"), help="metres")
    chosen = parser.parse_args(arguments)
    if not chosen.output.suffix:
        parser.error(f"output: needs the ending of an image format, got '{chosen.output}'")
    if min(chosen.size) < 1:
        parser.error(f"--size: must be at least 1 1, got {chosen.size[0]} {chosen.size[1]}")
    try:
        check_writable("output", chosen.output)
        import imageio.v3 as imageio

        arm = ArmModel(load_robot(chosen.robot))
        renderer = SceneRenderer(arm, chosen.size[0], chosen.size[1], chosen.camera)
        goal = None if chosen.goal is None else np.array(chosen.goal)
        picture = renderer.frame(arm.robot.home_rad, goal)
        renderer.close()
        kind = chosen.output.suffix
        write_atomically(chosen.output, imageio.imwrite("<bytes>", picture, extension=kind))
    # ConfigErrors, and what imageio says of a suffix, are ValueErrors.
    except (ValueError, RenderingUnavailable, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
