# SPDX-License-Identifier: Apache-2.0
"""Real nodes as processes on a DDS domain of their own, and a client that watches them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger

from smfp_control.isolation import Child, DomainReservation, stop_children
from smfp_control.polling import create_polled_subscription
from smfp_control.status import STATUS_QOS
from smfp_core.robot import RobotConfig
from smfp_core.rotation import angle
from smfp_sim.arm import ArmModel, Kinematics

# Generous: these machines run other work, and discovery alone may take 3 s.
PATIENCE_S = 40.0
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


class Bench:
    """A client on the topics of one ``policy_node`` and, perhaps, one ``sim_node``.

    Attributes:
        status: values of the last ``~/status``, with its ``message`` and ``level``.
        domain_id: of the bench and of all that it starts.
        diagnostics: values of the last ``/diagnostics``.
        commands: (steady time, values) of every command seen.
        states: (steady time, message) of every joint state seen.
    """

    def __init__(self, robot: RobotConfig, namespace: str = "") -> None:
        self.robot = robot
        self.status: dict[str, Any] = {}
        self.statuses: list[dict[str, Any]] = []
        self.diagnostics: dict[str, str] = {}
        self.commands: list[tuple[float, list[float]]] = []
        self.states: list[tuple[float, JointState]] = []
        self.children: list[Child] = []
        self._namespace = namespace
        self._reservation = DomainReservation()
        self.domain_id = self._reservation.domain_id
        self._context = Context()
        self._context.init(args=[], domain_id=self.domain_id)
        self.node = Node("bench", context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._kinematics = Kinematics(ArmModel(robot))
        self._clients: dict[str, Client] = {}
        self.node.create_subscription(
            DiagnosticStatus, "policy_node/status", self._on_status, STATUS_QOS
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        _, self._take_command = create_polled_subscription(
            self.node, Float64MultiArray, robot.topics.forward_position, QoSProfile(depth=100)
        )
        _, self._take_state = create_polled_subscription(
            self.node, JointState, robot.topics.joint_states, qos_profile_sensor_data
        )
        self._goals = self.node.create_publisher(PoseStamped, "policy_node/goal", 10)

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.status = {item.key: item.value for item in message.values}
        self.status |= {"message": message.message, "level": message.level}
        self.statuses.append(self.status)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {item.key: item.value for item in message.status[0].values}

    # Processes.

    def start(self, module: str, *ros_arguments: str, **parameters: object) -> Child:
        """Start a node as a process."""
        arguments = ["--ros-args", *ros_arguments]
        if self._namespace:
            arguments += ["-r", f"__ns:={self._namespace}"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["-p", f"{name}:={text}"]
        environment = {"ROS_DOMAIN_ID": str(self.domain_id)}
        child = Child(f"smfp_control.{module}", arguments, environment)
        self.children.append(child)
        return child

    def start_policy_node(self, policy: Path | str = "", **parameters: object) -> Child:
        """``policy_node`` with bounds that a machine busy with other work keeps to."""
        defaults = {
            "state_timeout_s": 1.0,
            "state_delay_limit_s": 1.0,
            "deadline_miss_limit": 100000,
            "tracking_error_rad": 2.0,
        }
        if policy:
            defaults["policy_path"] = policy  # type: ignore[assignment]
        return self.start("policy_node", **(defaults | parameters))

    def close(self) -> None:
        """End every process and leave the graph."""
        stop_children(self.children, patience_s=5.0)
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        self._reservation.release()

    def _step(self, seconds: float) -> None:
        self._executor.spin_once(seconds)
        while (command := self._take_command()) is not None:
            self.commands.append((time.monotonic(), list(command.data)))
        while (state := self._take_state()) is not None:
            self.states.append((time.monotonic(), state))

    # Waiting. A condition that does not come is an error that shows what the nodes said.

    def spin(self, seconds: float) -> None:
        """Let messages come in for a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._step(min(left, 0.02))

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Spin until ``condition`` holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            self._step(0.02)
            if time.monotonic() > end:
                said = "\n".join(f"--- {c.module}\n{c.output()}" for c in self.children)
                raise AssertionError(f"waited in vain for {what}; status {self.status}\n{said}")

    def until_state(self, state: str) -> None:
        """Spin until ``~/status`` gives this state of the loop."""
        self.until(lambda: self.status.get("state") == state, f"state {state}")

    def until_exit(self, child: Child, timeout_s: float = PATIENCE_S) -> int:
        """Spin until a process has ended; its exit status.

        What it said goes to standard output, which pytest shows of a test that fails.
        """
        self.until(lambda: child.process.poll() is not None, f"{child.module} to end", timeout_s)
        print(f"--- {child.module}\n{child.output()}")
        return child.process.returncode

    # Requests.

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service of the policy or sim node, waiting for it to appear."""
        client = self._clients.get(name) or self.node.create_client(kind, name)
        self._clients[name] = client
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}")
        return future.result()

    def transition(self, name: str) -> bool:
        """Ask for a life-cycle transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        return self.call(ChangeState, "policy_node/change_state", request).success

    def lifecycle(self) -> str:
        """Life-cycle state as the node's own service gives it."""
        request = GetState.Request()
        return self.call(GetState, "policy_node/get_state", request).current_state.label

    def reset(self) -> Trigger.Response:
        """Call ``~/reset``."""
        return self.call(Trigger, "policy_node/reset", Trigger.Request())

    def reset_for_good(self) -> None:
        """Reset until it is granted and lasts.

        A driver that starts stutters at first, and an arm that was frozen in motion catches up with
        its reference faster than a joint may move.
        """

        def calm() -> bool:
            self.reset()
            self.spin(0.3)
            return self.status["state"] == "hold"

        self.until(calm, "the reset to be granted")

    def estop(self, pressed: bool) -> SetBool.Response:
        """Call ``~/estop``."""
        return self.call(SetBool, "policy_node/estop", SetBool.Request(data=pressed))

    def send_goal(self, goal: Any, frame: str = "base_link") -> None:
        """Publish a goal, [3] or [7] with a quaternion x, y, z, w, once the node listens."""
        self.until(self._goals.get_subscription_count, "a subscriber of the goal")
        message = PoseStamped()
        message.header.frame_id = frame
        point, turn = message.pose.position, message.pose.orientation
        point.x, point.y, point.z = map(float, goal[:3])
        if len(goal) > 3:
            turn.x, turn.y, turn.z, turn.w = map(float, goal[3:])
        self._goals.publish(message)

    # The arm.

    def joint_position(self) -> np.ndarray:
        """Newest joint positions, in the robot's order; waits for the first."""
        self.until(lambda: self.states, "a joint state")
        message = self.states[-1][1]
        return np.array([message.position[message.name.index(j)] for j in self.robot.joint_names])

    def goal_error_m(self, goal: Any) -> float:
        """Distance of the tool to ``goal``, from the joint states alone."""
        return math.dist(self._kinematics.tool_position(self.joint_position()), goal)

    def goal_angle_rad(self, goal: Any) -> float:
        """Angle of the tool to the orientation of ``goal`` [7], from the joint states alone."""
        turned = self._kinematics.tool_orientation(self.joint_position())
        return angle(turned.tolist(), [float(x) for x in goal[3:]])

    def assert_never_moved(self) -> None:
        """Every command seen was the same, and there were some."""
        assert self.commands
        assert all(values == self.commands[0][1] for _, values in self.commands)


class FakeDriver:
    """Publishes joint states at 250 Hz while the bench spins, from the test's own process.

    ``change`` edits each message before it is sent; None instead of a message sends nothing.
    """

    def __init__(self, bench: Bench, position: Any = None, topic: str = "") -> None:
        robot = bench.robot
        self._names = list(robot.joint_names)
        self._node = bench.node
        self.position = list(robot.home_rad if position is None else position)
        self.change: Callable[[JointState], JointState | None] = lambda message: message
        self._publisher = bench.node.create_publisher(
            JointState, topic or robot.topics.joint_states, 10
        )
        bench.node.create_timer(0.004, self._publish)

    def _publish(self) -> None:
        message = JointState(name=self._names, position=self.position)
        message.velocity = [0.0] * len(self._names)
        message.header.stamp = self._node.get_clock().now().to_msg()
        changed = self.change(message)
        if changed is not None:
            self._publisher.publish(changed)


@contextmanager
def open_bench(robot: RobotConfig, namespace: str = "") -> Iterator[Bench]:
    """A bench that ends its processes whatever happens."""
    bench = Bench(robot, namespace)
    try:
        yield bench
    finally:
        bench.close()
