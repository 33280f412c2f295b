# SPDX-License-Identifier: Apache-2.0
"""What has to hold of an arm's command topics before it is activated. No ROS in here."""

from __future__ import annotations

from collections.abc import Sequence

from smfp_control.controller_watch import is_onlooker
from smfp_control.preflight_checks import Controller, Endpoint, Observed, Row, check_qos
from smfp_core.robot import CommandInterface, RobotConfig

# What a forward controller drives; a trajectory controller tells nothing alike.
_FORWARD = {"forward_position": "position", "forward_velocity": "velocity"}


def takers_of(subscribers: Sequence[Endpoint], command_type: str) -> list[Endpoint]:
    """Of the subscribers of a command topic those that may move an arm by what the node sends."""
    return [end for end in subscribers if end.type == command_type and not is_onlooker(end.node)]


def check_commands(
    robot: RobotConfig, observed: Observed, interface: CommandInterface
) -> list[Row]:
    """Who takes the commands, in what order and with what QoS, and who else sends some."""
    takers = takers_of(observed.command_subscribers, observed.command_type)
    rows = [_subscriber(observed, takers)]
    if takers:
        rows.append(check_qos("command QoS", takers))
    if len(takers) == 1:
        rows.append(_controller(robot, observed.controller, interface, takers[0].node))
    rows.append(_foreign(observed))
    return rows


def _subscriber(observed: Observed, takers: Sequence[Endpoint]) -> Row:
    check, topic = "command topic", observed.command_topic
    everyone = [end for end in observed.command_subscribers if not is_onlooker(end.node)]
    names = ", ".join(end.node for end in everyone)
    looking = [end.node for end in observed.command_subscribers if is_onlooker(end.node)]
    if not everyone:
        return Row(
            check,
            "no-go",
            f"nobody subscribes to {topic}" + (f" but {', '.join(looking)}" if looking else ""),
            "load and activate the controller: ros2 control list_controllers",
        )
    if not takers:
        return Row(
            check,
            "no-go",
            f"{names} takes {everyone[0].type} on {topic}, the node sends {observed.command_type}",
            "--command-interface and --command-topic do not belong together",
        )
    if len(everyone) > 1:
        return Row(
            check,
            "no-go",
            f"{len(everyone)} subscribe to {topic}: {names}",
            "one controller alone may take the commands; end what else listens to them",
        )
    return Row(check, "go", f"{topic} is taken by {names}")


def _controller(
    robot: RobotConfig, controller: Controller | None, interface: CommandInterface, node: str
) -> Row:
    check = "controller"
    joints = "" if controller is None else ", ".join(controller.joints)
    wanted = _FORWARD.get(interface, "")
    if controller is None or not joints:
        # A forward controller always has them, and another order of them moves other joints.
        return Row(
            check,
            "no-go" if wanted else "note",
            f"{node} does not tell its joints",
            "is it a controller of ros2_control? Its parameter 'joints' must be "
            + ", ".join(robot.joint_names),
        )
    if wanted and controller.interface not in ("", wanted):
        return Row(
            check,
            "no-go",
            f"{node} drives the {controller.interface} interface, not {wanted}",
            "give --command-interface and --command-topic of one controller",
        )
    # Values of a forward controller go by place, those of a trajectory by name.
    same = controller.joints == robot.joint_names
    if not same and (wanted or set(controller.joints) != set(robot.joint_names)):
        return Row(
            check,
            "no-go",
            f"{node} takes {joints}",
            f"its parameter 'joints' must be {', '.join(robot.joint_names)}, in this order: "
            "another joint would move",
        )
    return Row(
        check,
        "note",
        f"{node} takes the robot's joints{' in their order' if same else ''}",
        "topics do not show whether it is active: ros2 control list_controllers",
    )


def _foreign(observed: Observed) -> Row:
    if observed.foreign_publishers:
        texts = [f"{node} on {topic}" for topic, node in observed.foreign_publishers]
        return Row(
            "other commands", "no-go", "also publish: " + ", ".join(texts), "end those nodes"
        )
    return Row("other commands", "go", "nobody else publishes to the arm's command topics")
