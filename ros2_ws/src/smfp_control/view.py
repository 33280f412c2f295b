# SPDX-License-Identifier: Apache-2.0
"""The live page: an arm, its goal and its state in a browser on this computer.

    ros2 run smfp_control view --robot ur5e
    ros2 run smfp_control view --robot ur5e --ros-args -r __ns:=/left

It reads topics, so it attaches to a real arm as to a simulated one. Attaching changes nothing: a
goal is sent when somebody drags the handle and lets go, and only if the robot's YAML says that it
can be reached. The page is open to this computer alone, and ends with this command.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import argparse
import os
import sys
import threading
from typing import get_args

import numpy as np
import rclpy

from smfp_control.process import init_ros, own_arguments, stop_on_signals
from smfp_core.robot import CommandInterface, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.arm import ArmModel, Kinematics

DEFAULT_PORT = 8080
ADDRESS = "live page: "
_FRAME_S = 0.04
# The page gives way to the control loop wherever they share a core.
_NICENESS = 10


def _arguments(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ros2 run smfp_control view",
        description="Show an arm in a browser on this computer, and drag its goal.",
    )
    parser.add_argument("--robot", default="ur5e", help="name in config/robots, or a YAML file")
    parser.add_argument(
        "--namespace", default="", help="of the policy node; ROS arguments may give it instead"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help=f"of the page (default {DEFAULT_PORT}); the next free one is taken if it is in use",
    )
    parser.add_argument(
        "--command-interface",
        default="",
        choices=["", *get_args(CommandInterface)],
        help="what the controller takes; default: as the robot description says",
    )
    parser.add_argument("--joint-states-topic", default="")
    parser.add_argument("--command-topic", default="")
    parser.add_argument(
        "--locked", action="store_true", help="show the goal, but do not let it be dragged"
    )
    parsed = parser.parse_args(own_arguments(args))
    if not 1 <= parsed.port <= 65535:
        parser.error("--port: must lie in [1, 65535]")
    return parsed


def _run(options: argparse.Namespace, stop: threading.Event) -> None:
    # Here, so that a computer without viser gets a word on it and --help.
    from smfp_control.page.local_server import LocalServer
    from smfp_control.page.panel import Panel
    from smfp_control.page.robot_client import RobotClient
    from smfp_control.page.scene import ArmView, GoalHandle, apart, furnish

    robot = load_robot(options.robot)
    arm = ArmModel(robot)
    kinematics = Kinematics(arm)
    client = RobotClient(
        robot,
        options.namespace,
        options.command_interface,
        options.joint_states_topic,
        options.command_topic,
    )
    server = LocalServer(options.port, f"smfp: {robot.name}")
    try:
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        furnish(server, arm)
        measured = ArmView(server, arm, "measured")
        commanded = ArmView(server, arm, "commanded", ghost=True)
        goal = GoalHandle(server, robot.goal_refusal, client.send_goal, options.locked)
        panel = Panel(server, client, "goals come from the demonstration" if options.locked else "")
        if server.get_port() != options.port:
            print(f"port {options.port} is in use", file=sys.stderr)
        print(f"{ADDRESS}{server.address}", flush=True)
        while not stop.is_set():
            client.spin(_FRAME_S)
            seen = client.seen
            position = np.array(client.reader.position) if client.reader.accepted else None
            tool = None if position is None else kinematics.tool_position(position)
            if position is not None:
                seen.tool_orientation = kinematics.tool_orientation(position)
            with server.atomic():
                measured.show(position)
                commanded.show(apart(seen.commanded, position))
                goal.show(seen.goal, tool)
                panel.update(goal.text)
    finally:
        server.stop()
        client.close()


def main(args: list[str] | None = None) -> int:
    """Show the page until interrupted."""
    given = sys.argv[1:] if args is None else args
    try:
        options = _arguments(given)
        stop = stop_on_signals()
        os.nice(_NICENESS)
        init_ros(given)
        _run(options, stop)
    except ConfigError as error:
        print(f"view: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in ("viser", "trimesh", "websockets"):
            raise
        print(
            f"view: the live page needs {error.name}: pip install '.[view]' in the checkout",
            file=sys.stderr,
        )
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
