# SPDX-License-Identifier: Apache-2.0
"""markers_node: what RViz and Foxglove need to show an arm and where its policy takes it.

    ros2 run smfp_control markers_node --ros-args -p robot:=ur5e -p policy_path:=ur5e_reach

Out: ``robot_description`` (URDF, latched) and ``~/markers`` (goal, predicted path of the tool,
obstacles). In: joint states and the policy node's status. A process of its own that commands
nothing: the control node does not know that it runs.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import dataclasses
import os
import sys
import threading
import time

import numpy as np
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import JointState
from std_msgs.msg import ColorRGBA, String
from visualization_msgs.msg import Marker, MarkerArray

from smfp_control.assembly import load_policy
from smfp_control.goals import goal_of
from smfp_control.joint_state import JointStateReader
from smfp_control.page.node_status import NodeStatus
from smfp_control.parameters import ParameterError
from smfp_control.path_prediction import PathPrediction
from smfp_control.polling import create_polled_subscription
from smfp_control.process import RunnableNode, run_node
from smfp_control.status import STATUS_QOS
from smfp_core.policy_file import PolicyFileError
from smfp_core.robot import Obstacle, load_robot
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.urdf import robot_urdf

_NICENESS = 10
_MOST_HZ = 2000.0
_RATE_HZ = 5.0
_HORIZON_S = 3.0
# A path of a state that is older would start where the arm no longer is.
_FRESH_S = 0.5
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# Of what moves: gone by itself soon after this node.
_LIFETIME = Duration(sec=1)
_GOAL_M, _PATH_M = 0.05, 0.006
_AXIS_M, _AXIS_WIDTH_M = 0.12, 0.006
_GREEN = ColorRGBA(r=0.1, g=0.7, b=0.35, a=0.9)
_ORANGE = ColorRGBA(r=1.0, g=0.6, b=0.1, a=0.9)
_RED = ColorRGBA(r=0.8, g=0.25, b=0.25, a=0.6)


class MarkersNode(RunnableNode):
    """The node; everything runs in the executor's thread.

    Raises:
        ParameterError, ParameterException, ConfigError, PolicyFileError: a parameter, or what it
            names, is wrong.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("markers_node")
        robot_name = self._text("robot", "ur5e", "Name in config/robots, or a YAML file")
        policy_path = self._text(
            "policy_path", "", "Name in config/policies, or an .onnx file; empty: no predicted path"
        )
        rate_hz = self.declare_parameter(
            "control_rate_hz",
            0.0,
            _described(
                "Of the policy node, which the policy was trained for; 0: as the robot description "
                "says [Hz]",
                FloatingPointRange(from_value=0.0, to_value=_MOST_HZ),
            ),
        ).value
        states_topic = self._text(
            "joint_states_topic", "", "Joint states in; empty: as the robot description says"
        )
        publish_description = self.declare_parameter(
            "publish_description",
            True,
            _described("Off where the robot's driver publishes its own"),
        ).value
        self._robot = load_robot(robot_name)
        if rate_hz:
            self._robot = dataclasses.replace(self._robot, control_rate_hz=rate_hz)
        self._prediction: PathPrediction | None = None
        if policy_path:
            policy = load_policy(policy_path, self._robot)
            self._prediction = PathPrediction(self._robot, policy)
        self._reader = JointStateReader(self._robot.joint_names)
        self._status = NodeStatus()
        _, self._take_state = create_polled_subscription(
            self,
            JointState,
            self._robot.connection(joint_states_topic=states_topic).joint_states_topic,
            qos_profile_sensor_data,
        )
        self.create_subscription(
            DiagnosticStatus, "policy_node/status", self._status.take, STATUS_QOS
        )
        self._markers = self.create_publisher(MarkerArray, "~/markers", 10)
        if publish_description:
            description = self.create_publisher(String, "robot_description", _LATCHED)
            description.publish(String(data=robot_urdf(self._robot)))
        self.create_timer(1.0 / _RATE_HZ, self._publish)

    def _text(self, name: str, default: str, description: str) -> str:
        return str(self.declare_parameter(name, default, _described(description)).value)

    def close(self) -> None:
        """Nothing to bring to rest."""

    def _publish(self) -> None:
        while (message := self._take_state()) is not None:
            self._reader.accept(message, time.monotonic_ns())
        stamp, goal = self.get_clock().now().to_msg(), goal_of(self._status.values)
        markers = [
            goal_marker(goal),
            *axes_marker(goal),
            path_marker(self._path(goal)),
            *(obstacle_marker(i, o) for i, o in enumerate(self._robot.surroundings.obstacles)),
        ]
        for marker in markers:
            marker.header.frame_id, marker.header.stamp = self._robot.base_frame, stamp
        self._markers.publish(MarkerArray(markers=markers))

    def _path(self, goal: FloatArray | None) -> FloatArray | None:
        reader = self._reader
        age_s = (time.monotonic_ns() - reader.received_ns) * 1e-9
        if self._prediction is None or goal is None or not reader.accepted or age_s > _FRESH_S:
            return None
        return self._prediction.path(
            np.array(reader.position), np.array(reader.velocity), goal, _HORIZON_S
        )


