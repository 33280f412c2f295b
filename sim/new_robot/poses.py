# SPDX-License-Identifier: Apache-2.0
"""What trying poses tells of an arm: where it is clear of itself, and where its tool comes to.

All of it holds for the poses that were tried, no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import mujoco
import numpy as np

from smfp_core.robot import RobotConfig, RobotConfigError, Shell
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel
from smfp_sim.new_robot.model import Survey

# Bodies that touch in more of the poses than this overlap by construction.
_ALWAYS = 0.95
# Bodies that stay within this distance of each other, and never touch, are neighbours.
_NEIGHBOURS_M = 0.05
# Distances that differ by less than this over all poses are the same.
_SAME_M = 0.001
_MARGIN_M = 0.01
_POSES = 400


def _free(found: Kinematics, q: FloatArray) -> bool:
    return bool(found.tool_position(q)[2] > 0.0) and not found.contacts(q)


def _bodies(model: mujoco.MjModel, geoms: Iterable[int]) -> tuple[str, str]:
    """Names of the bodies of two geoms, sorted."""
    one, other = sorted(model.body(int(model.geom_bodyid[geom])).name for geom in geoms)
    return one, other


def _changing(clearance: ClearanceModel) -> list[int]:
    """Rows whose distance some joint of the arm changes."""
    return [int(row) for row in np.flatnonzero(clearance.levers.any(axis=1))]


def exclude_overlaps(found: Survey, rng: np.random.Generator) -> None:
    """Keep bodies from colliding that touch in nearly every pose: their shapes overlap.

    Never with the world itself: what stands there is in the arm's way, whichever pose it takes.
    """
    model = found.spec.compile()
    data = mujoco.MjData(model)
    index = [model.joint(name).qposadr[0] for name in found.joints]
    count: dict[tuple[str, str], int] = {}
    for _ in range(_POSES):
        data.qpos[index] = rng.uniform(*found.range_rad.T)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        touching = {_bodies(model, pair) for pair in data.contact.geom}
        for one, other in touching:
            count[one, other] = count.get((one, other), 0) + 1
    for (one, other), times in sorted(count.items()):
        if times > _ALWAYS * _POSES and "world" not in (one, other):
            found.spec.add_exclude(bodyname1=one, bodyname2=other)
            found.changes.append(f"no collision of '{one}' with '{other}', which always overlap")


def never_touching(robot: RobotConfig, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Pairs of bodies that are always near each other, and touched in none of the poses.

    Of pairs with the world only those of a link that turns on the floor it stands on: none of its
    distances to what stands in the world changes. Watched, it may be too near in every pose.
    """
    clearance = ClearanceModel(robot)
    model = ArmModel(robot).model
    low, high = robot.limits.position_min, robot.limits.position_max
    rows = [row for row in _changing(clearance) if row < len(clearance.pairs)]
    distances = np.empty((_POSES // 4, len(rows)))
    for found in distances:
        clearance.set_pose(rng.uniform(low, high))
        found[:] = list(map(clearance.distance, rows))
    nearest: dict[tuple[str, str], FloatArray] = {}
    moved = set()
    for column, row in enumerate(rows):
        one, other = _bodies(model, clearance.pairs[row])
        before = nearest.get((one, other), np.full(len(distances), np.inf))
        nearest[one, other] = np.minimum(before, distances[:, column])
        if "world" in (one, other) and np.ptp(distances[:, column]) > _SAME_M:
            moved.add((one, other))
    return sorted(
        pair
        for pair, d in nearest.items()
        if d.min() > 0.0 and d.max() < _NEIGHBOURS_M and pair not in moved
    )


def find_home(robot: RobotConfig, rng: np.random.Generator) -> tuple[FloatArray, str]:
    """A pose [n] (rad) that is clear of everything, and where it is from."""
    arm = ArmModel(robot)
    kinematics, clearance = Kinematics(arm), ClearanceModel(robot)
    moving = _changing(clearance)
    low, high = robot.limits.position_min, robot.limits.position_max
    tried = [
        (arm.model.key_qpos[i][arm.position_index], f"keyframe '{arm.model.key(i).name}'")
        for i in range(arm.model.nkey)
    ]
    tried.append((arm.model.qpos0[arm.position_index], "the model's zero pose"))
    tried.append(((low + high) / 2, "the middle of the joint ranges"))
    tried += [(rng.uniform(low, high), "a random pose that is clear") for _ in range(_POSES)]
    for q, origin in tried:
        inside = bool(np.all(q >= low) and np.all(q <= high))
        if not inside or not _free(kinematics, q):
            continue
        clearance.set_pose(q)
        if min(map(clearance.distance, moving), default=np.inf) > 2.0 * _MARGIN_M:
            return q, origin
    raise RobotConfigError(f"no pose of {len(tried)} is clear of the arm itself and the floor")


def find_starts(robot: RobotConfig, home: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Ranges [n, 2] (rad) about ``home``, most poses of which are clear."""
    kinematics = Kinematics(ArmModel(robot))
    limits = robot.limits
    widths = (0.8, 0.6, 0.4, 0.2, 0.1)
    for width in widths:
        low = np.maximum(home - width, limits.position_min)
        high = np.minimum(home + width, limits.position_max)
        free = sum(_free(kinematics, rng.uniform(low, high)) for _ in range(_POSES // 4))
        if free > 0.6 * (_POSES // 4):
            return np.stack([low, high], axis=1)
    raise RobotConfigError(f"start_rad: most poses within {widths[-1]} rad of home are not clear")


def find_goals(robot: RobotConfig, home: FloatArray, rng: np.random.Generator) -> Shell:
    """A shell at the second joint's height, about where the tool comes to in clear poses."""
    arm = ArmModel(robot)
    kinematics = Kinematics(arm)
    low = np.maximum(home - 1.5, robot.limits.position_min)
    high = np.minimum(home + 1.5, robot.limits.position_max)
    poses = [q for q in rng.uniform(low, high, (4 * _POSES, len(home))) if _free(kinematics, q)]
    points = np.array([kinematics.tool_position(q) for q in poses])
    data = mujoco.MjData(arm.model)
    data.qpos[arm.position_index] = home
    mujoco.mj_kinematics(arm.model, data)
    anchor = data.xanchor[arm.model.joint(robot.joint_names[1]).id]
    # On the axis that the azimuth turns about.
    center = np.array([0.0, 0.0, arm.to_base(anchor, np.empty(3))[2]])
    offset = points - center
    distance = np.linalg.norm(offset, axis=1)
    flat = np.hypot(offset[:, 0], offset[:, 1])
    azimuth = np.arctan2(offset[:, 1], offset[:, 0])
    # About the direction of home: quantiles of angles that wrap would leave out one beside pi.
    x, y = kinematics.tool_position(home)[:2]
    ahead = math.atan2(y, x)
    azimuth = ahead + np.remainder(azimuth - ahead + math.pi, math.tau) - math.pi

    def span(values: FloatArray, least: float, most: float) -> tuple[float, float]:
        a, b = np.quantile(values, (least, most))
        return round(float(a), 3), round(float(b), 3)

    return Shell(
        center_m=(0.0, 0.0, round(float(center[2]), 4)),
        radius_m=span(distance, 0.15, 0.85),
        azimuth_rad=span(azimuth, 0.1, 0.9),
        height_m=span(points[:, 2], 0.15, 0.9),
        axis_clearance_m=round(float(np.quantile(flat, 0.2)), 3),
    )


def reachable_share(robot: RobotConfig, rng: np.random.Generator, goals: int = 50) -> float:
    """Share of goals for which a clear pose within the limits brings the tool within 1 cm."""
    kinematics = Kinematics(ArmModel(robot))
    low, high = robot.limits.position_min, robot.limits.position_max
    starts = np.array([joint.start_rad for joint in robot.joints])
    drawn = [robot.sample_goal(rng) for _ in range(goals)]
    solved = (
        any(_solve(kinematics, goal, rng.uniform(*starts.T), low, high) for _ in range(10))
        for goal in drawn
    )
    return sum(solved) / float(goals)


def _solve(
    kinematics: Kinematics, goal: FloatArray, q: FloatArray, low: FloatArray, high: FloatArray
) -> bool:
    for _ in range(60):
        miss = goal - kinematics.tool_position(q)
        if np.linalg.norm(miss) < 0.01:
            return not kinematics.contacts(q)
        jacobian = kinematics.tool_jacobian(q)
        damped = jacobian @ jacobian.T + 1e-4 * np.eye(3)
        q = np.clip(q + jacobian.T @ np.linalg.solve(damped, miss), low, high)
    return False
