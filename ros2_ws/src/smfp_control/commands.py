# SPDX-License-Identifier: Apache-2.0
"""Commands as ros2_control's controllers take them, one publisher for each interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from smfp_core.reference import Reference
from smfp_core.robot import CommandInterface, RobotConfig
from smfp_core.specs import FloatArray

# Only the newest command matters; a controller that subscribes reliably must match.
COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
)


# Part of each joint's velocity limit, and of the tool's speed limit, that a correction may add.
CORRECTION_SHARE = 0.1


class VelocityFollower:
    """Velocities that lead an arm along the reference's positions, not only at its velocity.

    Sent alone, the reference's velocity is followed open loop: what the servo loses, or what
    gravity moves while the arm rests, adds up until the tracking error is a fault. So a share of
    the distance is added: ``velocity + gain * (reference - measured)``. What is sent keeps to the
    limits of velocity and acceleration. Without a trustworthy measurement the correction ramps
    to zero, so that an arm that rests is sent zeros.

    The correction comes after the safety filter, which knows nothing of it. So it is bounded
    itself: it moves no guarded point faster than its share of the speed limit, of which the filter
    is left the rest. The corrections that keep to that are a convex set, which it never leaves:
    from tick to tick each joint's goes towards the wanted one as far as the acceleration that the
    reference leaves allows; where that would lead out, all go the same part of their straight way.

    Args:
        robot: limits and control rate.
        gain_per_s: part of the distance that is made up for per second; 0: none.
        levers: [points, n], m: what a joint's radian can move each guarded point by.
        speed_share_m_s: what the correction may add to the speed of these points; 0: anything.

    Attributes:
        value: [n], rad/s, what was sent last.
    """

    def __init__(
        self,
        robot: RobotConfig,
        gain_per_s: float,
        levers: FloatArray | None = None,
        speed_share_m_s: float = 0.0,
    ) -> None:
        n = len(robot.joints)
        self._gain = gain_per_s
        self._limit = robot.limits.velocity
        self._step = robot.limits.acceleration / robot.control_rate_hz
        self._most = CORRECTION_SHARE * self._limit
        # Of each point's share, what a radian a second of each joint takes; nothing if unbounded.
        self._shares: FloatArray = np.zeros((1, n))
        if levers is not None and speed_share_m_s > 0.0:
            self._shares = levers / speed_share_m_s
        self._reference = np.zeros(n)
        self._correction = np.zeros(n)
        self.value = np.zeros(n)

    @property
    def settled(self) -> bool:
        """Whether zeros were sent last."""
        return not self.value.any()

    def rest(self) -> None:
        """Begin anew at zeros, as whoever takes the next velocity does."""
        self._reference[:] = self._correction[:] = self.value[:] = 0.0

    def follow(self, reference: Reference, measured: Sequence[float] | None) -> FloatArray:
        """Velocity [n] (rad/s) to send; ``measured`` [n] (rad) is None where it is not trusted."""
        value, step, velocity = self.value, self._step, reference.velocity
        change = velocity - self._reference
        self._reference[:] = velocity
        way = self._wanted(reference, measured) - self._correction
        # What the acceleration leaves of each joint, in the direction of its way.
        room = np.maximum(np.where(way > 0.0, step - change, step + change), 0.0)
        part = np.minimum(np.maximum(way, -room), room)
        if self._speed_share(self._correction + part) > 1.0:
            shares = np.divide(room, np.abs(way), out=np.ones_like(way), where=way != 0.0)
            part = min(shares.min(), 1.0) * way
        self._correction += part
        wanted = np.minimum(np.maximum(velocity + self._correction, -self._limit), self._limit)
        # Where the reference itself was set anew, the change is more than a step.
        np.minimum(np.maximum(wanted, value - step), value + step, out=value)
        np.subtract(value, velocity, out=self._correction)
        return value

    def _wanted(self, reference: Reference, measured: Sequence[float] | None) -> FloatArray:
        """The correction [n] (rad/s) that the distance asks for, within its bounds."""
        if measured is None:
            return np.zeros_like(self._most)
        wanted = self._gain * np.subtract(reference.position, measured)
        wanted = np.minimum(np.maximum(wanted, -self._most), self._most)
        return wanted / max(1.0, self._speed_share(wanted))

    def _speed_share(self, correction: FloatArray) -> float:
        """What it may move a guarded point by, at most, in units of what it may."""
        return float(self._shares.dot(np.abs(correction)).max())


def command_type(interface: CommandInterface) -> type:
    """Message type that controllers of ``interface`` subscribe to."""
    return JointTrajectory if interface == "joint_trajectory" else Float64MultiArray


def create_command_publisher(
    node: Node,
    robot: RobotConfig,
    interface: CommandInterface,
    topic: str,
    follower: VelocityFollower,
    measured: Callable[[], Sequence[float] | None],
) -> tuple[Publisher, Callable[[Reference], None]]:
    """A publisher on ``topic``, and the function that publishes a reference with it.

    Velocities are made by ``follower`` from the position that ``measured`` gives.

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
        values[:] = follower.follow(reference, measured())
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
