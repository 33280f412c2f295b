# SPDX-License-Identifier: Apache-2.0
"""A goal as it goes to the policy node, and as the node's status tells it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node

from smfp_core.specs import FloatArray


def goal_message(node: Node, base_frame: str, goal: FloatArray) -> PoseStamped:
    """A ``~/goal`` for ``goal`` [3] (m, base frame), stamped now by the clock of ``node``."""
    message = PoseStamped()
    message.header.frame_id = base_frame
    message.header.stamp = node.get_clock().now().to_msg()
    point = message.pose.position
    point.x, point.y, point.z = map(float, goal)
    return message


def goal_of(status: Mapping[str, str]) -> FloatArray | None:
    """The goal [3] (m, base frame) in the values of a ``~/status``; None without one."""
    text = status.get("goal_m", "")
    return np.array(text.split(), np.float64) if text else None
