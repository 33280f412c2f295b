# SPDX-License-Identifier: Apache-2.0
"""Go or no-go, before an arm is activated: looks at the live topics and commands nothing.

    ros2 run smfp_control preflight --robot ur5e --policy ur5e_reach

The options are the arguments of hardware.launch.py. Prints a table with what to do on each line;
the exit status is 0 for go, 1 for no-go, 2 for options that cannot be used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

# Read by the numerical libraries when they are first imported; see process.py.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.duration import Infinite
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import (
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sensor_msgs.msg import JointState

from smfp_control.assembly import load_policy
from smfp_control.commands import COMMAND_QOS, command_type
from smfp_control.controller_watch import full_name
from smfp_control.parameters import ParameterError, PolicyNodeParameters
from smfp_control.polling import create_polled_subscription
from smfp_control.preflight_checks import (
    Controller,
    Endpoint,
    Observed,
    Row,
    check_policy,
    check_states,
)
from smfp_control.preflight_commands import check_commands, takers_of
from smfp_control.preflight_node import NODE_PARAMETERS, check_node
from smfp_control.process import init_ros, interruptible, node_beside_arm, own_arguments
from smfp_core.atomic import writable, write_atomically
from smfp_core.policy_file import PolicyFileError
from smfp_core.robot import CommandInterface, Connection, RobotConfig, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.arm import ArmModel

# As the policy node subscribes, but for the depth: nothing may be lost while this process sleeps.
_STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT
)
_POLL_S = 0.02
# Endpoints are matched before the names of their nodes are known.
_SETTLE_S = 1.0
# Fast DDS announces a participant every 3 s; one whose first announcements were lost, and with it
# a stranger who commands the arm, is seen no sooner.
_DISCOVERY_S = 4.0
_ANSWER_S = 3.0
_POLICY_NODE = "policy_node"
_STYLE = {"go": "green", "note": "yellow", "no-go": "bold red"}


class Observer:
    """Watches the topics of one arm through a node of its own.

    Args:
        robot: gives the topics of all its controllers.
        namespace: of the policy node; empty: that of the ROS arguments, or the root.
        checked: names the topics, and the interface of the controller that is to take the commands.

    Raises:
        ConfigError: ``namespace`` is not that of the ROS arguments, which name one too.
    """

    def __init__(self, robot: RobotConfig, namespace: str, checked: Mapping[str, Any]) -> None:
        self._node = node_beside_arm("preflight", namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        resolve = self._node.resolve_topic_name
        self._states_topic = resolve(checked["joint_states_topic"])
        self._command_topic = resolve(checked["command_topic"])
        self._all_command_topics = {
            self._command_topic,
            *(resolve(getattr(robot.topics, name)) for name in get_args(CommandInterface)),
        }
        self._message_type = command_type(checked["command_interface"])
        self._subscription, _ = create_polled_subscription(
            self._node, JointState, self._states_topic, _STATE_QOS
        )
        self._states: list[tuple[int, JointState]] = []
        self._polled_ns = time.time_ns()
        self._known_s = time.monotonic() + _DISCOVERY_S

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def observe(self, wait_s: float, duration_s: float) -> Observed:
        """Wait up to ``wait_s`` for both topics, then watch for ``duration_s``."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not (
            self._states and self._node.count_subscribers(self._command_topic)
        ):
            self._poll()
        self._watch(max(_SETTLE_S, self._known_s - time.monotonic()))
        # What waited in queues while endpoints were matched says nothing about rates and gaps.
        self._states.clear()
        began_ns = time.time_ns()
        self._watch(duration_s)
        ended_ns = self._polled_ns
        subscribers = [
            _endpoint(end, _stated(COMMAND_QOS), end.qos_profile)
            for end in self._node.get_subscriptions_info_by_topic(self._command_topic)
        ]
        takers = takers_of(subscribers, self._type_name())
        return Observed(
            joint_states_topic=self._states_topic,
            command_topic=self._command_topic,
            command_type=self._type_name(),
            states=self._states,
            watched_ns=(began_ns, ended_ns),
            state_publishers=[
                _endpoint(end, end.qos_profile, _stated(_STATE_QOS))
                for end in self._node.get_publishers_info_by_topic(self._states_topic)
            ],
            command_subscribers=subscribers,
            foreign_publishers=self._foreign_publishers(),
            controller=self._controller(takers[0].node) if len(takers) == 1 else None,
            policy_node=self._policy_node(),
        )

    def _type_name(self) -> str:
        package = self._message_type.__module__.split(".")[0]
        return f"{package}/msg/{self._message_type.__name__}"

    def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._poll()

    def _poll(self) -> None:
        # The middleware notes when a message came, so that sleeping here blurs no times.
        time.sleep(_POLL_S)
        self._polled_ns = time.time_ns()
        while (taken := self._subscription.handle.take_message(JointState, False)) is not None:
            message, info = taken
            self._states.append((info["received_timestamp"], message))

    def _foreign_publishers(self) -> list[tuple[str, str]]:
        own = f"{self._node.get_namespace().rstrip('/')}/{_POLICY_NODE}"
        found = []
        for topic in sorted(self._all_command_topics):
            names = [full_name(end) for end in self._node.get_publishers_info_by_topic(topic)]
            # A policy node that is configured already is no stranger; a second one is.
            if topic == self._command_topic and own in names:
                names.remove(own)
            found += [(topic, name) for name in names]
        return found

    def _controller(self, name: str) -> Controller:
        # One by one: a node that lacks one of several tells none, and a trajectory controller has
        # no interface_name.
        values = {**self._ask(name, ("joints",)), **self._ask(name, ("interface_name",))}
        return Controller(tuple(values.get("joints") or ()), values.get("interface_name") or "")

    def _policy_node(self) -> dict[str, Any] | None:
        namespace = self._node.get_namespace()
        if (_POLICY_NODE, namespace) not in self._node.get_node_names_and_namespaces():
            return None
        return self._ask(f"{namespace.rstrip('/')}/{_POLICY_NODE}", NODE_PARAMETERS)

    def _ask(self, name: str, parameters: Sequence[str]) -> dict[str, Any]:
        """Parameters of a node; nothing if it does not answer, or lacks one of them."""
        client = self._node.create_client(GetParameters, f"{name}/get_parameters")
        deadline = time.monotonic() + _ANSWER_S
        while not client.service_is_ready() and time.monotonic() < deadline:
            self._executor.spin_once(_POLL_S)
        if not client.service_is_ready():
            return {}
        future = client.call_async(GetParameters.Request(names=list(parameters)))
        while not future.done() and time.monotonic() < deadline:
            self._executor.spin_once(_POLL_S)
        # A node without one of them answers with an empty list, or with "not set".
        values = future.result().values if future.done() else []
        if len(values) != len(parameters):
            return {}
        return dict(zip(parameters, map(parameter_value_to_python, values), strict=True))


