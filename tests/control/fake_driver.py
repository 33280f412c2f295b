#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for an arm's driver: the topics, QoS and habits of ros2_control, and nothing of ours.

    python tests/control/fake_driver.py --active forward_position_controller --log motion.npz

What the nodes under test are told by a real driver comes from here, so this file imports none of
their modules: two programs that share a mistake agree about it. It takes up these habits of
ur_robot_driver and ros2_controllers:

- joint states best-effort at 500 Hz, the joints in an order of their own (elbow first);
- every controller subscribes to its commands from the moment that it is configured, also while it
  is inactive, and is a node whose parameter ``joints`` gives the order of a command's values;
- a forward controller drops commands that are not finite, ignores a wrong length without a word,
  and keeps the last command for ever; a velocity is thus kept up for ever, too;
- the trajectory controller takes joints in any order, all of them, refuses a trajectory that ends
  in motion, goes in a straight line from where it was to the point, and then holds it.

Each joint follows its target as a first-order servo. The arm's own motion (not what was published
of it) goes to ``--log`` when the process is told to end.

Faults are the fields of ``Faults``: options at start (``--missing-joint elbow_joint``), and
parameters of the node ``fake_driver`` while it runs (``ros2 param set /fake_driver paused true``).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

UR5E_JOINTS = (
    *("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint"),
    *("wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
)
UR5E_HOME = (0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0)
CONTROLLERS = (
    "forward_position_controller",
    "forward_velocity_controller",
    "scaled_joint_trajectory_controller",
)
# ur_robot_driver asks servoj for a look-ahead of 0.03 s: the arm follows that much later.
SERVO_LAG_S = 0.03
SPIN_EVERY_S = 0.02
MOST_LATE_S = 0.05
# Printed with the first command that a controller takes.
COMMANDED = "takes commands"


@dataclasses.dataclass
class Faults:
    """What goes wrong. Nothing, by default."""

    paused: bool = False
    """No joint states."""
    delay_s: float = 0.0
    """Joint states are sent this late, with the stamp of when they were measured."""
    clock_offset_s: float = 0.0
    """The robot's clock is ahead of this computer's."""
    no_stamp: bool = False
    missing_joint: str = ""
    extra_joint: str = ""
    """A gripper's joint in the same message."""
    prefix: str = ""
    """In front of every published name, as a driver's ``tf_prefix``."""
    shuffle: bool = False
    """Another order of the joints in every message."""
    no_velocity: bool = False
    nan_joint: str = ""
    jump_rad: float = 0.0
    """Added to the first joint's published position."""
    velocity_bias_rad_s: float = 0.0
    """Added to the first joint's published velocity."""
    drift_rad_s: float = 0.0
    """The first joint's target moves by itself."""
    unloaded: bool = False
    """The controllers are gone, and the arm stays where the last command has sent it."""


class Controller:
    """One controller of ros2_control: a node, its command topic, and the target that it makes."""

    def __init__(self, node: Node, joints: list[str], start: np.ndarray, active: bool) -> None:
        self.node, self.joints, self.active = node, joints, active
        self.target = start.copy()
        self.velocity = np.zeros(len(joints))
        self.taken = self.ignored = 0
        self.received = 0.0
        # Every usable command: the number that its publisher gave it, and its last values.
        self.commands: list[tuple[int, np.ndarray]] = []
        self._number = 0
        self._waiting: deque[tuple[float, int, Any]] = deque()
        self._path: tuple[np.ndarray, np.ndarray] | None = None
        node.declare_parameter("joints", joints)
        if "forward" in node.get_name():
            node.declare_parameter("interface_name", node.get_name().split("_")[1])

    def subscribe(self, kind: type, topic: str, callback: Any, qos: QoSProfile) -> None:
        """Take commands while ``load`` says so."""
        self._kind, self._topic, self._callback, self._qos = kind, topic, callback, qos
        self._subscription: Any = None

    def load(self, loaded: bool) -> None:
        """Subscribe, or unsubscribe and forget what waits."""
        if loaded and self._subscription is None:
            self._subscription = self.node.create_subscription(
                self._kind, self._topic, self._enqueue, self._qos
            )
        elif not loaded and self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
            self._subscription = None
            self._waiting.clear()

    def _enqueue(self, message: Any, info: Any) -> None:
        sent = info["source_timestamp"] * 1e-9 - time.time() + time.monotonic()
        self._waiting.append((sent, info["publication_sequence_number"], message))

    def poll(self, now: float) -> None:
        """Take the commands that were sent until ``now``.

        A test machine may let this process wait. A driver's control loop does not wait, so each
        command counts in the period in which it was sent: the motion is that of a driver in time.
        """
        if self._subscription is not None:
            handle = self._subscription.handle
            with handle:
                while (taken := handle.take_message(self._kind, False)) is not None:
                    self._enqueue(*taken)
        while self._waiting and self._waiting[0][0] <= now:
            self.received, self._number, message = self._waiting.popleft()
            self._callback(message)

    def _take(self, values: np.ndarray, usable: bool) -> bool:
        self.taken += usable
        self.ignored += not usable
        if usable:
            self.commands.append((self._number, values))
        return usable

    def _values(self, message: Float64MultiArray) -> np.ndarray | None:
        values = np.array(message.data)
        fits = len(values) == len(self.joints) and bool(np.isfinite(values).all())
        return values if self._take(values, self.active and fits) else None

    def on_position(self, message: Float64MultiArray) -> None:
        """A command of forward_position_controller."""
        values = self._values(message)
        if values is not None:
            self.target = values

    def on_velocity(self, message: Float64MultiArray) -> None:
        """A command of forward_velocity_controller."""
        values = self._values(message)
        if values is not None:
            self.velocity = values

    def on_trajectory(self, message: JointTrajectory) -> None:
        """A command of joint_trajectory_controller."""
        n, points = len(self.joints), message.points
        times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in points]
        usable = (
            self.active
            and len(points) > 0
            and sorted(message.joint_names) == sorted(self.joints)
            and all(len(p.positions) == n and np.isfinite(p.positions).all() for p in points)
            and not any(points[-1].velocities)
            and times[0] >= 0.0
            and all(before < after for before, after in itertools.pairwise(times))
        )
        order = [list(message.joint_names).index(joint) for joint in self.joints] if usable else []
        positions = [np.array(p.positions)[order] for p in points] if usable else [self.target]
        if self._take(positions[-1], usable):
            rows = [self.target, *positions]
            start = self.received
            # Time zero is where the arm is sent from; a point due at once is due a moment later.
            due = [start, *(start + max(t, 1e-6) for t in times)]
            self._path = (np.array(due), np.array(rows))

    def advance(self, now: float, dt: float, drift: float) -> None:
        """Move the target by one control period; the first joint's by ``drift`` (rad) on top."""
        self.target = self.target + self.velocity * dt
        self.target[0] += drift
        if self._path is not None:
            times, rows = self._path
            # ros2_control's sample for the end of the coming period.
            self.target = np.array([np.interp(now + dt, times, column) for column in rows.T])


