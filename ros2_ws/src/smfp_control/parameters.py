# SPDX-License-Identifier: Apache-2.0
"""The nodes' parameters, each defined once: type, default, range, unit, meaning.

A node's parameters are the fields of a frozen dataclass. ``declare`` turns them into ROS
parameters with descriptors, ``read`` turns the node's values into an instance.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from smfp_core.robot import Connection, RobotConfig

T = TypeVar("T")
_TYPES = {
    float: Parameter.Type.DOUBLE,
    int: Parameter.Type.INTEGER,
    bool: Parameter.Type.BOOL,
    str: Parameter.Type.STRING,
}
_KINDS = {
    Parameter.Type.DOUBLE: "a double: write it with a decimal point",
    Parameter.Type.INTEGER: "an integer",
    Parameter.Type.BOOL: "true or false",
    Parameter.Type.STRING: "text: quote what could be a number, on a command line as '\"1\"'",
}


class ParameterError(ValueError):
    """A parameter's value cannot be used; the text starts with its name."""


ReadAt = Literal["start", "configure", "change"]


def _parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    read_at: ReadAt | None = None,
) -> Any:
    metadata = {
        "description": description,
        "unit": unit,
        "low": low,
        "high": high,
        "read_at": read_at,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RobotParameters:
    """Parameters of both nodes: which arm, and how it is connected."""

    robot: str = _parameter(
        "ur5e", "Robot description: the name of one in config/robots, or the path of a YAML file"
    )
    command_interface: Literal["", "forward_position", "forward_velocity", "joint_trajectory"] = (
        _parameter("", "What the controller takes; empty: as the robot description says")
    )
    joint_states_topic: str = _parameter(
        "", "Topic of the joint states; empty: as the robot description says"
    )
    command_topic: str = _parameter(
        "", "Topic of the commands; empty: as the robot description says for the interface"
    )

    def connection(self, robot: RobotConfig) -> Connection:
        """How to reach the arm: what is set, else what its description says."""
        return robot.connection(self.command_interface, self.joint_states_topic, self.command_topic)


@dataclass(frozen=True)
class PolicyNodeParameters(RobotParameters):
    """Parameters of ``policy_node``, read at configure unless one says otherwise."""

    READ_AT: ClassVar[ReadAt] = "configure"

    policy_path: str = _parameter(
        "",
        "Policy file: the name of one in config/policies, or the path of an .onnx file. Set while "
        "configured, it swaps the policy, or is refused and changes nothing",
        read_at="change",
    )
    autostart: bool = _parameter(
        False,
        "Configure and activate without being asked; for simulation, not for hardware",
        read_at="start",
    )
    control_rate_hz: float = _parameter(
        0.0,
        "Rate of commands; 0: as the robot description says. The policy must have been trained "
        "for it",
        unit="Hz",
        low=0.0,
        high=2000.0,
    )
    noise_scale: float = _parameter(
        0.0,
        "Share of random noise in the policy's input; 0: deterministic, 1: the full distribution",
        low=0.0,
        high=1.0,
    )
    noise_redraw: Literal["tick", "goal", "never"] = _parameter(
        "goal", "When random noise is drawn anew: each policy period, each goal, or never"
    )
    seed: int = _parameter(0, "Seed of the random noise", low=0, high=2**31 - 1)
    state_timeout_s: float = _parameter(
        0.05,
        "Age of the newest joint state that stops the arm, from when the control thread took it, "
        "on the steady clock; as long a time without a command does, too. 50 ms is 25 periods at "
        "500 Hz: far above a driver's jitter, and 6 cm of motion at 1.2 m/s",
        unit="s",
        low=0.005,
        high=1.0,
    )
    state_delay_limit_s: float = _parameter(
        0.2,
        "How much later than the promptest one since activation a joint state may come, by its "
        "stamp; 0: any. The clocks need not agree. Turn it off where stamps run at another speed "
        "than the steady clock: a simulation's that is not in real time",
        unit="s",
        low=0.0,
        high=10.0,
    )
    blend_ratio: float = _parameter(
        0.1,
        "Part of the policy's speed at which motion begins after activation or a reset; "
        "1: all of it at once",
        low=0.01,
        high=1.0,
    )
    blend_time_s: float = _parameter(
        0.5, "Time of motion over which that rises to all of it", unit="s", low=0.0, high=60.0
    )
    activation_timeout_s: float = _parameter(
        3.0, "How long activation waits for a joint state", unit="s", low=0.0, high=60.0
    )
    velocity_tolerance: float = _parameter(
        0.1, "Part by which a measured velocity may exceed its limit", low=0.0, high=1.0
    )
    tracking_error_rad: float = _parameter(
        0.3,
        "Distance between commanded and measured position that stops the arm",
        unit="rad",
        low=0.01,
        high=3.2,
    )
    tool_speed_limit_m_s: float = _parameter(
        0.25,
        "Greatest speed of the tool, and of the elbow where the robot names one; 0: no limit. "
        "The default is the reduced speed of ISO 10218-1, for people nearby",
        unit="m/s",
        low=0.0,
        high=10.0,
    )
    collision_check: bool = _parameter(
        True,
        "Refuse commands from which the arm could not brake clear of itself, the floor and the "
        "obstacles of the robot description",
    )
    collision_margin_m: float = _parameter(
        0.01,
        "Clearance that collision_check keeps between the robot's collision geometry and what is "
        "around it",
        unit="m",
        low=0.001,
        high=0.2,
    )
    jerk_limit_rad_s3: float = _parameter(
        0.0,
        "Greatest jerk of each joint's command; 0: no limit. Stops for safety exceed it: after a "
        "fault, before the end of a joint's range and before anything in the way",
        unit="rad/s^3",
        low=0.0,
        high=100000.0,
    )
    velocity_position_gain: float = _parameter(
        2.0,
        "Under forward_velocity, the part of the distance between reference and measured position "
        "that is made up for per second, by at most a tenth of the velocity limit and of "
        "tool_speed_limit_m_s, which it takes its share of; 0: none",
        unit="1/s",
        low=0.0,
        high=10.0,
    )
    state_jump_rad: float = _parameter(
        0.05,
        "What two successive positions may differ by beyond motion at the velocity limit",
        unit="rad",
        low=0.001,
        high=1.0,
    )
    overrun: Literal["skip", "catch_up_once"] = _parameter(
        "skip",
        "What follows a missed deadline. skip: the next tick comes at the next deadline; "
        "catch_up_once: one tick comes at once, however many were missed. Either way, more than "
        "deadline_miss_limit of them within deadline_window_s are a fault",
    )
    deadline_miss_limit: int = _parameter(
        50,
        "Missed deadlines within deadline_window_s that are borne; one more latches the fault "
        "missed_deadlines and stops the arm. 0: the first one does",
        low=0,
        high=100000,
    )
    deadline_window_s: float = _parameter(
        1.0,
        "Window, ending now, in which missed deadlines are counted",
        unit="s",
        low=0.1,
        high=60.0,
    )
    lockstep: bool = _parameter(
        False,
        "Tick once for each new joint state, however fast they come, instead of at the control "
        "rate: for a sim_node with the same parameter, never for hardware",
    )
    scheduler_priority: int = _parameter(
        0, "SCHED_FIFO priority of the control thread; 0: normal scheduling", low=0, high=99
    )
    cpu_affinity: str = _parameter(
        "", "Processors of the control thread, separated by commas; empty: any"
    )
    lock_memory: bool = _parameter(False, "Keep the process's memory from being paged out")
    realtime_required: bool = _parameter(
        False, "Refuse to activate where the system forbids one of these; else warn and go on"
    )
    status_rate_hz: float = _parameter(
        10.0, "Rate of ~/status, which is also sent on change", unit="Hz", low=1.0, high=100.0
    )


@dataclass(frozen=True)
class SimNodeParameters(RobotParameters):
    """Parameters of ``sim_node``; all are read at start."""

    READ_AT: ClassVar[ReadAt] = "start"

    publish_rate_hz: float = _parameter(
        0.0,
        "Rate of joint states; 0: the robot's control rate",
        unit="Hz",
        low=0.0,
        high=2000.0,
    )
    physics_rate_hz: float = _parameter(
        0.0,
        "Rate of physics steps, a multiple of the publish rate; 0: the timestep of the MJCF",
        unit="Hz",
        low=0.0,
        high=100000.0,
    )
    real_time_factor: float = _parameter(
        1.0, "Simulated seconds per second of the clock", low=0.01, high=100.0
    )
    start_pose: str = _parameter(
        "home",
        "Pose at start and after ~/reset: 'home', 'random' (within the robot's start range and "
        "clear of everything), or "
        "joint positions in rad in the robot's order, separated by commas",
    )
    seed: int = _parameter(
        0, "Seed of random starts, and of what is random in the plant", low=0, high=2**31 - 1
    )
    plant: str = _parameter(
        "ideal",
        "How far the robot is from the ideal one: the name of a plant in config/plants, or the "
        "path of a YAML file",
    )
    randomization: str = _parameter(
        "",
        "How the robot differs from one reset to the next, in place of a plant: the name of a file "
        "in config/randomization, or the path of one. Empty: it does not",
    )
    lockstep: bool = _parameter(
        False,
        "Wait for the command that answers a joint state before the next step, and step as fast "
        "as commands come; the policy node needs the same parameter. Joint states are stamped "
        "with the number of their tick times the period",
    )
    publish_clock: bool = _parameter(
        False, "Publish simulated time on /clock, and stamp joint states with it"
    )


@dataclass(frozen=True)
class Row:
    """One parameter as ROS knows it, and when the node reads it.

    What is read at start is read-only. What is read at configure may be set until then.
    """

    name: str
    type: Parameter.Type
    default: Any
    descriptor: ParameterDescriptor
    choices: tuple[str, ...]
    unit: str
    read_at: ReadAt

    def refusal(self, value: Any) -> str | None:
        """Why ``value``, of the right type, cannot be used; None if it can."""
        if self.choices and value not in self.choices:
            return f"{self.name}: must be one of {list(self.choices)}, got '{value}'"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name}: must be finite, got {value}"
        return None


