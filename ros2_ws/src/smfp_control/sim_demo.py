# SPDX-License-Identifier: Apache-2.0
"""Drive the simulated arm to random goals: python -m smfp_control.sim_demo --goals 10

Starts ``sim_node`` and ``policy_node`` as processes, sends goals one after another over
``/policy_node/goal`` and measures the arm from its joint states alone. A live table goes to
standard error, one JSON line to standard output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from smfp_control.isolation import Child, local_environment, stop_children
from smfp_control.joint_state import JointStateReader
from smfp_control.polling import create_polled_subscription
from smfp_control.process import interrupt_on_signals
from smfp_control.status import STATUS_QOS
from smfp_core.atomic import write_atomically
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import ArmModel, Kinematics

_TOLERANCE_M = 0.02
_DWELL_S = 0.5
_STEP_S = 0.02
_READY_S = 30.0
_SHARE_WANTED = 0.9


class DemoError(RuntimeError):
    """The demonstration could not go on; the text says why."""


@dataclass
class GoalRow:
    """One line of the table."""

    goal: FloatArray
    error_m: float = math.nan
    time_s: float = 0.0
    reached: bool = False


@dataclass
class Scene:
    """What the node says of itself, and the goals so far."""

    state: str = "starting"
    fault: str = "none"
    faults: list[str] = field(default_factory=list)
    rows: list[GoalRow] = field(default_factory=list)
    diagnostics: dict[str, str] = field(default_factory=dict)
    first_ticks: tuple[float, int] | None = None
    last_ticks: tuple[float, int] | None = None
    period_error_ms: list[tuple[float, float]] = field(default_factory=list)

    def take_status(self, message: DiagnosticStatus) -> None:
        """A ``~/status``."""
        values = {item.key: item.value for item in message.values}
        if values["fault"] not in ("none", self.fault):
            self.faults.append(message.message)
        self.state = values["state"]
        self.fault = values["fault"]

    def take_diagnostics(self, message: DiagnosticArray) -> None:
        """A ``/diagnostics`` of the policy node."""
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.diagnostics = {item.key: item.value for item in message.status[0].values}
        ticks = int(self.diagnostics["ticks"])
        if "loop_rate_hz" not in self.diagnostics or not ticks:
            return
        self.last_ticks = (stamp, ticks)
        self.first_ticks = self.first_ticks or self.last_ticks
        p50, p99, _ = map(float, self.diagnostics["period_error_ms_p50_p99_max"].split())
        self.period_error_ms.append((p50, p99))

    def control_rate_hz(self) -> float:
        """Mean rate of control ticks between the first and the last diagnostics."""
        if self.first_ticks is None or self.last_ticks is None:
            return math.nan
        elapsed = self.last_ticks[0] - self.first_ticks[0]
        return (self.last_ticks[1] - self.first_ticks[1]) / elapsed if elapsed else math.nan

    def report(self) -> dict[str, Any]:
        """The JSON line. Period errors: median of the p50, largest of the p99 of 8 s windows."""

        def number(value: float, digits: int) -> float | None:
            return round(value, digits) if math.isfinite(value) else None

        errors = [row.error_m for row in self.rows]
        p50 = float(np.median([p50 for p50, _ in self.period_error_ms] or [math.nan]))
        p99 = max((p99 for _, p99 in self.period_error_ms), default=math.nan)
        return {
            "goals": len(self.rows),
            "reached": sum(row.reached for row in self.rows),
            "median_error_m": number(float(np.median(errors)), 5) if errors else None,
            "control_rate_hz": number(self.control_rate_hz(), 2),
            "period_error_ms": {"p50": number(p50, 3), "p99": number(p99, 3)},
            "deadline_misses": int(self.diagnostics.get("deadline_misses", 0)),
            "safety_interventions": int(self.diagnostics.get("safety_interventions", 0)),
            "faults": len(self.faults),
        }

    def table(self, title: str) -> Table:
        """The live table."""
        table = Table(title=title, caption=self._caption(), caption_justify="left")
        for name in ("#", "goal x y z (m)", "error (mm)", "time (s)", "reached"):
            table.add_column(name, justify="right")
        for i, row in enumerate(self.rows[-20:], start=max(len(self.rows) - 19, 1)):
            x, y, z = row.goal
            current = row is self.rows[-1] and not row.reached
            table.add_row(
                str(i),
                f"{x:+.3f} {y:+.3f} {z:+.3f}",
                f"{row.error_m * 1e3:.1f}",
                f"{row.time_s:.1f}",
                "[green]yes" if row.reached else ("..." if current else "[red]no"),
            )
        return table

    def _caption(self) -> str:
        shown = self.diagnostics
        return (
            f"state {self.state} | rate {shown.get('loop_rate_hz', '-')} Hz | "
            f"missed deadlines {shown.get('deadline_misses', '-')} | "
            f"interventions {shown.get('safety_interventions', '-')} | "
            f"faults {len(self.faults)}" + "".join(f"\n[red]{text}" for text in self.faults[-3:])
        )


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
        self._robot, self._children, self._refresh = robot, children, refresh
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
        message = PoseStamped()
        message.header.frame_id = self._robot.base_frame
        message.header.stamp = self._node.get_clock().now().to_msg()
        point = message.pose.position
        point.x, point.y, point.z = map(float, goal)
        self._goal.publish(message)
        start = time.monotonic()
        inside_since: float | None = None
        while not row.reached and row.time_s < timeout_s and self.scene.fault == "none":
            self._step()
            now = time.monotonic()
            tool = self._kinematics.tool_position(np.array(self._reader.position))
            row.error_m, row.time_s = math.dist(goal, tool), now - start
            if row.error_m > _TOLERANCE_M:
                inside_since = None
            else:
                inside_since = now if inside_since is None else inside_since
                row.reached = now - inside_since >= _DWELL_S
        if self.scene.fault != "none":
            self._recover()

    def finish(self) -> None:
        """Wait for diagnostics that cover the last goal."""
        self.scene.diagnostics = {}
        deadline = time.monotonic() + 3.0
        while not self.scene.diagnostics and time.monotonic() < deadline:
            self._step()

    def _recover(self) -> None:
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
    parser.add_argument("--goals", type=int, default=10, help="how many goals (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the goals (default 0)")
    parser.add_argument("--robot", default="ur5e", help="name, or path of a YAML file")
    parser.add_argument("--policy", help="name, or path of an .onnx file (default ROBOT_reach)")
    parser.add_argument("--timeout", type=float, default=6.0, help="seconds for a goal (default 6)")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parsed = parser.parse_args(args)
    if parsed.goals < 1:
        parser.error("--goals: must be at least 1")
    if parsed.seed < 0:
        parser.error("--seed: must not be negative")
    return parsed


def _ros_arguments(robot: str, control: Path | None, **parameters: object) -> list[str]:
    given = [f"robot:={robot}", *(f"{name}:={value}" for name, value in parameters.items())]
    files = ["--params-file", str(control)] if control else []
    return ["--ros-args", *files, *(part for item in given for part in ("-p", item))]


def _run(options: argparse.Namespace, robot: RobotConfig, console: Console) -> Scene:
    from smfp_core.resources import share_path

    control = share_path("config/control/sim.yaml")
    policy = options.policy or f"{robot.name}_reach"
    title = f"{robot.name}, policy {policy}, ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}"
    children = (
        Child(
            "smfp_control.sim_node",
            _ros_arguments(options.robot, control, seed=options.seed),
        ),
        Child(
            "smfp_control.policy_node",
            _ros_arguments(options.robot, control, autostart="true", policy_path=policy),
        ),
    )
    try:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        with Live(console=console, refresh_per_second=5, transient=False) as live:
            demo = Demo(robot, children, lambda scene: live.update(scene.table(title)))
            try:
                demo.await_ready()
                rng = np.random.default_rng(options.seed)
                for _ in range(options.goals):
                    demo.pursue(robot.goals.sample(rng), options.timeout)
                demo.finish()
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
    interrupt_on_signals()
    os.environ.update(local_environment())
    try:
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
