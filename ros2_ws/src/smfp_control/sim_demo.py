# SPDX-License-Identifier: Apache-2.0
"""Drive the simulated arm to random goals: python -m smfp_control.sim_demo --goals 10

Starts ``sim_node`` and ``policy_node`` as processes, and the live page where viser is installed,
sends goals one after another over ``/policy_node/goal`` and measures the arm from its joint states
alone. A live table goes to standard error, one JSON line to standard output.

With ``--goals 0`` no goal is sent: whoever has the page open drags them, until Ctrl-C. Otherwise
the page shows the goals and cannot move them; who gives a goal up there, or stops the arm, is
waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from smfp_control.demo_report import GoalRow, Scene
from smfp_control.faults import FaultKind
from smfp_control.goals import goal_message
from smfp_control.isolation import Child, local_environment, stop_children
from smfp_control.joint_state import JointStateReader
from smfp_control.polling import create_polled_subscription
from smfp_control.process import interruptible
from smfp_control.status import STATUS_QOS
from smfp_control.view import ADDRESS, DEFAULT_PORT
from smfp_core.atomic import check_writable, write_atomically
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.rotation import angle
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import ArmModel, Kinematics

_TOLERANCE_M, _TOLERANCE_RAD = 0.02, 0.1
_DWELL_S = 0.5
_STEP_S = 0.02
_READY_S = 30.0
_PAGE_S = 30.0
_SHARE_WANTED = 0.9


class DemoError(RuntimeError):
    """The demonstration could not go on; the text says why."""


class Demo:
    """Sends goals and watches the arm.

    Args:
        robot: the arm.
        children: the two nodes; checked for having ended.
        refresh: called every few milliseconds, to redraw the table.
    """

    def __init__(
        self, robot: RobotConfig, children: tuple[Child, ...], refresh: Callable[[Scene], None]
    ) -> None:
        self.scene = Scene()
        self.robot, self._children, self._refresh = robot, children, refresh
        self._kinematics = Kinematics(ArmModel(robot))
        self._reader = JointStateReader(robot.joint_names)
        self._node = rclpy.create_node("sim_demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        _, self._take_state = create_polled_subscription(
            self._node, JointState, robot.topics.joint_states, qos_profile_sensor_data
        )
        self._node.create_subscription(
            DiagnosticStatus, "policy_node/status", self.scene.take_status, STATUS_QOS
        )
        self._node.create_subscription(
            DiagnosticArray, "/diagnostics", self.scene.take_diagnostics, 10
        )
        self._goal = self._node.create_publisher(PoseStamped, "policy_node/goal", 10)
        self._reset = self._node.create_client(Trigger, "policy_node/reset")

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def await_ready(self) -> None:
        """Wait until the arm is seen and the policy node holds it.

        Raises:
            DemoError: a node ended, or it took too long.
        """
        deadline = time.monotonic() + _READY_S
        while not (
            self.scene.state == "hold"
            and self._reader.accepted
            and self._goal.get_subscription_count()
        ):
            self._step()
            if time.monotonic() > deadline:
                raise DemoError(f"the nodes are not ready after {_READY_S:g} s")

    def pursue(self, goal: FloatArray, timeout_s: float) -> None:
        """Send one goal and watch until it is reached, a fault stops the arm, or time is up."""
        row = GoalRow(goal)
        self.scene.rows.append(row)
        self._goal.publish(goal_message(self._node, self.robot.base_frame, goal))
        before = time.monotonic()
        inside_since: float | None = None
        taken = False
        while not row.reached and row.time_s < timeout_s and self.scene.fault == "none":
            self._step()
            now = time.monotonic()
            taken = taken or self.scene.goal is not None
            # Somebody gave the goal up: until they send it again, time does not count.
            given_up = taken and self.scene.goal is None
            row.time_s += 0.0 if given_up else now - before
            before = now
            if not self._measure(row) or given_up:
                inside_since = None
            else:
                inside_since = now if inside_since is None else inside_since
                row.reached = now - inside_since >= _DWELL_S
        if self.scene.fault != "none":
            self._recover()

    def follow(self) -> None:
        """Watch the goals that others send, until interrupted."""
        followed: FloatArray | None = None
        start = 0.0
        while True:
            self._step()
            goal = self.scene.goal
            if goal is None or followed is None or not np.array_equal(goal, followed):
                if goal is not None:
                    self.scene.rows.append(GoalRow(goal))
                followed, start = goal, time.monotonic()
            row = self.scene.rows[-1] if followed is not None else None
            if row is not None and not row.reached:
                row.reached, row.time_s = self._measure(row), time.monotonic() - start

    def finish(self) -> None:
        """Wait for diagnostics that cover the last goal."""
        self.scene.diagnostics = {}
        deadline = time.monotonic() + 3.0
        while not self.scene.diagnostics and time.monotonic() < deadline:
            self._step()

    def _measure(self, row: GoalRow) -> bool:
        """Note how far the arm is from the goal; whether it is there."""
        q = np.array(self._reader.position)
        row.error_m = math.dist(row.goal[:3], self._kinematics.tool_position(q))
        if len(row.goal) == 3:
            return row.error_m <= _TOLERANCE_M
        row.angle_rad = angle(self._kinematics.tool_orientation(q).tolist(), row.goal[3:].tolist())
        return row.error_m <= _TOLERANCE_M and row.angle_rad <= _TOLERANCE_RAD

    def _recover(self) -> None:
        # Whoever pressed the e-stop releases and resets it; nobody does that for them.
        while self.scene.fault == FaultKind.ESTOP.value:
            self._step()
        deadline = time.monotonic() + 3.0
        while self.scene.fault != "none" and time.monotonic() < deadline:
            future = self._reset.call_async(Trigger.Request())
            until = time.monotonic() + 0.5
            while not future.done() and time.monotonic() < until:
                self._step()
            self._step()

    def _step(self) -> None:
        self._executor.spin_once(_STEP_S)
        while (message := self._take_state()) is not None:
            self._reader.accept(message, time.monotonic_ns())
        for child in self._children:
            if child.process.poll() is not None:
                raise DemoError(f"{child.module} ended by itself")
        self._refresh(self.scene)


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m smfp_control.sim_demo",
        description="Drive the simulated arm to random goals through the ROS 2 nodes.",
    )
    parser.add_argument(
        "--goals", type=int, default=10, help="how many goals (default 10); 0: drag them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the goals (default 0)")
    parser.add_argument("--robot", default="ur5e", help="name, or path of a YAML file")
    parser.add_argument("--policy", help="name, or path of an .onnx file (default ROBOT_reach)")
    parser.add_argument("--timeout", type=float, default=6.0, help="seconds for a goal (default 6)")
    parser.add_argument(
        "--view",
        action=argparse.BooleanOptionalAction,
        help="the live page (default: where viser is installed)",
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="of the live page")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parsed = parser.parse_args(args)
    if parsed.goals < 0:
        parser.error("--goals: must not be negative")
    if parsed.seed < 0:
        parser.error("--seed: must not be negative")
    return parsed


def _ros_arguments(robot: str, control: Path | None, **parameters: object) -> list[str]:
    given = [f"robot:={robot}", *(f"{name}:={value}" for name, value in parameters.items())]
    files = ["--params-file", str(control)] if control else []
    return ["--ros-args", *files, *(part for item in given for part in ("-p", item))]


def _open_page(options: argparse.Namespace, console: Console) -> Child | None:
    """Start the live page and print its address; None where there is to be none."""
    installed = importlib.util.find_spec("viser") is not None
    if options.view is False or (options.view is None and not installed):
        return None
    locked = ["--locked"] if options.goals else []
    page = Child(
        "smfp_control.view", ["--robot", options.robot, "--port", str(options.port), *locked]
    )
    deadline = time.monotonic() + _PAGE_S
    try:
        while ADDRESS not in page.output():
            if page.process.poll() is not None or time.monotonic() > deadline:
                console.print(f"no live page: {page.output()}", markup=False, highlight=False)
                stop_children((page,))
                return None
            time.sleep(_STEP_S)
    except KeyboardInterrupt:
        stop_children((page,))
        raise
    console.print(page.output().strip(), markup=False, highlight=False)
    return page


def _drive(demo: Demo, options: argparse.Namespace, console: Console) -> None:
    if options.goals == 0:
        with contextlib.suppress(KeyboardInterrupt), interruptible():
            console.print("ready: drag the goal's handle on the page, or send goals; Ctrl-C ends")
            demo.follow()
        return
    rng = np.random.default_rng(options.seed)
    for _ in range(options.goals):
        pose = demo.scene.goal_kind == "pose"
        goal = demo.robot.sample_pose(rng) if pose else demo.robot.sample_goal(rng)
        demo.pursue(goal, options.timeout)
    demo.finish()


def _run(options: argparse.Namespace, robot: RobotConfig, console: Console) -> Scene:
    from smfp_core.resources import share_path

    control = share_path("config/control/sim.yaml")
    policy = options.policy or f"{robot.name}_reach"
    title = f"{robot.name}, policy {policy}, ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}"
    nodes = (
        Child(
            "smfp_control.sim_node",
            _ros_arguments(options.robot, control, seed=options.seed),
        ),
        Child(
            "smfp_control.policy_node",
            _ros_arguments(options.robot, control, autostart="true", policy_path=policy),
        ),
    )
    children: tuple[Child, ...] = nodes
    try:
        page = _open_page(options, console)
        children = (*nodes, page) if page else nodes
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        with Live(console=console, refresh_per_second=5, transient=False) as live:
            demo = Demo(robot, nodes, lambda scene: live.update(scene.table(title)))
            try:
                demo.await_ready()
                _drive(demo, options, console)
            finally:
                demo.close()
        return demo.scene
    except DemoError as error:
        for child in children:
            console.print(f"--- {child.module}\n{child.output()}", markup=False, highlight=False)
        raise error
    finally:
        stop_children(children)
        rclpy.try_shutdown()


def main(args: list[str] | None = None) -> int:
    """Entry point of ``make sim``."""
    options = _arguments(args)
    console = Console(stderr=True)
    os.environ.update(local_environment())
    try:
        check_writable("--json", options.json)
        with interruptible():
            scene = _run(options, load_robot(options.robot), console)
    except KeyboardInterrupt:
        return 130
    except (DemoError, ConfigError) as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        return 1
    line = json.dumps(scene.report())
    print(line, flush=True)
    if options.json is not None:
        write_atomically(options.json, line + "\n")
    reached = sum(row.reached for row in scene.rows)
    return 0 if reached >= _SHARE_WANTED * options.goals else 1


if __name__ == "__main__":
    sys.exit(main())
