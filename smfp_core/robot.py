# SPDX-License-Identifier: Apache-2.0
"""The robot description: one YAML under config/robots/ and the MJCF it names."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smfp_core.digest import sha256
from smfp_core.orientations import Orientations
from smfp_core.reference import ReferenceLimits
from smfp_core.resources import config_path
from smfp_core.specs import ActionSpec, FloatArray
from smfp_core.strict import ConfigError, errors_in, from_mapping, load_yaml

CommandInterface = Literal["forward_position", "forward_velocity", "joint_trajectory"]
Range = tuple[float, float]


class RobotConfigError(ConfigError):
    """A robot YAML, or the MJCF it names, is missing or wrong."""


_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_INCLUDE = re.compile(rb"""<include\s[^>]*file\s*=\s*(["'])(.*?)\1""")
# Of ROS 2's rules for names of topics: tokens between slashes, of which none begins with a digit.
_TOPIC = re.compile(r"(~?/)?[A-Za-z_{][\w{}]*(/[A-Za-z_{][\w{}]*)*", re.ASCII)
# Goals that are tried before the description is said to leave none.
_MOST_DRAWS = 20_000


@dataclass(frozen=True)
class JointConfig:
    """One joint: hardware limits (of the data sheet), home, and the range of task starts."""

    name: str
    position_rad: Range
    velocity_rad_s: float
    acceleration_rad_s2: float
    effort_nm: float
    home_rad: float
    start_rad: Range

    def __post_init__(self) -> None:
        for name in ("velocity_rad_s", "acceleration_rad_s2", "effort_nm"):
            if getattr(self, name) <= 0.0:
                raise ConfigError(f"{name}: must be positive")
        low, high = self.position_rad
        if low >= high:
            raise ConfigError("position_rad: the first value must be below the second")
        if not low <= self.home_rad <= high:
            raise ConfigError(f"home_rad: must lie within position_rad {self.position_rad}")
        if not low <= self.start_rad[0] <= self.start_rad[1] <= high:
            raise ConfigError("start_rad: must be a range within position_rad")


@dataclass(frozen=True)
class PolicyMotion:
    """How fast policies may move this arm: slower than the hardware, by choice."""

    period_s: float
    velocity_rad_s: float
    acceleration_rad_s2: float

    def __post_init__(self) -> None:
        for name in ("period_s", "velocity_rad_s", "acceleration_rad_s2"):
            if getattr(self, name) <= 0.0:
                raise ConfigError(f"{name}: must be positive")


@dataclass(frozen=True)
class Shell:
    """Goals: a part of a spherical shell about ``center_m`` (base frame), within ``height_m``.

    ``azimuth_rad`` is measured about the base z axis from its x axis, and may go beyond pi.
    ``obstacle_clearance_m`` is how far a goal keeps from the obstacles of the surroundings.
    ``orientations``: those of a goal that has one; None: the robot takes no such goals.
    """

    center_m: tuple[float, float, float]
    radius_m: Range
    azimuth_rad: Range
    height_m: Range
    axis_clearance_m: float
    obstacle_clearance_m: float = 0.0
    orientations: Orientations | None = None

    def __post_init__(self) -> None:
        for name in ("radius_m", "azimuth_rad", "height_m"):
            low, high = getattr(self, name)
            if low >= high:
                raise ConfigError(f"{name}: the first value must be below the second")

    def refusal(self, goal: FloatArray) -> str | None:
        """Why ``goal`` [3] (m, base frame) is not in the shell; None if it is."""
        if not np.all(np.isfinite(goal)):
            return "goal is not finite"
        offset = goal - np.asarray(self.center_m)
        # The turn of it that the range is given in: one behind the base goes beyond pi.
        first = self.azimuth_rad[0] - 1e-9
        azimuth = first + (math.atan2(offset[1], offset[0]) - first) % math.tau
        checks = (
            (
                "distance from the shoulder",
                float(np.linalg.norm(offset)),
                self.radius_m,
                "m",
            ),
            (
                "azimuth",
                azimuth,
                self.azimuth_rad,
                "rad",
            ),
            ("height", float(goal[2]), self.height_m, "m"),
        )
        for name, value, (low, high), unit in checks:
            if not low - 1e-9 <= value <= high + 1e-9:
                return f"goal out of reach: {name} {value:.3f} {unit} not in [{low}, {high}]"
        if np.hypot(offset[0], offset[1]) < self.axis_clearance_m - 1e-9:
            return f"goal out of reach: within {self.axis_clearance_m} m of the base axis"
        return None

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """Draw a goal [3] (m, base frame), uniform in volume, by rejection.

        Raises:
            ConfigError: none was found: the bounds hardly leave any.
        """
        center = np.asarray(self.center_m)
        for _ in range(_MOST_DRAWS):
            goal = center + rng.uniform(-self.radius_m[1], self.radius_m[1], 3)
            if self.refusal(goal) is None:
                return goal
        raise ConfigError(
            f"goals: of {_MOST_DRAWS} points within radius_m not one is within azimuth_rad and "
            "height_m and outside axis_clearance_m; widen them"
        )


@dataclass(frozen=True)
class Workspace:
    """A box, base frame, that guarded points (the tool, and an elbow if one is named) keep to."""

    min_m: tuple[float, float, float]
    max_m: tuple[float, float, float]

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.min_m, self.max_m, strict=True)):
            raise ConfigError("max_m: every value must be above that of min_m")