def _described(description: str, *bounds: FloatingPointRange) -> ParameterDescriptor:
    return ParameterDescriptor(description=description, read_only=True, floating_point_range=bounds)


def goal_marker(goal: FloatArray | None) -> Marker:
    """A ball at ``goal`` ([3] m, base frame, or [7]); None removes it."""
    if goal is None:
        return Marker(ns="goal", action=Marker.DELETE)
    marker = Marker(ns="goal", type=Marker.SPHERE, color=_GREEN, lifetime=_LIFETIME)
    _place(marker, goal[:3], (_GOAL_M,) * 3)
    return marker


def axes_marker(goal: FloatArray | None) -> list[Marker]:
    """The axes x, y, z of a goal [7] with a quaternion x, y, z, w; none of another goal."""
    if goal is None or len(goal) == 3:
        return []
    marker = Marker(ns="goal_axes", type=Marker.LINE_LIST, lifetime=_LIFETIME)
    _place(marker, goal[:3], (_AXIS_WIDTH_M, 0.0, 0.0))
    turned = marker.pose.orientation
    turned.x, turned.y, turned.z, turned.w = map(float, goal[3:])
    for i in range(3):
        tip = [_AXIS_M * (i == j) for j in range(3)]
        color = ColorRGBA(**{name: float(i == j) for j, name in enumerate("rgb")}, a=0.9)
        marker.points += [Point(), Point(x=tip[0], y=tip[1], z=tip[2])]
        marker.colors += [color, color]
    return [marker]


def path_marker(points: FloatArray | None) -> Marker:
    """A line through ``points`` [k, 3] (m, base frame); fewer than two remove it."""
    if points is None or len(points) < 2:
        return Marker(ns="path", action=Marker.DELETE)
    marker = Marker(ns="path", type=Marker.LINE_STRIP, color=_ORANGE, lifetime=_LIFETIME)
    marker.scale.x = _PATH_M
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
    return marker


def obstacle_marker(number: int, obstacle: Obstacle) -> Marker:
    """A box or a ball as the robot's YAML has it."""
    box = obstacle.size_m is not None
    marker = Marker(ns="obstacles", id=number, color=_RED)
    marker.type = Marker.CUBE if box else Marker.SPHERE
    size = obstacle.size_m or (2.0 * (obstacle.radius_m or 0.0),) * 3
    _place(marker, np.array(obstacle.center_m), size)
    half = obstacle.yaw_rad / 2
    marker.pose.orientation.w, marker.pose.orientation.z = float(np.cos(half)), float(np.sin(half))
    return marker


def _place(marker: Marker, point: FloatArray, size: tuple[float, float, float]) -> None:
    position, scale = marker.pose.position, marker.scale
    position.x, position.y, position.z = map(float, point)
    scale.x, scale.y, scale.z = map(float, size)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(__doc__)
        return 0
    os.nice(_NICENESS)
    try:
        return run_node(MarkersNode, args)
    except (ParameterError, ParameterException, ConfigError, PolicyFileError) as error:
        print(f"markers_node: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
