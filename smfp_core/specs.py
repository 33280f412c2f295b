# SPDX-License-Identifier: Apache-2.0
"""One observation and one action, the same in training, on the robot and in replay.

The gymnasium tasks, the control node and the replay of logs all call ``build_observation`` here
and ``action_to_command`` in :mod:`smfp_core.reference`, so that a policy cannot see or mean
something else on the robot than it did in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smfp_core.rotation import rotation_vector
from smfp_core.strict import ConfigError

FloatArray = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ObservationField:
    """One named block of the observation vector."""

    name: str
    size: int
    unit: str
    frame: str = ""


@dataclass(frozen=True)
class ObservationSpec:
    """Ordered fields of the observation; the vector is their concatenation."""

    fields: tuple[ObservationField, ...]

    def __post_init__(self) -> None:
        for item in self.fields:
            if item.name not in _SOURCES:
                raise ConfigError(
                    f"observation field '{item.name}' is unknown; known: {', '.join(_SOURCES)}"
                )
            if item.size < 1:
                raise ConfigError(f"observation field '{item.name}': size must be at least 1")

    @property
    def sees_orientation(self) -> bool:
        """Whether a field tells of how the tool is turned, which the state has to say then."""
        seen = (*ORIENTATION_FIELDS, "object_approach_step", "object_push_step")
        return any(item.name in seen for item in self.fields)

    @property
    def sees_obstacles(self) -> bool:
        """Whether a field tells of how near the arm is to an obstacle."""
        return any(item.name.startswith("obstacle_") for item in self.fields)

    @property
    def needs_orientation(self) -> bool:
        """Whether a goal must say how the tool is to be turned, not only where it is to be."""
        return any(item.name in ORIENTATION_FIELDS for item in self.fields)

    @property
    def size(self) -> int:
        """Length of the observation vector."""
        return sum(item.size for item in self.fields)

    def make_room(self, state: RobotState) -> None:
        """Have ``state`` hold what is seen of the arm, and no more."""
        state.make_room(orientation=self.sees_orientation, obstacles=self.sees_obstacles)


@dataclass(frozen=True)
class ControlAssumptions:
    """The robot that a policy was trained on, as far as it is not the ideal one.

    Attributes:
        command_delay_s: the most that a command was on its way.
        observation_filter: ``none``, or ``velocity_low_pass``: velocities were differences of
            successive positions behind a first-order low-pass of ``velocity_filter_s``.
        state_delay_s: the most that a joint state was on its way; None: the file does not say.
        velocity_filter_s: time constant of that low-pass; 0: none.
        randomization: all of it, as a YAML in config/randomization would say it; None: nothing
            differed from the robot's MJCF.
    """

    command_delay_s: float
    observation_filter: str
    state_delay_s: float | None = None
    velocity_filter_s: float = 0.0
    randomization: dict[str, Any] | None = None


@dataclass(frozen=True)
class ActionSpec:
    """What an action in [-1, 1]^n means: a joint velocity for one policy period.

    The limits are those under which the reference was integrated in training; the robot's own
    may be wider, never narrower, or its safety filter will have to intervene.
    """

    joint_names: tuple[str, ...]
    scale_rad_s: tuple[float, ...]
    position_min_rad: tuple[float, ...]
    position_max_rad: tuple[float, ...]
    acceleration_rad_s2: tuple[float, ...]
    policy_period_s: float
    control_period_s: float
    kind: str = "joint_velocity"

    def __post_init__(self) -> None:
        if self.kind != "joint_velocity":
            raise ConfigError(f"kind: '{self.kind}' is unknown; known: joint_velocity")
        n = len(self.joint_names)
        if n == 0 or len(set(self.joint_names)) != n:
            raise ConfigError("joint_names: must be non-empty and unique")
        for name in (
            "scale_rad_s",
            "position_min_rad",
            "position_max_rad",
            "acceleration_rad_s2",
        ):
            if len(getattr(self, name)) != n:
                raise ConfigError(f"{name}: expected {n} values, one per joint")
        for name in ("scale_rad_s", "acceleration_rad_s2"):
            if min(getattr(self, name)) <= 0.0:
                raise ConfigError(f"{name}: must be positive")
        bounds = zip(self.position_min_rad, self.position_max_rad, strict=True)
        if any(low >= high for low, high in bounds):
            raise ConfigError("position_min_rad: must lie below position_max_rad")
        if self.control_period_s <= 0.0:
            raise ConfigError("control_period_s: must be positive")
        ratio = self.policy_period_s / self.control_period_s
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
            raise ConfigError("policy_period_s: must be a whole multiple of control_period_s")

    @property
    def size(self) -> int:
        """Number of joints."""
        return len(self.joint_names)

    @property
    def ticks_per_action(self) -> int:
        """Control periods in one policy period."""
        return round(self.policy_period_s / self.control_period_s)


@dataclass
class RobotState:
    """What is known of the arm at one instant. All arrays are float64 in joint order.

    ``reference_*`` is the commanded reference, not a measurement. ``tool_position_m`` [3] is the
    forward kinematics of the measured joints in the robot's base frame. ``tool_orientation`` [4]
    (quaternion x, y, z, w) and ``tool_turn_jacobian`` [3, n] (rad/rad) are so too, both None where
    nobody asks for them. ``obstacle_nearness`` [1] is 1 where the arm touches an obstacle of the
    robot's surroundings and 0 from ``NEAR_OBSTACLE_M`` on, ``obstacle_gradient`` [n] (m/rad) what
    each joint adds to the least distance, times the nearness; None where nobody asks for them.
    ``object_*`` [3] is an object's centre and its velocity in the base
    frame; only a task with an object knows them.
    """

    joint_position_rad: FloatArray
    joint_velocity_rad_s: FloatArray
    reference_position_rad: FloatArray
    reference_velocity_rad_s: FloatArray
    tool_position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    tool_jacobian_m_rad: FloatArray = field(default_factory=lambda: np.zeros((3, 0)))
    object_position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    object_velocity_m_s: FloatArray = field(default_factory=lambda: np.zeros(3))
    tool_orientation: FloatArray | None = None
    tool_turn_jacobian: FloatArray | None = None
    obstacle_nearness: FloatArray | None = None
    obstacle_gradient: FloatArray | None = None

    def make_room(self, *, orientation: bool = False, obstacles: bool = False) -> None:
        """For how the tool is turned and how near obstacles are, or none: that spares the work."""
        n = len(self.joint_position_rad)
        self.tool_orientation = np.array([0.0, 0.0, 0.0, 1.0]) if orientation else None
        self.tool_turn_jacobian = np.zeros((3, n)) if orientation else None
        self.obstacle_nearness = np.zeros(1) if obstacles else None
        self.obstacle_gradient = np.zeros(n) if obstacles else None


# From where on an obstacle is seen.
NEAR_OBSTACLE_M = 0.2
# Distance over which "goal_gradient" turns from a direction into an offset, m.
GOAL_SOFTENING_M = 0.05
# The same for "goal_step", in joint angle.
GOAL_SOFTENING_RAD = 0.1
# What a radian of the tool's orientation counts in metres, and the damping, for "goal_step".
_LEVER_M = 0.3
_DAMPING = np.eye(6) * 0.03**2


def _goal_gradient(state: RobotState, goal: FloatArray) -> FloatArray:
    """How fast each joint brings the tool to the goal [n], m/rad: J^T offset, softly normalised.

    Far away it is the gradient of the distance, near the goal it shrinks with the offset. The
    kinematics are known exactly; a policy that is given them need not learn them.
    """
    offset = goal[:3] - state.tool_position_m
    offset /= math.hypot(*offset.tolist()) + GOAL_SOFTENING_M
    return offset.dot(state.tool_jacobian_m_rad)


def _obstacle_nearness(state: RobotState, goal: FloatArray) -> FloatArray:
    if state.obstacle_nearness is None:
        raise ValueError("obstacle_nearness: the state does not say how near obstacles are")
    return state.obstacle_nearness


def _obstacle_gradient(state: RobotState, goal: FloatArray) -> FloatArray:
    """What each joint adds to the distance from the nearest obstacle [n], m/rad, the less the
    farther it is: where to turn, and how urgently."""
    if state.obstacle_gradient is None:
        raise ValueError("obstacle_gradient: the state does not say how near obstacles are")
    return state.obstacle_gradient


def _goal_rotation(state: RobotState, goal: FloatArray) -> FloatArray:
    """The rotation vector [3] (rad, base frame) that turns the tool onto the goal."""
    if state.tool_orientation is None or len(goal) < 7:
        raise ValueError("goal_rotation: needs the orientations of tool and goal")
    return np.array(rotation_vector(state.tool_orientation.tolist(), goal[3:].tolist()))


def _goal_step(state: RobotState, goal: FloatArray) -> FloatArray:
    """How far each joint is from the goal pose [n], softly normalised to (-1, 1).

    The damped least-squares step (Nakamura and Hanafusa 1986; Wampler 1986), that is to first order
    in the error: a direction far away, an offset at the goal. Unlike two gradients, it says how
    position and orientation are had at once.
    """
    return _step(state, goal[:3] - state.tool_position_m, _goal_rotation(state, goal))


def _step(state: RobotState, offset: FloatArray, rotation: FloatArray) -> FloatArray:
    assert state.tool_turn_jacobian is not None
    jacobian = np.concatenate((state.tool_jacobian_m_rad, _LEVER_M * state.tool_turn_jacobian))
    error = np.concatenate((offset, _LEVER_M * rotation))
    step = np.linalg.solve(jacobian.dot(jacobian.T) + _DAMPING, error).dot(jacobian)
    return step / (max(map(abs, step.tolist())) + GOAL_SOFTENING_RAD)


# Where a tool that pushes stands, from the object's centre: behind it, seen from the goal, and up.
PUSH_DISTANCE_M = 0.095
# Nearer than this the two would overlap.
PUSH_CONTACT_M = 0.08
PUSH_LIFT_M = 0.01
# A way along the circle at that distance begins with a chord of this angle.
_CHORD_RAD = 0.5


def way_behind(tool: FloatArray, place: FloatArray, goal: FloatArray) -> tuple[FloatArray, float]:
    """The way on the floor to where a tool pushes an object, around the object.

    Args:
        tool: position [3] or [2] (m, base frame) of the tool; so are the others.
        place: centre of the object.
        goal: where the object has to go.

    Returns:
        The straight beginning of the shortest way that keeps ``PUSH_DISTANCE_M`` from the object's
        centre [2], m; from nearer it leads along that circle and out. And the length (m) of all of
        it, which being as near as to touch does not add to.
    """
    x, y = float(tool[0] - place[0]), float(tool[1] - place[1])
    radius, azimuth = math.hypot(x, y), math.atan2(y, x)
    behind = math.atan2(place[1] - goal[1], place[0] - goal[0])
    turn = math.remainder(behind - azimuth, math.tau)
    free = math.acos(PUSH_DISTANCE_M / radius) if radius > PUSH_DISTANCE_M else 0.0
    rest = abs(turn) - free
    if rest <= 0.0:
        to, rest = behind, 0.0
    elif free > 0.0:
        to = azimuth + math.copysign(free, turn)
    else:
        to = azimuth + math.copysign(min(rest, _CHORD_RAD), turn)
    begin = np.array([PUSH_DISTANCE_M * math.cos(to) - x, PUSH_DISTANCE_M * math.sin(to) - y])
    if radius <= PUSH_DISTANCE_M:
        return begin, PUSH_DISTANCE_M * rest + max(PUSH_CONTACT_M - radius, 0.0)
    return begin, math.hypot(*begin.tolist()) + PUSH_DISTANCE_M * rest


def _approach_step(state: RobotState, goal: FloatArray) -> FloatArray:
    """As ``_goal_step``: along ``way_behind``, with the tool's z axis straight down."""
    begin, _ = way_behind(state.tool_position_m, state.object_position_m, goal)
    return _upright_step(state, float(begin[0]), float(begin[1]))


