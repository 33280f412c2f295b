# SPDX-License-Identifier: Apache-2.0
"""A simulated arm and the policy node that drives it, brought to active by itself.

    ros2 launch smfp_control sim.launch.py
    ros2 launch smfp_control sim.launch.py robot:=ur5e policy:=/path/to/policy.onnx
    ros2 launch smfp_control sim.launch.py namespace:=left autostart:=false
    ros2 launch smfp_control sim.launch.py markers:=true    # for RViz and Foxglove

Then send a goal (base frame, metres):

    ros2 topic pub --once /policy_node/goal geometry_msgs/msg/PoseStamped \
      '{header: {frame_id: base_link}, pose: {position: {x: 0.4, y: 0.2, z: 0.5}}}'
    ros2 topic echo /policy_node/status

`ros2 launch smfp_control sim.launch.py --show-args` lists all arguments.
"""

from launch_ros.actions import Node

from launch import LaunchDescription
from smfp_control.launching import (
    checked_first,
    common_arguments,
    markers_node,
    node_with_file,
    policy_node,
)


def generate_launch_description() -> LaunchDescription:
    """Two nodes, the end of either ends the launch; and, where asked for, the markers."""
    return LaunchDescription(
        [
            *common_arguments("sim.yaml", autostart=True),
            *checked_first(
                node_with_file(
                    Node,
                    "sim_node",
                    {"robot": ("robot", str), "publish_rate_hz": ("rate", float)},
                    fixed={},
                ),
                policy_node(),
                markers_node(),
            ),
        ]
    )
