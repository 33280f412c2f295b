# SPDX-License-Identifier: Apache-2.0
"""What the page draws: the measured arm, the commanded one, obstacles, and the goal's handle."""

from __future__ import annotations

import time
from collections.abc import Callable

import mujoco
import numpy as np
import trimesh
import viser

from smfp_control.page.meshes import body_meshes
from smfp_core.robot import Obstacle
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel

_GHOST_RGB, _GHOST_OPACITY = (255, 150, 30), 0.3
_OBSTACLE_RGB, _OBSTACLE_OPACITY = (205, 60, 60), 0.55
GOAL_RADIUS_M = 0.025
_FREE_RGB, _GOAL_RGB, _REFUSED_RGB = (150, 150, 150), (25, 175, 90), (220, 40, 40)
_AXES_M = 0.1
# A command this near to the arm would only tint it.
_APART_RAD = 3e-3
# Smaller turns than this cannot be seen, and need not be sent to every tab.
_STILL_RAD = 1e-4
# For so long a released handle waits for the node to say that it has the goal.
_SETTLE_S = 0.5

# Looks past the arm, which so stands beside the panel.
CAMERA_POSITION, CAMERA_LOOK_AT, CAMERA_FOV_RAD = (1.9, -1.2, 1.1), (0.35, 0.25, 0.35), 0.75


class ArmView:
    """An arm in the scene, moved body by body.

    Args:
        server: of the page.
        arm: the model; shareable.
        name: of the branch of the scene.
        ghost: translucent and of one colour, for where the arm should be.
    """

    def __init__(
        self, server: viser.ViserServer, arm: ArmModel, name: str, ghost: bool = False
    ) -> None:
        self._arm = arm
        self._data = mujoco.MjData(arm.model)
        self._shown: FloatArray | None = None
        scene = server.scene
        self._root = scene.add_frame(f"/{name}", show_axes=False, visible=False)
        self._frames: dict[int, viser.FrameHandle] = {}
        for i, mesh in enumerate(body_meshes(arm.model)):
            moving = arm.model.body_weldid[mesh.body] != 0
            if ghost and not moving:
                continue
            branch = f"/{name}/{mesh.body}"
            if mesh.body not in self._frames:
                self._frames[mesh.body] = scene.add_frame(branch, show_axes=False)
            scene.add_mesh_simple(
                f"{branch}/{i}",
                mesh.vertices,
                mesh.faces,
                color=_GHOST_RGB if ghost else mesh.rgb,
                opacity=_GHOST_OPACITY if ghost else None,
                flat_shading=True,
                cast_shadow=False,
                receive_shadow=False,
            )

    def show(self, q: FloatArray | None) -> None:
        """Put the arm at joint positions ``q`` [n] (rad); hide it without any."""
        if self._root.visible != (q is not None):
            self._root.visible = q is not None
        if q is None:
            return
        if self._shown is not None and np.abs(q - self._shown).max() < _STILL_RAD:
            return
        self._shown = np.array(q)
        self._data.qpos[self._arm.position_index] = q
        mujoco.mj_kinematics(self._arm.model, self._data)
        for body, frame in self._frames.items():
            frame.position, frame.wxyz = self._data.xpos[body], self._data.xquat[body]


def apart(commanded: FloatArray | None, measured: FloatArray | None) -> FloatArray | None:
    """The commanded pose [n] (rad) if it can be told from the measured one."""
    if commanded is None or measured is None:
        return None
    return commanded if np.abs(commanded - measured).max() > _APART_RAD else None