@dataclass(frozen=True)
class Obstacle:
    """A box (``size_m``: full edge lengths, turned by ``yaw_rad`` about z) or a sphere, base frame.

    Give either ``size_m`` or ``radius_m``.
    """

    name: str
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float] | None = None
    radius_m: float | None = None
    yaw_rad: float = 0.0

    def __post_init__(self) -> None:
        if (self.size_m is None) == (self.radius_m is None):
            raise ConfigError("size_m: give either size_m (a box) or radius_m (a sphere)")
        if self.size_m is not None and min(self.size_m) <= 0.0:
            raise ConfigError("size_m: must be positive")
        if self.radius_m is not None and self.radius_m <= 0.0:
            raise ConfigError("radius_m: must be positive")

    def distance_m(self, point: FloatArray) -> float:
        """Distance of ``point`` [3] (m, base frame) from it; 0 inside."""
        offset = point - np.asarray(self.center_m)
        if self.radius_m is not None:
            return max(float(np.linalg.norm(offset)) - self.radius_m, 0.0)
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, y, z = offset
        own = np.abs([cos * x + sin * y, cos * y - sin * x, z])
        return float(np.linalg.norm(np.maximum(own - np.asarray(self.size_m) / 2, 0.0)))


@dataclass(frozen=True)
class Surroundings:
    """What the safety filter keeps the arm away from, besides itself and the floor of its MJCF.

    ``never_touching``: pairs of bodies that no joint positions bring together although they come
    closer than any useful margin, as neighbours but one do. They are not watched.
    """

    workspace: Workspace | None = None
    obstacles: tuple[Obstacle, ...] = ()
    elbow_body: str | None = None
    never_touching: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [obstacle.name for obstacle in self.obstacles]
        if len(set(names)) != len(names):
            raise ConfigError("obstacles: names must be unique")


@dataclass(frozen=True)
class Topics:
    """Topic names as the robot's driver has them."""

    joint_states: str
    forward_position: str
    forward_velocity: str
    joint_trajectory: str

    def __post_init__(self) -> None:
        _check_topics(self)


@dataclass(frozen=True)
class Connection:
    """What joins a node to an arm's driver: what its controller takes, and the two topics."""

    command_interface: CommandInterface
    joint_states_topic: str
    command_topic: str

    def __post_init__(self) -> None:
        _check_topics(self)


def _check_topics(topics: Topics | Connection) -> None:
    """What ROS would refuse later, without saying which field gave it."""
    for field in dataclasses.fields(topics):
        name = getattr(topics, field.name)
        if not _TOPIC.fullmatch(name):
            raise ConfigError(
                f"{field.name}: '{name}' is no name of a topic: letters, digits and '_' between "
                "single slashes, no part beginning with a digit"
            )