def _push_step(state: RobotState, goal: FloatArray) -> FloatArray:
    """As ``_goal_step``: along the way that the object has to go, with the z axis straight down."""
    x, y, _ = (goal[:3] - state.object_position_m).tolist()
    return _upright_step(state, x, y)


def _upright_step(state: RobotState, x: float, y: float) -> FloatArray:
    if state.tool_orientation is None:
        raise ValueError("the state does not say how the tool is turned")
    height = state.object_position_m[2] + PUSH_LIFT_M - state.tool_position_m[2]
    i, j, k, w = state.tool_orientation.tolist()
    # The tool's z axis is (2 (ik + jw), 2 (jk - iw), ...); this is its cross product with down.
    rotation = np.array([2.0 * (i * w - j * k), 2.0 * (i * k + j * w), 0.0])
    return _step(state, np.array([x, y, height]), rotation)


_SOURCES: dict[str, Callable[[RobotState, FloatArray], FloatArray]] = {
    "joint_position": lambda state, goal: state.joint_position_rad,
    "joint_velocity": lambda state, goal: state.joint_velocity_rad_s,
    "tracking_error": lambda state, goal: state.reference_position_rad - state.joint_position_rad,
    "reference_velocity": lambda state, goal: state.reference_velocity_rad_s,
    "tool_position": lambda state, goal: state.tool_position_m,
    "goal_position": lambda state, goal: goal[:3],
    "goal_offset": lambda state, goal: goal[:3] - state.tool_position_m,
    "goal_gradient": _goal_gradient,
    "goal_rotation": _goal_rotation,
    "goal_step": _goal_step,
    "object_position": lambda state, goal: state.object_position_m,
    "object_velocity": lambda state, goal: state.object_velocity_m_s,
    "object_offset": lambda state, goal: state.object_position_m - state.tool_position_m,
    "object_goal_offset": lambda state, goal: goal[:3] - state.object_position_m,
    "object_approach_step": _approach_step,
    "object_push_step": _push_step,
    "obstacle_nearness": _obstacle_nearness,
    "obstacle_gradient": _obstacle_gradient,
}
# Those of three values and of one, whatever the arm; the others have one a joint.
SPATIAL_FIELDS = (
    *("tool_position", "goal_position", "goal_offset", "goal_rotation"),
    *("object_position", "object_velocity", "object_offset", "object_goal_offset"),
)
SCALAR_FIELDS = ("obstacle_nearness",)
# Those that need a goal with an orientation, and a state that says how the tool is turned.
ORIENTATION_FIELDS = ("goal_rotation", "goal_step")
# Those that need to know where an object is.
OBJECT_FIELDS = tuple(name for name in _SOURCES if name.startswith("object_"))


def build_observation(
    spec: ObservationSpec,
    state: RobotState,
    goal: FloatArray,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Assemble the observation vector.

    Args:
        spec: the ordered fields.
        state: the arm; arrays of n joints.
        goal: position [3] (m, base frame), or pose [7]: also a quaternion x, y, z, w, which
            a spec with ``needs_orientation`` needs.
        out: float32 [spec.size] to write into, for a loop that must not allocate.

    Returns:
        float32 [spec.size].

    Raises:
        ValueError: a field's data has another length than the spec says, or the goal or the state
            lacks the orientation that a field needs.
    """
    vector = np.empty(spec.size, np.float32) if out is None else out
    parts = [_SOURCES[item.name](state, goal) for item in spec.fields]
    for item, part in zip(spec.fields, parts, strict=True):
        if len(part) != item.size:
            raise ValueError(f"{item.name}: expected {item.size} values, got {len(part)}")
    return np.concatenate(parts, out=vector, casting="same_kind")
