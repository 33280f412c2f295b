# SPDX-License-Identifier: Apache-2.0
"""A goal as it goes to the policy node, and as the node's status tells it.

In here a goal is an array [3], a position (m, base frame), or [7], which adds the orientation of
the tool as a quaternion x, y, z, w.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node

from smfp_core.specs import FloatArray


def goal_message(node: Node, base_frame: str, goal: FloatArray) -> PoseStamped:
    """A ``~/goal`` for ``goal`` [3] or [7], stamped now by the clock of ``node``."""
    message = PoseStamped()
    message.header.frame_id = base_frame
    message.header.stamp = node.get_clock().now().to_msg()
    point, turn = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = map(float, goal[:3])
    if len(goal) > 3:
        turn.x, turn.y, turn.z, turn.w = map(float, goal[3:])
    return message


def pose_of(message: PoseStamped) -> FloatArray:
    """The goal [7] in a ``~/goal``. A sender that means a position alone leaves the rest as is."""
    point, turn = message.pose.position, message.pose.orientation
    return np.array([point.x, point.y, point.z, turn.x, turn.y, turn.z, turn.w])


def goal_of(status: Mapping[str, str]) -> FloatArray | None:
    """The goal in the values of a ``~/status``; None without one."""
    text = f"{status.get('goal_m', '')} {status.get('goal_orientation', '')}".split()
    return np.array(text, np.float64) if text else None