def describe(cls: type) -> list[Row]:
    """Each parameter of the dataclass ``cls``, in order. Its ``READ_AT`` is when they are read."""
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        hint, meta = hints[field.name], field.metadata
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        kind = _TYPES[str if choices else hint]
        read_at = meta["read_at"] or cls.READ_AT  # type: ignore[attr-defined]
        descriptor = ParameterDescriptor(
            read_only=read_at == "start",
            description=meta["description"] + (f" [{meta['unit']}]" if meta["unit"] else ""),
            additional_constraints=(
                "one of: " + ", ".join(f"'{choice}'" for choice in choices) if choices else ""
            ),
        )
        low, high = meta["low"], meta["high"]
        if low is not None and kind is Parameter.Type.DOUBLE:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
        elif low is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(low), to_value=int(high), step=1)
            ]
        rows.append(
            Row(field.name, kind, field.default, descriptor, choices, meta["unit"], read_at)
        )
    return rows


def help_text(cls: type, usage: str) -> str:
    """What ``--help`` prints: ``usage``, then every parameter with its type, default and range."""
    lines = [
        usage.strip(),
        "",
        "Parameters (--ros-args -p NAME:=VALUE, or --params-file FILE):",
        "",
    ]
    for row in describe(cls):
        ranges = [*row.descriptor.floating_point_range, *row.descriptor.integer_range]
        bounds = [f"from {r.from_value:g} to {r.to_value:g}" for r in ranges]
        facts = [row.type.name.lower(), f"default {row.default!r}", *bounds]
        if row.choices:
            facts.append(row.descriptor.additional_constraints)
        lines.append(f"  {row.name} ({', '.join(facts)})")
        lines += textwrap.wrap(
            row.descriptor.description, 90, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


class DeclaredParameters(Generic[T]):
    """The parameters of dataclass ``cls`` on ``node``.

    A value given at start that has the wrong type or lies out of range does not end the process:
    the parameter takes its default, and ``read`` refuses with the reason until it is set anew.

    Args:
        node: declares them.
        cls: the dataclass of parameters.
        frozen: why a parameter may not take this value now; None if it may.
        changed: told the names of parameters that were set.
    """

    def __init__(
        self,
        node: Node,
        cls: type[T],
        frozen: Callable[[str, Any], str | None] = lambda name, value: None,
        changed: Callable[[list[str]], None] = lambda names: None,
    ) -> None:
        self._node, self._cls, self._frozen, self._changed = node, cls, frozen, changed
        self._rows = {row.name: row for row in describe(cls)}
        self._problems: dict[str, str] = {}
        for row in self._rows.values():
            try:
                node.declare_parameter(row.name, row.default, row.descriptor)
                continue
            except InvalidParameterTypeException:
                self._problems[row.name] = f"{row.name}: expected {_KINDS[row.type]}"
            except InvalidParameterValueException as error:
                self._problems[row.name] = f"{row.name}: {error}"
            node.declare_parameter(row.name, row.default, row.descriptor, ignore_override=True)
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(self._on_set)

    def read(self) -> T:
        """The values now.

        Raises:
            ParameterError: names the parameter that cannot be used, and why.
        """
        if self._problems:
            raise ParameterError("; ".join(self._problems.values()))
        values: dict[str, Any] = {}
        for name, row in self._rows.items():
            value = self._node.get_parameter(name).value
            problem = row.refusal(value)
            if problem is not None:
                raise ParameterError(problem)
            values[name] = value
        return self._cls(**values)

    def unknown(self) -> list[str]:
        """What was given at start for names that the node does not have, each with a hint."""
        # rclpy keeps these to itself, and silently: a misspelt name would go unnoticed.
        given = getattr(self._node, "_parameter_overrides", {})
        texts = []
        for name in given:
            if self._node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            close = difflib.get_close_matches(name, self._rows, n=1)
            texts.append(f"{name}: unknown" + (f"; did you mean '{close[0]}'?" if close else ""))
        return texts

    def _judge(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            row = self._rows.get(parameter.name)
            if row is None:
                continue
            problem = row.refusal(parameter.value) or self._frozen(row.name, parameter.value)
            if problem is not None:
                return SetParametersResult(successful=False, reason=problem)
        return SetParametersResult(successful=True)

    def _on_set(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            self._problems.pop(parameter.name, None)
        self._changed([parameter.name for parameter in parameters])