class GoalHandle:
    """The goal as something to drag, in the frame ``/base``. Only a release sends a goal.

    Without a goal the handle lies at the tool. A tab that closes in the middle of a drag gives the
    handle back, and sends nothing.

    Args:
        server: of the page.
        refusal: says of a place [3] (m, base frame) why it is no goal; None if it is one.
        send: sends a goal; returns why it did not.
        locked: the handle shows the goal and cannot be moved.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        refusal: Callable[[FloatArray], str | None],
        send: Callable[[FloatArray], str | None],
        locked: bool = False,
    ) -> None:
        self._server, self._refusal, self._send = server, refusal, send
        self._dragged_by: int | None = None
        self._released_s = 0.0
        self.text = ""
        self._ball: viser.IcosphereHandle | None = None
        self._turned: FloatArray | None = None
        self._rgb = (0, 0, 0)
        self._node: viser.FrameHandle | viser.TransformControlsHandle
        if locked:
            self._node = server.scene.add_frame("/base/goal", show_axes=False)
        else:
            controls = server.scene.add_transform_controls(
                "/base/goal", scale=0.22, disable_rotations=True, depth_test=False
            )
            controls.on_update(self._on_update)
            server.on_client_disconnect(self._on_disconnect)
            self._node = controls
        self._axes = server.scene.add_frame(
            "/base/goal/axes", axes_length=_AXES_M, axes_radius=0.003, visible=False
        )
        self._paint(_FREE_RGB)

    @property
    def position(self) -> FloatArray:
        """Where the handle is, [3] m, base frame."""
        return np.array(self._node.position, np.float64)

    def show(self, goal: FloatArray | None, tool: FloatArray | None) -> None:
        """Put the handle at the node's goal, or at the tool without one; [3], m, base frame.

        A goal [7] that has an orientation, a quaternion x, y, z, w, is drawn with its axes.
        """
        if self._dragged_by is not None or time.monotonic() - self._released_s < _SETTLE_S:
            return
        self._turn(None if goal is None or len(goal) == 3 else goal[3:])
        place = tool if goal is None else goal[:3]
        if place is None:
            return
        self._paint(_FREE_RGB if goal is None else _GOAL_RGB)
        if np.abs(place - self.position).max() > 1e-4:
            self._node.position = place

    async def _on_update(self, event: viser.TransformControlsEvent) -> None:
        if event.client_id is not None:
            self.drag(event.phase, event.client_id)

    def drag(self, phase: str, client_id: int) -> None:
        """One step of a drag by one tab: ``start``, ``update`` or ``end``."""
        if phase == "start" and self._dragged_by is None:
            self._dragged_by = client_id
        if client_id != self._dragged_by:
            return
        refusal = self._refusal(self.position)
        if phase == "end":
            self._dragged_by = None
            refusal = self._send(self.position)
            # What was refused jumps back; what was sent waits until the node has it.
            self._released_s = 0.0 if refusal else time.monotonic()
        self.text = refusal or ""
        self._paint(_REFUSED_RGB if refusal else _GOAL_RGB)

    def _on_disconnect(self, client: viser.ClientHandle) -> None:
        if client.client_id == self._dragged_by:
            self._dragged_by = None

    def _turn(self, orientation: FloatArray | None) -> None:
        shown = self._turned
        if orientation is None or shown is None:
            same = orientation is shown
        else:
            same = np.array_equal(orientation, shown)
        if same:
            return
        self._turned = orientation
        self._axes.visible = orientation is not None
        if orientation is not None:
            self._axes.wxyz = np.roll(orientation, 1)

    def _paint(self, rgb: tuple[int, int, int]) -> None:
        if rgb == self._rgb:
            return
        self._rgb = rgb
        if self._ball is None:
            self._ball = self._server.scene.add_icosphere(
                "/base/goal/ball", GOAL_RADIUS_M, color=rgb, opacity=0.8, cast_shadow=False
            )
        else:
            self._ball.color = rgb


def furnish(server: viser.ViserServer, arm: ArmModel) -> None:
    """Camera, floor, light, base frame, and the obstacles and workspace of the robot's YAML."""
    server.initial_camera.position = CAMERA_POSITION
    server.initial_camera.look_at = CAMERA_LOOK_AT
    server.initial_camera.fov = CAMERA_FOV_RAD
    scene = server.scene
    # No picture from the internet as a light, and nothing that a computer without GPU is slow at.
    scene.configure_environment_map(None)
    scene.configure_default_lights(enabled=False)
    scene.add_light_ambient("/light/ambient", intensity=1.1)
    for name, place, intensity in (("key", (1.0, -2.0, 3.0), 1.8), ("fill", (-2.0, 1.0, 1.0), 0.7)):
        scene.add_light_directional(f"/light/{name}", position=place, intensity=intensity)
    scene.add_grid("/floor", width=3.0, height=3.0, cell_size=0.1, section_size=0.5)
    rotation = np.empty(4)
    mujoco.mju_mat2Quat(rotation, arm.base_rotation.ravel())
    scene.add_frame(
        "/base",
        axes_length=0.15,
        axes_radius=0.004,
        origin_radius=0.006,
        position=arm.base_position,
        wxyz=rotation,
    )
    surroundings = arm.robot.surroundings
    for obstacle in surroundings.obstacles:
        _add_obstacle(server, obstacle)
    if surroundings.workspace is not None:
        low, high = np.array(surroundings.workspace.min_m), np.array(surroundings.workspace.max_m)
        scene.add_box(
            "/base/workspace",
            color=(90, 130, 190),
            dimensions=tuple(high - low),
            wireframe=True,
            position=(low + high) / 2,
        )


def _add_obstacle(server: viser.ViserServer, obstacle: Obstacle) -> None:
    if obstacle.size_m is not None:
        mesh = trimesh.creation.box(extents=obstacle.size_m)
    else:
        mesh = trimesh.creation.icosphere(subdivisions=3, radius=obstacle.radius_m or 0.0)
    half = obstacle.yaw_rad / 2
    server.scene.add_mesh_simple(
        f"/base/obstacles/{obstacle.name}",
        mesh.vertices,
        mesh.faces,
        color=_OBSTACLE_RGB,
        opacity=_OBSTACLE_OPACITY,
        flat_shading=obstacle.size_m is not None,
        position=obstacle.center_m,
        wxyz=(np.cos(half), 0.0, 0.0, np.sin(half)),
    )
