# SPDX-License-Identifier: Apache-2.0
"""Time from a joint state to the command that answers it, across two processes over DDS.

    python benchmarks/loop_latency.py FOLDER [--fifo]

Starts ``policy_node`` with the files of ``loop_marker.py`` and plays the driver: it publishes
states at 500 Hz whose velocity is zero until one is marked, forwards and backwards by turns, and
the next ones with it until a command moves: that one answers the mark. Prints one JSON object,
with what the node says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from loop_load import other_work
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from smfp_control.isolation import Child, local_environment, stop_children
from smfp_control.polling import create_polled_subscription
from smfp_control.realtime import RealtimeSettings
from smfp_control.status import diagnostics_of
from smfp_core.robot import load_robot

_PRIORITY = 60
_PERIOD_NS = 2_000_000
# Long enough for the reference to stand still again, and no multiple of the period.
_MARK_EVERY_NS = 61_300_000
_GIVE_UP_NS = 500_000_000
_MARK_RAD_S = 0.2
_START_S = 60.0
# How finely an answer is timed; between marks the driver looks but rarely, to leave the processor.
_POLL_S = 5e-5
_IDLE_S = 1e-3


class Driver:
    """The other side of the topics: publishes states, takes commands, polls."""

    def __init__(self, node: Node, robot_path: Path) -> None:
        self.robot = robot = load_robot(robot_path)
        self._states = node.create_publisher(JointState, robot.topics.joint_states, 5)
        self._goals = node.create_publisher(PoseStamped, "policy_node/goal", 10)
        _, self._take = create_polled_subscription(
            node, Float64MultiArray, robot.topics.forward_position, QoSProfile(depth=20)
        )
        _, self._take_diagnostics = create_polled_subscription(
            node, DiagnosticArray, "/diagnostics", QoSProfile(depth=5)
        )
        n = len(robot.joints)
        self._message = JointState(
            name=list(robot.joint_names), position=list(robot.home_rad), velocity=[0.0] * n
        )
        self._position = np.frombuffer(self._message.position, np.float64)
        self._clock = node.get_clock()
        self._next_ns = time.monotonic_ns()
        self._mark_rad_s = 0.0
        self.commands = 0
        self.diagnostics: dict[str, str] = {}

    def publish(self) -> None:
        """Send the state: where the last command was, with the mark as a joint's velocity."""
        self._message.velocity[-1] = self._mark_rad_s
        self._message.header.stamp = self._clock.now().to_msg()
        self._states.publish(self._message)

    def send_goal(self) -> None:
        """Send a goal; where it lies does not matter to the marker policy."""
        message = PoseStamped()
        message.header.frame_id = self.robot.base_frame
        point = message.pose.position
        point.x, point.y, point.z = map(float, self.robot.sample_goal(np.random.default_rng(0)))
        self._goals.publish(message)

    def step(self, pause_s: float) -> bool:
        """Publish if it is time, take what came; whether the last joint's command changed."""
        if time.monotonic_ns() >= self._next_ns:
            self.publish()
            self._next_ns += _PERIOD_NS
        changed = False
        while (command := self._take()) is not None:
            self.commands += 1
            changed |= command.data[-1] != self._position[-1]
            self._position[:] = command.data
        if not changed:
            time.sleep(pause_s)
        return changed

    def spin(self, seconds: float) -> None:
        """Play on for a time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step(_IDLE_S)
            if (message := self._take_diagnostics()) is not None:
                self.diagnostics = diagnostics_of(message, "/policy_node") or self.diagnostics

    def marked(self, mark_rad_s: float) -> int | None:
        """Send marked states; nanoseconds from the first until a command moved, or None."""
        start = time.monotonic_ns()
        self._mark_rad_s = mark_rad_s
        self.publish()
        latency = None
        while latency is None and time.monotonic_ns() - start < _GIVE_UP_NS:
            if self.step(_POLL_S):
                latency = time.monotonic_ns() - start
        self._mark_rad_s = 0.0
        return latency


def _start(driver: Driver, child: Child) -> None:
    end = time.monotonic() + _START_S
    while driver.commands == 0:
        driver.spin(0.2)
        if time.monotonic() > end or child.process.poll() is not None:
            raise RuntimeError(f"the node did not become active:\n{child.output()}")
    while driver.marked(_MARK_RAD_S) is None:
        driver.send_goal()
        driver.spin(0.2)
        if time.monotonic() > end:
            raise RuntimeError(f"the node does not answer marks:\n{child.output()}")
    driver.spin(0.2)


def measure(folder: Path, seconds: float, fifo: bool, loaded: bool) -> dict[str, Any]:
    """Start the node, mark states for ``seconds``, end it."""
    os.environ.update(local_environment())
    parameters = {
        "robot": folder / "robot.yaml",
        "policy_path": folder / "marker.onnx",
        "autostart": "true",
        # Late states and ticks are what is measured here, so they must not stop the arm.
        "state_timeout_s": 1.0,
        "state_delay_limit_s": 0.0,
        "deadline_miss_limit": 100000,
        "scheduler_priority": _PRIORITY if fifo else 0,
        "lock_memory": str(fifo).lower(),
        "realtime_required": "true",
    }
    arguments = [text for k, v in parameters.items() for text in ("-p", f"{k}:={v}")]
    child = Child("smfp_control.policy_node", ["--ros-args", *arguments])
    rclpy.init(args=[])
    node = Node("driver")
    try:
        driver = Driver(node, folder / "robot.yaml")
        _start(driver, child)
        found, unanswered, sign = [], 0, 1.0
        with other_work(loaded, driver.spin):
            # The driver's own delays shall not count as the node's. Not before the other work is
            # started, which would inherit the priority and leave the node no processor at all.
            problems = RealtimeSettings(_PRIORITY - 10, "", False).apply()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                latency = driver.marked(sign * _MARK_RAD_S)
                sign = -sign
                if latency is None:
                    unanswered += 1
                else:
                    found.append(latency)
                driver.spin(_MARK_EVERY_NS * 1e-9)
                if driver.diagnostics.get("fault", "none") != "none":
                    break  # nothing is answered any more
    finally:
        stop_children([child], patience_s=5.0)
        node.destroy_node()
        rclpy.try_shutdown()
    p50, p99, longest = (
        (round(float(x) * 1e-6, 3) for x in np.percentile(found, (50, 99, 100)))
        if found
        else (None, None, None)
    )
    keys = [key for key in driver.diagnostics if "_p50" in key]
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": longest,
        "samples": len(found),
        "unanswered": unanswered,
        "stopped_by": driver.diagnostics.get("fault_reason", ""),
        "driver": "; ".join(problems) or f"SCHED_FIFO {_PRIORITY - 10}",
        "node": {key: driver.diagnostics[key] for key in keys},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--fifo", action="store_true")
    parser.add_argument("--loaded", action="store_true")
    given = parser.parse_args()
    print(json.dumps(measure(given.folder, given.seconds, given.fifo, given.loaded)))


if __name__ == "__main__":
    main()
