# SPDX-License-Identifier: Apache-2.0
"""What the launch files share. They alone import this: it needs ROS 2's launch_ros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from smfp_control.parameter_file import refuse_contradictions

PACKAGE = "smfp_control"


def end_launch(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """Nothing runs on without a node; during a shutdown, another one would be an error."""
    reason = f"{event.process_name} ended"
    return [] if context.is_shutdown else [Shutdown(reason=reason)]


def typed(argument: str, value_type: type) -> ParameterValue:
    """The value of a launch argument as a parameter: text that looks like a number stays text."""
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)


def common_arguments(config: str, autostart: bool) -> list[DeclareLaunchArgument]:
    """Arguments of every launch file; ``config`` names the default in config/control."""
    return [
        DeclareLaunchArgument(
            "robot", default_value="ur5e", description="Name in config/robots, or a YAML file"
        ),
        DeclareLaunchArgument(
            "policy",
            default_value=[LaunchConfiguration("robot"), "_reach"],
            description="Name in config/policies, or an .onnx file",
        ),
        DeclareLaunchArgument(
            "config",
            default_value=PathJoinSubstitution(
                [FindPackageShare(PACKAGE), "config", "control", config]
            ),
            description="Parameters of what is started; must not contradict the arguments",
        ),
        DeclareLaunchArgument(
            "rate",
            default_value="0.0",
            description="Control rate in Hz; 0: as the robot description says",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Of what is started"),
        DeclareLaunchArgument(
            "autostart",
            default_value=str(autostart).lower(),
            choices=["true", "false"],
            description="Bring the policy node to active unasked; leave it off on hardware",
        ),
        DeclareLaunchArgument(
            "markers",
            default_value="false",
            choices=["true", "false"],
            description="Publish goal and predicted path for RViz and Foxglove",
        ),
    ]


def described(executable: str) -> dict[str, Any]:
    """What all nodes are described with."""
    namespace = LaunchConfiguration("namespace")
    return {
        "package": PACKAGE,
        "executable": executable,
        "name": executable,
        "namespace": namespace,
        "output": "screen",
    }


def node_with_file(
    kind: type[Node],
    executable: str,
    arguments: Mapping[str, tuple[str, type]],
    fixed: Mapping[str, bool],
    asked_for: str = "",
) -> tuple[Action, Action]:
    """The check of the file of parameters, and a node with that file, whose end ends the launch.

    Args:
        kind: of node.
        executable: its name.
        arguments: by parameter, the launch argument that gives it, and its type. They go before
            the file, also where they are left out: a file that says otherwise ends the launch.
        fixed: parameters that no argument changes; nor may the file say otherwise.
        asked_for: the launch argument that asks for the node, if it is not always there. Then its
            end ends nothing else.
    """
    values = {name: typed(*argument) for name, argument in arguments.items()}
    condition = IfCondition(LaunchConfiguration(asked_for)) if asked_for else None

    def check(context: LaunchContext) -> None:
        file, namespace = (LaunchConfiguration(x).perform(context) for x in ("config", "namespace"))
        given = {
            name: (argument, values[name].evaluate(context))
            for name, (argument, _) in arguments.items()
        } | {name: ("", value) for name, value in fixed.items()}
        node = "/".join(["", *filter(None, namespace.split("/")), executable])
        refuse_contradictions(file, node, given)

    return (
        OpaqueFunction(function=check, condition=condition),
        kind(
            **described(executable),
            condition=condition,
            parameters=[LaunchConfiguration("config"), {**values, **fixed}],
            on_exit=None if asked_for else end_launch,
        ),
    )


def checked_first(*nodes: tuple[Action, Action]) -> list[Action]:
    """All checks before the first node: a launch that ends by an error leaves nodes running."""
    return [*(check for check, _ in nodes), *(node for _, node in nodes)]


def policy_node(*text_arguments: str, **fixed: bool) -> tuple[Action, Action]:
    """The policy node.

    Args:
        text_arguments: further arguments of the same names as its parameters, all text.
        fixed: as of ``node_with_file``.
    """
    arguments = {
        "robot": ("robot", str),
        "policy_path": ("policy", str),
        "control_rate_hz": ("rate", float),
        "autostart": ("autostart", bool),
        **{name: (name, str) for name in text_arguments},
    }
    return node_with_file(LifecycleNode, "policy_node", arguments, fixed)


def markers_node(*text_arguments: str, **fixed: bool) -> tuple[Action, Action]:
    """The node that RViz and Foxglove listen to, where asked for; arguments as of the other."""
    arguments = {
        "robot": ("robot", str),
        "policy_path": ("policy", str),
        "control_rate_hz": ("rate", float),
        **{name: (name, str) for name in text_arguments},
    }
    return node_with_file(Node, "markers_node", arguments, fixed, "markers")