@dataclass(frozen=True)
class RobotConfig:
    """Contract between an arm and everything that moves it; see config/robots/*.yaml."""

    schema: int
    name: str
    mjcf: Path
    base_frame: str
    tool_site: str
    control_rate_hz: float
    command_interface: CommandInterface
    position_margin_rad: float
    joints: tuple[JointConfig, ...]
    policy: PolicyMotion
    goals: Shell
    topics: Topics
    sources: tuple[str, ...]
    surroundings: Surroundings = Surroundings()

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ConfigError(f"schema: {self.schema} is unknown; this version reads 1")
        names = self.joint_names
        if not names or len(set(names)) != len(names):
            raise ConfigError("joints: must be non-empty, with unique names")
        if self.control_rate_hz <= 0.0:
            raise ConfigError("control_rate_hz: must be positive")
        ticks = self.policy.period_s * self.control_rate_hz
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6:
            raise ConfigError(
                f"policy.period_s: must be a whole number of control periods, 1 / control_rate_hz "
                f"= {1.0 / self.control_rate_hz:g} s"
            )
        room = min(high - low for low, high in (joint.position_rad for joint in self.joints))
        if not 0.0 <= self.position_margin_rad < room / 2:
            raise ConfigError(f"position_margin_rad: must lie in [0, {room / 2:g})")
        for i, joint in enumerate(self.joints):
            if self.policy.velocity_rad_s > joint.velocity_rad_s:
                raise ConfigError(f"policy.velocity_rad_s: exceeds joints[{i}].velocity_rad_s")
            if self.policy.acceleration_rad_s2 > joint.acceleration_rad_s2:
                raise ConfigError(
                    f"policy.acceleration_rad_s2: exceeds joints[{i}].acceleration_rad_s2"
                )

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in order."""
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def home_rad(self) -> FloatArray:
        """Home pose [n], rad."""
        return np.array([joint.home_rad for joint in self.joints])

    @cached_property
    def limits(self) -> ReferenceLimits:
        """What a command may never leave: hardware limits, positions less the margin."""
        margin = self.position_margin_rad
        return ReferenceLimits(
            np.array([joint.position_rad[0] + margin for joint in self.joints]),
            np.array([joint.position_rad[1] - margin for joint in self.joints]),
            np.array([joint.velocity_rad_s for joint in self.joints]),
            np.array([joint.acceleration_rad_s2 for joint in self.joints]),
        )

    def connection(
        self,
        command_interface: CommandInterface | Literal[""] = "",
        joint_states_topic: str = "",
        command_topic: str = "",
    ) -> Connection:
        """The arm's connection; what is empty is as this description says.

        Raises:
            ConfigError: what was given for a topic is no name of one.
        """
        interface = command_interface or self.command_interface
        return Connection(
            interface,
            joint_states_topic or self.topics.joint_states,
            command_topic or getattr(self.topics, interface),
        )

    @cached_property
    def mjcf_sha256(self) -> str:
        """Digest that binds policies to this arm's model."""
        return mjcf_sha256(self.mjcf)

    def goal_refusal(self, pose: FloatArray) -> str | None:
        """Why a goal [3] (m, base frame) is no place to send the arm to; None if it is one.

        Of [7], with a quaternion x, y, z, w, the orientation is judged as well. Of this description
        alone: what the arm meets on its way there is not judged.
        """
        goal = pose[:3]
        refusal = self.goals.refusal(goal)
        if refusal is not None:
            return refusal
        box = self.surroundings.workspace
        if box is not None and not np.all((goal >= box.min_m) & (goal <= box.max_m)):
            return f"goal out of the workspace {list(box.min_m)} to {list(box.max_m)} m"
        for obstacle in self.surroundings.obstacles:
            distance_m = obstacle.distance_m(goal)
            if distance_m == 0.0:
                return f"goal inside the obstacle '{obstacle.name}'"
            if distance_m < self.goals.obstacle_clearance_m:
                return (
                    f"goal {distance_m:.3f} m from the obstacle '{obstacle.name}', nearer than "
                    f"{self.goals.obstacle_clearance_m} m"
                )
        if len(pose) == 3:
            return None
        if self.goals.orientations is None:
            return f"'{self.name}' takes no orientation: its YAML has no goals.orientations"
        return self.goals.orientations.refusal(pose[3:].tolist())

    def sample_goal(self, rng: np.random.Generator) -> FloatArray:
        """Draw a goal [3] (m, base frame) that is not refused.

        Raises:
            ConfigError: none was found: the shell, or the obstacles in it, hardly leave any.
        """
        refusal: str | None = None
        for _ in range(_MOST_DRAWS):
            goal = self.goals.sample(rng)
            refusal = self.goal_refusal(goal)
            if refusal is None:
                return goal
        raise ConfigError(f"goals: {_MOST_DRAWS} were refused, the last one as: {refusal}")

    def sample_pose(self, rng: np.random.Generator) -> FloatArray:
        """Draw a goal [7] that is not refused: position and quaternion x, y, z, w, base frame.

        Raises:
            RobotConfigError: the YAML does not say which orientations goals may have.
        """
        if self.goals.orientations is None:
            raise RobotConfigError(f"goals.orientations: missing in the YAML of '{self.name}'")
        return np.concatenate([self.sample_goal(rng), self.goals.orientations.sample(rng)])

    def action_spec(self) -> ActionSpec:
        """The action that policies for this arm are trained with."""
        n = len(self.joints)
        return ActionSpec(
            joint_names=self.joint_names,
            scale_rad_s=(self.policy.velocity_rad_s,) * n,
            position_min_rad=tuple(map(float, self.limits.position_min)),
            position_max_rad=tuple(map(float, self.limits.position_max)),
            acceleration_rad_s2=(self.policy.acceleration_rad_s2,) * n,
            policy_period_s=self.policy.period_s,
            control_period_s=1.0 / self.control_rate_hz,
        )


