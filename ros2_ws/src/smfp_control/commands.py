# SPDX-License-Identifier: Apache-2.0
"""Commands as ros2_control's controllers take them, one publisher for each interface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from smfp_core.reference import Reference
from smfp_core.robot import CommandInterface, RobotConfig

# Only the newest command matters; a controller that subscribes reliably must match.
COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
)


def command_type(interface: CommandInterface) -> type:
    """Message type that controllers of ``interface`` subscribe to."""
    return JointTrajectory if interface == "joint_trajectory" else Float64MultiArray


def create_command_publisher(
    node: Node, robot: RobotConfig, interface: CommandInterface, topic: str
) -> tuple[Publisher, Callable[[Reference], None]]:
    """A publisher on ``topic``, and the function that publishes a reference with it.

    The function writes into one message made here, so that a tick allocates nothing.
    """
    publisher = node.create_publisher(command_type(interface), topic, COMMAND_QOS)
    if interface == "joint_trajectory":
        return publisher, _trajectory_sender(publisher, robot)
    message = Float64MultiArray(data=[0.0] * len(robot.joints))
    values = np.frombuffer(message.data, np.float64)

    def send_position(reference: Reference) -> None:
        values[:] = reference.position
        publisher.publish(message)

    def send_velocity(reference: Reference) -> None:
        values[:] = reference.velocity
        publisher.publish(message)

    return publisher, send_velocity if interface == "forward_velocity" else send_position


def _trajectory_sender(publisher: Publisher, robot: RobotConfig) -> Callable[[Reference], None]:
    # One point, due in one control period: the controller interpolates towards it. Velocities
    # stay empty because controllers refuse a trajectory that ends in motion.
    period_ns = round(1e9 / robot.control_rate_hz)
    point = JointTrajectoryPoint(
        positions=[0.0] * len(robot.joints),
        time_from_start=Duration(sec=period_ns // 10**9, nanosec=period_ns % 10**9),
    )
    message = JointTrajectory(joint_names=list(robot.joint_names), points=[point])
    values = np.frombuffer(point.positions, np.float64)

    def send(reference: Reference) -> None:
        values[:] = reference.position
        publisher.publish(message)

    return send
