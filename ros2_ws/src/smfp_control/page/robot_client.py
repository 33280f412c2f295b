# SPDX-License-Identifier: Apache-2.0
"""An arm as its topics show it, and the few requests that a person at the page may make."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from smfp_control.commands import COMMAND_QOS, command_type
from smfp_control.controller_watch import PAGE_NODE
from smfp_control.goals import goal_message, goal_of
from smfp_control.joint_state import JointStateReader
from smfp_control.page.node_status import NodeStatus
from smfp_control.polling import create_polled_subscription
from smfp_control.process import node_beside_arm
from smfp_control.status import STATUS_QOS, diagnostics_of
from smfp_core.robot import CommandInterface, RobotConfig
from smfp_core.specs import FloatArray

# Only the newest state is drawn; what was missed in between costs the driver nothing.
_STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
_FRESH_S = 1.0


@dataclass
class Seen:
    """What came over the topics so far.

    Attributes:
        status: values of the last ``~/status``; empty before the first, and while the node is
            silent.
        silent_s: since the last status (s), if another one is overdue; else 0. Of a node that is
            silent nothing is known: it may have died.
        diagnostics: values of the policy node's part of the last ``/diagnostics``.
        goal: [3] (m, base frame) that the node pursues, or [7] with a quaternion x, y, z, w;
            None without one.
        orientation: [4] of the last goal that had one; None before it.
        tool_orientation: [4], where whoever draws the arm notes it.
        commanded: [n] (rad) of the last command; None where none comes, or if commands are
            velocities.
        answer: what the last request came to.
    """

    status: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0
    diagnostics: dict[str, str] = field(default_factory=dict)
    goal: FloatArray | None = None
    orientation: FloatArray | None = None
    tool_orientation: FloatArray | None = None
    commanded: FloatArray | None = None
    answer: str = ""


class RobotClient:
    """One arm, by its topics alone: it makes no difference whether the arm is simulated.

    Everything but ``request`` and ``send_goal`` is for the thread that calls ``spin``.

    Args:
        robot: gives topics, frames and limits.
        namespace: of the policy node; empty: that of the ROS arguments, or the root.
        interface, joint_states_topic, command_topic: of the controller; empty: as the robot's
            description says.

    Attributes:
        seen: what came over the topics.
        reader: the last joint state.

    Raises:
        ConfigError: ``namespace`` is not that of the ROS arguments, which name one too.
    """

    def __init__(
        self,
        robot: RobotConfig,
        namespace: str = "",
        interface: CommandInterface | Literal[""] = "",
        joint_states_topic: str = "",
        command_topic: str = "",
    ) -> None:
        self.robot = robot
        self.seen = Seen()
        self.reader = JointStateReader(robot.joint_names)
        connection = robot.connection(interface, joint_states_topic, command_topic)
        self._interface = connection.command_interface
        self._node = node_beside_arm(PAGE_NODE, namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        _, self._take_state = create_polled_subscription(
            self._node, JointState, connection.joint_states_topic, _STATE_QOS
        )
        _, self._take_command = create_polled_subscription(
            self._node,
            command_type(self._interface),
            connection.command_topic,
            COMMAND_QOS,
        )
        self._status = NodeStatus()
        self._node.create_subscription(
            DiagnosticStatus, "policy_node/status", self._status.take, STATUS_QOS
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._policy_node = self._node.resolve_topic_name("policy_node")
        self._goals = self._node.create_publisher(PoseStamped, "policy_node/goal", 10)
        self._clients: dict[str, Client] = {
            name: self._node.create_client(kind, f"policy_node/{name}")
            for name, kind in (("hold", Trigger), ("reset", Trigger), ("estop", SetBool))
        }
        self._pending: deque[Future] = deque(maxlen=20)
        self._commanded_s = -math.inf

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Take what comes within ``seconds``, then the newest state and command."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(left)
        while (message := self._take_state()) is not None:
            self.reader.accept(message, time.monotonic_ns())
        while (message := self._take_command()) is not None:
            self._on_command(message)
        if time.monotonic() - self._commanded_s > _FRESH_S:
            # The node commands at every tick or not at all, and then wants the arm nowhere.
            self.seen.commanded = None
        self._note_status()

    @property
    def state_age_s(self) -> float:
        """Time since the last joint state; infinite before the first."""
        if not self.reader.accepted:
            return math.inf
        return (time.monotonic_ns() - self.reader.received_ns) * 1e-9

    @property
    def live(self) -> bool:
        """Whether joint states come."""
        return self.state_age_s < _FRESH_S

    def send_goal(self, goal: FloatArray) -> str | None:
        """Publish ``goal`` [3] (m, base frame), or [7]; or say why not, and send nothing.

        To a policy that needs an orientation a goal [3] goes with that of the last goal, or with
        the tool's present one before there was any.
        """
        seen, of_tool = self.seen, False
        if len(goal) == 3 and seen.status.get("goal_kind") == "pose":
            of_tool = seen.orientation is None
            turned = seen.tool_orientation if of_tool else seen.orientation
            goal = goal if turned is None else np.concatenate([goal, turned])
        refusal = self.robot.goal_refusal(goal)
        if refusal is None and seen.silent_s:
            refusal = f"the policy node has said nothing for {seen.silent_s:.0f} s"
        if refusal is not None and of_tool:
            refusal += "; a goal dragged here keeps the tool's own until one comes over ~/goal"
        if refusal is None and not self._goals.get_subscription_count():
            refusal = f"nobody listens on {self._goals.topic_name}: does the policy node run?"
        if refusal is None:
            self._goals.publish(goal_message(self._node, self.robot.base_frame, goal))
        self.seen.answer = f"not sent: {refusal}" if refusal else ""
        return refusal

    def request(self, name: str, pressed: bool = True) -> None:
        """Ask for ``hold``, ``reset`` or ``estop`` (``pressed`` or released); never waits.

        The answer comes into ``seen.answer``. From any thread.
        """
        client = self._clients[name]
        if not client.service_is_ready():
            self.seen.answer = f"{name}: nobody answers on {client.srv_name}"
        # Sent all the same: a stop that arrives late is better than none.
        asked = SetBool.Request(data=pressed) if name == "estop" else Trigger.Request()
        future = client.call_async(asked)
        future.add_done_callback(lambda done: self._on_answer(name, done))
        self._pending.append(future)

    def _on_answer(self, name: str, future: Future) -> None:
        response: Any = future.result()
        text = response.message or ("done" if response.success else "refused")
        self.seen.answer = f"{name}: {text}"

    def _note_status(self) -> None:
        seen = self.seen
        seen.status, seen.silent_s = self._status.values, self._status.silent_s
        if seen.silent_s:
            seen.diagnostics = {}
        seen.goal = goal_of(seen.status)
        if seen.goal is not None and len(seen.goal) > 3:
            seen.orientation = seen.goal[3:]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = diagnostics_of(message, self._policy_node)
        if values is not None:
            self.seen.diagnostics = values

    def _on_command(self, message: Any) -> None:
        if self._interface == "forward_velocity":
            return
        if self._interface == "joint_trajectory":
            if not message.points or tuple(message.joint_names) != self.robot.joint_names:
                return
            values = message.points[-1].positions
        else:
            values = message.data
        if len(values) == len(self.robot.joints):
            self._commanded_s = time.monotonic()
            commanded = np.array(values, np.float64)
            self.seen.commanded = commanded if np.isfinite(commanded).all() else None