def _endpoint(end: TopicEndpointInfo, publisher: QoSProfile, subscriber: QoSProfile) -> Endpoint:
    compatibility, reason = qos_check_compatible(publisher, subscriber)
    wrong = compatibility == QoSCompatibility.ERROR
    text = reason.replace("ERROR: ", "").strip("; ") if wrong else ""
    return Endpoint(full_name(end), end.topic_type, text)


def _stated(qos: QoSProfile) -> QoSProfile:
    # The graph names no unset durations; a comparison would take unset for shorter than infinite.
    return QoSProfile(
        history=qos.history,
        depth=qos.depth,
        reliability=qos.reliability,
        durability=qos.durability,
        deadline=Infinite,
        liveliness_lease_duration=Infinite,
    )


def inspect(options: argparse.Namespace) -> list[Row]:
    """All rows of the table.

    Raises:
        ConfigError: the robot's YAML or MJCF cannot be used.
    """
    described = load_robot(options.robot)
    checked = _in_effect(
        described,
        {
            "robot": options.robot,
            "policy_path": options.policy or f"{described.name}_reach",
            "command_interface": options.command_interface,
            "joint_states_topic": options.joint_states_topic,
            "command_topic": options.command_topic,
            "control_rate_hz": options.rate,
            "state_timeout_s": options.state_timeout,
        },
    )
    robot = dataclasses.replace(described, control_rate_hz=checked["control_rate_hz"])
    ArmModel(robot)
    policy, row = check_policy(
        lambda: load_policy(checked["policy_path"], robot),
        (PolicyFileError, ParameterError),
    )
    observer = Observer(robot, options.namespace, checked)
    try:
        observed = observer.observe(options.wait, options.duration)
    finally:
        observer.close()
    return [
        row,
        *check_states(robot, observed, policy, options.state_timeout),
        *check_commands(robot, observed, checked["command_interface"]),
        check_node(checked, observed.policy_node and _in_effect(described, observed.policy_node)),
    ]