class FakeDriver:
    """All nodes of the driver, and the arm."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.joints: list[str] = options.joints
        self.faults = Faults(
            **{f.name: getattr(options, f.name) for f in dataclasses.fields(Faults)}
        )
        self.position = np.array(options.pose, float)
        self.velocity = np.zeros(len(self.joints))
        self.dt = 1.0 / options.rate
        self.motion: list[tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._late: deque[tuple[float, JointState]] = deque()
        self._commanded = False
        self._rng = np.random.default_rng(0)
        self._broadcaster = Node("joint_state_broadcaster", namespace=options.namespace)
        reliable = options.reliability == "reliable"
        self._states = self._broadcaster.create_publisher(
            JointState,
            options.joint_states_topic,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=ReliabilityPolicy.RELIABLE
                if reliable
                else ReliabilityPolicy.BEST_EFFORT,
            ),
        )
        self._manager = Node("fake_driver", namespace=options.namespace)
        for name, value in dataclasses.asdict(self.faults).items():
            self._manager.declare_parameter(name, value)
        self._manager.add_on_set_parameters_callback(self._on_faults)
        self.controllers = [self._controller(name, options) for name in options.controllers]
        self._executor = SingleThreadedExecutor()
        for node in self._nodes():
            self._executor.add_node(node)

    def _controller(self, name: str, options: argparse.Namespace) -> Controller:
        node = Node(name, namespace=options.namespace)
        joints = options.controller_joints or self.joints
        controller = Controller(node, joints, self.position, name == options.active)
        transient = options.command_durability == "transient_local"
        # ros2_control subscribes with the middleware's defaults, reliable and volatile; the depth
        # is for test machines that let this process wait.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1000,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if transient else DurabilityPolicy.VOLATILE,
        )
        kind, topic, callback = {
            CONTROLLERS[0]: (Float64MultiArray, options.position_commands, controller.on_position),
            CONTROLLERS[1]: (Float64MultiArray, "~/commands", controller.on_velocity),
        }.get(name, (JointTrajectory, "~/joint_trajectory", controller.on_trajectory))
        controller.subscribe(kind, topic, callback, qos)
        return controller

    def _nodes(self) -> list[Node]:
        return [self._broadcaster, self._manager, *(c.node for c in self.controllers)]

    def _on_faults(self, parameters: list[Any]) -> SetParametersResult:
        for parameter in parameters:
            if hasattr(self.faults, parameter.name):
                setattr(self.faults, parameter.name, parameter.value)
        return SetParametersResult(successful=True)

    def run(self, stop: list[int]) -> None:
        """Control periods on absolute deadlines, until a signal came."""
        deadline = next_spin = time.monotonic()
        while not stop:
            # A period that was slept through is made up for, so that time does not stretch.
            while (now := time.monotonic()) >= deadline:
                self._period(deadline)
                deadline += self.dt
            if now >= next_spin:
                next_spin = now + SPIN_EVERY_S
                self._executor.spin_once(0.0)
            time.sleep(max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        for node in self._nodes():
            node.destroy_node()

    def _period(self, now: float) -> None:
        target = self.position
        for controller in self.controllers:
            controller.load(not self.faults.unloaded)
            controller.poll(now)
            if controller.active:
                controller.advance(now, self.dt, self.faults.drift_rad_s * self.dt)
                target = controller.target
        if not self._commanded and any(controller.taken for controller in self.controllers):
            self._commanded = True
            print(COMMANDED, flush=True)
        share = -math.expm1(-self.dt / SERVO_LAG_S)
        before_position, before_velocity = self.position, self.velocity
        self.position = before_position + share * (target - before_position)
        self.velocity = (self.position - before_position) / self.dt
        acceleration = (self.velocity - before_velocity) / self.dt
        self.motion.append((now, self.position.copy(), self.velocity, acceleration, target.copy()))
        # Of a time that this process slept through, the oldest states would come late.
        if not self.faults.paused and time.monotonic() - now < MOST_LATE_S:
            self._late.append((now + self.faults.delay_s, self._message(now)))
        while self._late and self._late[0][0] <= now:
            self._states.publish(self._late.popleft()[1])

    def _message(self, now: float) -> JointState:
        faults = self.faults
        position, velocity = self.position.copy(), self.velocity.copy()
        position[0] += faults.jump_rad
        velocity[0] += faults.velocity_bias_rad_s
        names = [joint for joint in sorted(self.joints) if joint != faults.missing_joint]
        if faults.shuffle:
            self._rng.shuffle(names)
        order = [self.joints.index(joint) for joint in names]
        if faults.nan_joint:
            position[self.joints.index(faults.nan_joint)] = math.nan
        extra = [faults.extra_joint] if faults.extra_joint else []
        message = JointState()
        message.name = [faults.prefix + name for name in names] + extra
        message.position = [*position[order].tolist(), *(0.0 for _ in extra)]
        if not faults.no_velocity:
            message.velocity = [*velocity[order].tolist(), *(0.0 for _ in extra)]
        if not faults.no_stamp:
            age = time.monotonic() - now
            stamp_ns = time.time_ns() + round((faults.clock_offset_s - age) * 1e9)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message

    def write(self, path: Path) -> None:
        """The arm's motion: ``time_s`` [t] (monotonic clock), the rest [t, n] in ``joints``' order.

        ``velocity`` and ``acceleration`` are backward differences over one period of the driver.
        ``commands`` [m, n] are those that were taken, in the controller's order, and ``numbers``
        [m] those that their publisher gave them.
        """
        columns = zip(*self.motion, strict=True) if self.motion else ((),) * 5
        names = ("time_s", "position", "velocity", "acceleration", "target")
        arrays = {
            name: np.array(column).reshape(len(self.motion), -1)
            for name, column in zip(names, columns, strict=True)
        }
        commands = [command for controller in self.controllers for command in controller.commands]
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez(
            temporary,
            time_s=arrays.pop("time_s")[:, 0] if self.motion else np.zeros(0),
            joints=self.joints,
            taken=[controller.taken for controller in self.controllers],
            ignored=[controller.ignored for controller in self.controllers],
            numbers=[number for number, _ in commands],
            commands=np.array([v for _, v in commands]).reshape(-1, len(self.joints)),
            **arrays,
        )
        os.replace(temporary, path)


def parse(args: list[str]) -> argparse.Namespace:
    """The command line."""

    def names(text: str) -> list[str]:
        return [] if text == "none" else text.split(",")

    parser = argparse.ArgumentParser(description="A driver of an arm that does not exist.")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--joints", type=names, default=list(UR5E_JOINTS), metavar="A,B,...")
    parser.add_argument(
        "--pose",
        type=lambda text: [float(x) for x in text.split(",")],
        default=list(UR5E_HOME),
        metavar="RAD,...",
        help="at start, in the order of --joints (write --pose=-1,... with a leading minus)",
    )
    parser.add_argument("--rate", type=float, default=500.0, help="Hz (default 500)")
    parser.add_argument("--joint-states-topic", default="joint_states")
    parser.add_argument("--reliability", choices=["best_effort", "reliable"], default="best_effort")
    parser.add_argument("--controllers", type=names, default=list(CONTROLLERS), metavar="A,B|none")
    parser.add_argument("--active", default=CONTROLLERS[0], help="the controller that is active")
    parser.add_argument("--controller-joints", type=names, help="order that controllers take")
    parser.add_argument(
        "--command-durability", choices=["volatile", "transient_local"], default="volatile"
    )
    parser.add_argument(
        "--position-commands", default="~/commands", help="topic that positions are taken from"
    )
    parser.add_argument("--log", type=Path, help="where the arm's motion goes at the end (.npz)")
    for field in dataclasses.fields(Faults):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(field.default), default=field.default)
    options = parser.parse_args(args)
    if len(options.pose) != len(options.joints):
        parser.error(f"--pose: expected {len(options.joints)} values, got {len(options.pose)}")
    return options


def main(args: list[str]) -> int:
    """Run until SIGINT or SIGTERM."""
    options = parse(args)
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stop.append(received))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    driver = FakeDriver(options)
    try:
        driver.run(stop)
    finally:
        if options.log is not None:
            driver.write(options.log)
        driver.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