def load_robot(name_or_path: str | Path) -> RobotConfig:
    """Read a robot by name (``ur5e``: config/robots/ur5e.yaml) or by the path of its YAML.

    A YAML that ``extends`` another, a shipped robot's name or a path relative to it, gives what is
    different: a field replaces that of the other; of a mapping such as ``goals`` or
    ``surroundings``, the keys that are given.

    Raises:
        RobotConfigError: names the file, the field and what was expected.
    """
    try:
        path = config_path("robot", "robots", name_or_path)
        data, folder, base = _read(path)
        with errors_in(path, base):
            robot = from_mapping(RobotConfig, data)
    except ConfigError as error:
        raise RobotConfigError(str(error)) from error
    mjcf = folder / robot.mjcf
    if not mjcf.is_file():
        raise RobotConfigError(f"{path}: mjcf: no such file: {robot.mjcf} (beside the YAML)")
    return dataclasses.replace(robot, mjcf=mjcf.resolve())


def _read(path: Path) -> tuple[dict[str, Any], Path, Path | None]:
    """What a robot's YAML says with what it ``extends``, the folder that ``mjcf`` is in, and that
    other file.
    """
    data, folder = load_yaml(path), path.parent
    parent = data.pop("extends", None)
    if parent is None:
        return data, folder, None
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: must be a robot's name or the path of its YAML")
    # A path is relative to this file; one from a name is absolute and stays as it is.
    parent_path = folder / config_path("robot", "robots", parent)
    base = load_yaml(parent_path)
    if "extends" in base:
        raise ConfigError(f"{path}: extends: {parent} extends another robot itself")
    if "mjcf" not in data:
        folder = parent_path.parent
    for name, value in data.items():
        inner = base.get(name)
        if isinstance(value, dict) and isinstance(inner, dict):
            base[name] = {**inner, **value}
        else:
            base[name] = value
    return base, folder, parent_path


def mjcf_sha256(path: Path) -> str:
    """SHA-256 over an MJCF file and, in order, every XML file that it includes; no meshes.

    Raises:
        RobotConfigError: one of them cannot be read.
    """
    return sha256(b"".join(_read_mjcf(path, path.parent, seen=set()))).hexdigest()


def _read_mjcf(path: Path, root: Path, seen: set[Path]) -> Iterator[bytes]:
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RobotConfigError(f"mjcf: {path} cannot be read ({error.strerror})") from error
    yield data
    # Not with a parser, which would cost a control node memory for one element.
    for _, name in _INCLUDE.findall(_COMMENT.sub(b"", data)):
        # As MuJoCo looks for it: first beside the whole model, then beside who includes it.
        beside = root / name.decode()
        inner = beside if beside.is_file() else path.parent / name.decode()
        yield from _read_mjcf(inner, root, seen)