def _in_effect(robot: RobotConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with what the node takes for those that are empty, or 0."""
    names = (field.name for field in dataclasses.fields(Connection))
    connection = robot.connection(**{name: parameters[name] for name in names})
    return {
        **parameters,
        **dataclasses.asdict(connection),
        "control_rate_hz": parameters["control_rate_hz"] or robot.control_rate_hz,
    }


def report(options: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """What ``--json`` writes."""
    go = all(row.verdict != "no-go" for row in rows)
    return {
        "verdict": "go" if go else "no-go",
        "robot": options.robot,
        "policy": options.policy,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def table(result: dict[str, Any]) -> Table:
    """The same for people."""
    verdict = result["verdict"]
    table = Table(
        title=f"preflight of {escape(result['robot'])}: "
        f"[{_STYLE[verdict]}]{verdict.upper()}[/{_STYLE[verdict]}]"
    )
    for name in ("check", "verdict", "found", "what to do"):
        table.add_column(name, no_wrap=name in ("check", "verdict"))
    for row in result["rows"]:
        style = _STYLE[row["verdict"]]
        table.add_row(
            row["check"],
            f"[{style}]{row['verdict']}[/{style}]",
            escape(row["found"]),
            escape(row["advice"]),
        )
    return table


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 3600.0:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 3600, got {text}")
    return value


def _arguments(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="preflight",
        description="Check an arm's live topics before it is activated. Sends no command.",
    )
    parser.add_argument("--robot", default="ur5e", help="name in config/robots, or a YAML file")
    parser.add_argument(
        "--policy", default="", help="name in config/policies, or an .onnx file (ROBOT_reach)"
    )
    parser.add_argument(
        "--command-interface", default="", choices=["", *get_args(CommandInterface)]
    )
    parser.add_argument("--joint-states-topic", default="")
    parser.add_argument("--command-topic", default="")
    parser.add_argument("--namespace", default="", help="of the policy node")
    parser.add_argument("--rate", type=float, default=0.0, help="control rate, Hz; 0: the robot's")
    parser.add_argument(
        "--state-timeout",
        type=_positive,
        default=PolicyNodeParameters().state_timeout_s,
        metavar="S",
        help="the node's state_timeout_s (default %(default)s)",
    )
    parser.add_argument(
        "--wait", type=_positive, default=10.0, metavar="S", help="for the topics (%(default)s)"
    )
    parser.add_argument(
        "--duration", type=_positive, default=3.0, metavar="S", help="of watching (%(default)s)"
    )
    parser.add_argument("--json", type=writable(), help="also write the result to this file")
    options = parser.parse_args(args)
    if not 0.0 <= options.rate <= 2000.0:
        parser.error(f"--rate: must lie between 0 and 2000, got {options.rate:g}")
    return options


def main(args: list[str] | None = None) -> int:
    """Entry point of ``ros2 run smfp_control preflight``."""
    given = sys.argv[1:] if args is None else args
    # A pipe has no width of its own; rows must not be cut to that of a small terminal.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    try:
        options = _arguments(own_arguments(given))
        with interruptible():
            init_ros(given)
            result = report(options, inspect(options))
        if options.json is not None:
            write_atomically(options.json, json.dumps(result, indent=2) + "\n")
    except KeyboardInterrupt:
        return 130
    except (ConfigError, OSError) as error:
        print(f"preflight: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    console.print(table(result))
    return 0 if result["verdict"] == "go" else 1


if __name__ == "__main__":
    sys.exit(main())
