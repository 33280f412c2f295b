# SPDX-License-Identifier: Apache-2.0
"""How near an arm is to touching itself, the floor or an obstacle, and how fast that can change.

Distances come from ``mj_geomDistance``, pair by pair. The contacts of ``mj_collision`` under a
``margin`` are no substitute: their distances were up to 6 cm too large between a capsule and a
cylinder that did not touch (MuJoCo 3.17, against a closed form).

For every pair there is a lever per joint, m/rad: turning that joint alone by an angle changes the
distance of the pair by at most lever times angle. So a distance measured once bounds the distance
at every other pose:

    d(q') >= d(q) - sum_i lever_i |q'_i - q_i|

because the distance of two rigid bodies changes by no more than the way that any point of one
goes in the frame of the other, and a point at r from a joint's axis goes r per radian.
"""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray
from smfp_sim.scene import as_slice, body_index, compile_scene

# Beyond this the exact distance is of no interest.
_FAR_M = 5.0


class ClearanceModel:
    """Distances of an arm at given joints, in data of its own: not thread-safe.

    Rows of the tables below are what has to be kept apart: first every pair of geoms that could
    touch, then, where the robot has a workspace, each guarded point and the box it keeps to.

    Args:
        robot: names the MJCF and the surroundings.
        model: what ``compile_scene`` made of it, to be shared with others.

    Raises:
        RobotConfigError: the MJCF lacks what the surroundings name.

    Attributes:
        levers: [rows, n], m/rad, as above.
        pairs: geoms of the first rows.
        points: names of the guarded points: the tool, then the elbow if the robot names one.
        point_levers: [points, n], m/rad: greatest speed of a point per joint speed.
        depth: [n], position of each joint in the chain: deeper ones are carried by others.
        obstacle_rows: the rows of pairs of which one is an obstacle. It is the first of the two:
            MuJoCo numbers the world's geoms before those of any body.
    """

    def __init__(self, robot: RobotConfig, model: mujoco.MjModel | None = None) -> None:
        self._robot = robot
        model = compile_scene(robot) if model is None else model
        self._model = model
        self._data = mujoco.MjData(model)
        joints = [model.joint(name) for name in robot.joint_names]
        # A view, which follows the data: each access of the attribute would make one.
        self._joint_positions = self._data.qpos
        self._position_index = as_slice(np.array([joint.qposadr[0] for joint in joints]))
        self._velocity_index = as_slice(np.array([joint.dofadr[0] for joint in joints]))
        self._joint_ids = [int(joint.id) for joint in joints]
        base = self._body(robot.base_frame, "base_frame")
        mujoco.mj_kinematics(model, self._data)
        self._base_position = self._data.xpos[base].copy()
        self._base_rotation = self._data.xmat[base].reshape(3, 3).copy()
        self.depth: NDArray[np.intp] = np.array([model.jnt_bodyid[j] for j in self._joint_ids])
        names = [f"obstacle {obstacle.name}" for obstacle in robot.surroundings.obstacles]
        obstacles = {int(model.geom(name).id) for name in names}
        self.pairs = self._collidable_pairs(obstacles)
        self.obstacle_rows = [
            row for row, p in enumerate(self.pairs) if not obstacles.isdisjoint(p)
        ]
        self._find_points()
        geom_levers = {
            geom: self._reach(
                int(model.geom_bodyid[geom]), model.geom_pos[geom], float(model.geom_rbound[geom])
            )
            for geom in {geom for pair in self.pairs for geom in pair}
        }
        rows = []
        for a, b in self.pairs:
            one, other = geom_levers[a], geom_levers[b]
            # A joint that carries both geoms does not change their distance.
            rows.append(np.where((one > 0.0) & (other > 0.0), 0.0, one + other))
        workspace = robot.surroundings.workspace
        if workspace is not None:
            self._low, self._high = np.array(workspace.min_m), np.array(workspace.max_m)
            rows += list(self.point_levers)
        self.levers: FloatArray = np.array(rows).reshape(len(rows), len(joints))
        self._jacobian = np.zeros((3, model.nv))

    def set_pose(self, q: ArrayLike) -> None:
        """Put the arm at joint positions ``q`` [n] (rad)."""
        self._joint_positions[self._position_index] = q
        mujoco.mj_kinematics(self._model, self._data)

    def distance(self, row: int) -> float:
        """Clearance of ``row`` at the pose set, m; negative: overlapping, or out of the box."""
        if row < len(self.pairs):
            a, b = self.pairs[row]
            return float(mujoco.mj_geomDistance(self._model, self._data, a, b, _FAR_M, None))
        point = self.point_position(row - len(self.pairs))
        return float(min((point - self._low).min(), (self._high - point).min()))

    def least(self, q: FloatArray) -> float:
        """The least clearance over all rows at joint positions ``q`` [n] (rad), m."""
        self.set_pose(q)
        return min(self.distance(row) for row in range(len(self.levers)))

    def nearest_obstacle(self, within_m: float) -> tuple[float, FloatArray]:
        """The least distance of the arm to an obstacle at the pose set, m, and its derivative.

        Returns:
            The distance, at most ``within_m``, negative where they overlap; and its derivative [n]
            by the joint positions, m/rad, zero where nothing is that near.
        """
        nearest, link = within_m, -1
        # The nearest points of obstacle and arm.
        points, ends = np.empty(6), np.zeros(6)
        for row in self.obstacle_rows:
            obstacle, geom = self.pairs[row]
            distance = mujoco.mj_geomDistance(
                self._model, self._data, obstacle, geom, within_m, points
            )
            if distance < nearest:
                nearest, link = float(distance), int(self._model.geom_bodyid[geom])
                ends[:] = points
        away = ends[3:] - ends[:3]
        length = float(np.linalg.norm(away))
        if length == 0.0:
            return nearest, np.zeros(len(self._joint_ids))
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jac(self._model, self._data, self._jacobian, None, ends[3:], link)
        direction = away / (length if nearest > 0.0 else -length)
        return nearest, direction.dot(self._jacobian[:, self._velocity_index])

    def point_position(self, index: int) -> FloatArray:
        """Position [3] (m, base frame) of a guarded point at the pose set."""
        return (self._world[index] - self._base_position) @ self._base_rotation

    def point_jacobians(self, out: FloatArray) -> None:
        """Derivatives of the guarded points by the joints, m/rad: ``out`` [points, 3, n].

        In world axes: lengths, which are what they are for, are the same in every frame.
        """
        mujoco.mj_comPos(self._model, self._data)
        for index, body in enumerate(self._point_bodies):
            mujoco.mj_jac(self._model, self._data, self._jacobian, None, self._world[index], body)
            out[index] = self._jacobian[:, self._velocity_index]

    def label(self, row: int) -> str:
        """What ``row`` keeps apart, for people."""
        if row >= len(self.pairs):
            return f"the {self.points[row - len(self.pairs)]} and the edge of its workspace"
        a, b = (self._geom_label(geom) for geom in self.pairs[row])
        return f"{a} and {b}"

    def is_pair(self, row: int) -> bool:
        """Whether ``row`` is a pair of geoms rather than a point and its box."""
        return row < len(self.pairs)

    def _geom_label(self, geom: int) -> str:
        body = self._model.body(self._model.geom_bodyid[geom]).name
        name = self._model.geom(geom).name or f"geom {geom}"
        return name if body == "world" else f"{name} ({body})"

    def _body(self, name: str, field: str) -> int:
        return body_index(self._robot, self._model, name, field)

    def _find_points(self) -> None:
        model, data, robot = self._model, self._data, self._robot
        site = model.site(robot.tool_site)
        # Views, which follow the pose.
        self._world = [data.site_xpos[site.id]]
        self._point_bodies = [int(site.bodyid[0])]
        local = [model.site_pos[site.id]]
        self.points: tuple[str, ...] = ("tool",)
        if robot.surroundings.elbow_body is not None:
            body = self._body(robot.surroundings.elbow_body, "surroundings.elbow_body")
            self._world.append(data.xpos[body])
            self._point_bodies.append(body)
            local.append(np.zeros(3))
            self.points += ("elbow",)
        self.point_levers: FloatArray = np.array(
            [self._reach(b, p, 0.0) for b, p in zip(self._point_bodies, local, strict=True)]
        )

    def _reach(self, body: int, point: FloatArray, radius: float) -> FloatArray:
        """Greatest distance [n] (m) from each joint's axis to a ball about ``point`` of ``body``.

        Over all positions of all joints: lengths of the links in between add up. Zero for joints
        that do not carry ``body``.
        """
        model = self._model
        reach = np.zeros(len(self._joint_ids))
        rest, tip = radius, np.array(point, np.float64)
        while body != 0:
            first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
            for index, joint in enumerate(self._joint_ids):
                if first <= joint < first + count:
                    offset, axis = tip - model.jnt_pos[joint], model.jnt_axis[joint]
                    across = offset - (offset @ axis) * axis
                    reach[index] = rest + float(np.linalg.norm(across))
            # A joint beside the origin of its body swings that origin.
            swing = sum(
                2.0 * float(np.linalg.norm(model.jnt_pos[joint]))
                for joint in range(first, first + count)
            )
            rest += float(np.linalg.norm(tip)) + swing
            tip = model.body_pos[body].copy()
            body = int(model.body_parentid[body])
        return reach

    def _collidable_pairs(self, obstacles: set[int]) -> tuple[tuple[int, int], ...]:
        """The pairs that MuJoCo itself would test, less those that never touch.

        ``obstacles`` are geoms of which no exclusion takes a pair away. Exclusions name bodies, and
        those that name the world are of its floor: an obstacle was not there when they were made.

        Raises:
            RobotConfigError: a body that never touches another is not in the MJCF.
        """
        model = self._model
        skipped = {(int(s) >> 16, int(s) & 0xFFFF) for s in model.exclude_signature}
        for i, names in enumerate(self._robot.surroundings.never_touching):
            one, other = (self._body(n, f"surroundings.never_touching[{i}]") for n in names)
            skipped.add((min(one, other), max(one, other)))
        pairs = []
        for a, b in itertools.combinations(range(model.ngeom), 2):
            body_a, body_b = int(model.geom_bodyid[a]), int(model.geom_bodyid[b])
            weld_a, weld_b = int(model.body_weldid[body_a]), int(model.body_weldid[body_b])
            parent_a = int(model.body_weldid[model.body_parentid[weld_a]])
            parent_b = int(model.body_weldid[model.body_parentid[weld_b]])
            wanted = (model.geom_contype[a] & model.geom_conaffinity[b]) or (
                model.geom_contype[b] & model.geom_conaffinity[a]
            )
            neighbours = weld_a and weld_b and (weld_a == parent_b or weld_b == parent_a)
            excluded = (min(body_a, body_b), max(body_a, body_b)) in skipped
            excluded = excluded and obstacles.isdisjoint((a, b))
            if wanted and weld_a != weld_b and not neighbours and not excluded:
                pairs.append((a, b))
        return tuple(pairs)
