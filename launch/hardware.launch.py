# SPDX-License-Identifier: Apache-2.0
"""The policy node alone, against the topics of a real arm's driver. Starts inactive.

    ros2 launch smfp_control hardware.launch.py robot:=ur5e policy:=ur5e_reach
    ros2 launch smfp_control hardware.launch.py command_interface:=forward_velocity
    ros2 launch smfp_control hardware.launch.py namespace:=left \
      joint_states_topic:=/left/joint_states command_topic:=/left/arm_controller/commands

With the driver running and the matching controller active:

    ros2 lifecycle set /policy_node configure
    ros2 lifecycle set /policy_node activate

The arm then holds where it is until a goal comes on /policy_node/goal; keep a hand on the
emergency stop. `ros2 launch smfp_control hardware.launch.py --show-args` lists all arguments.
"""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from smfp_control.launching import checked_first, common_arguments, markers_node, policy_node


def generate_launch_description() -> LaunchDescription:
    """One node, whose end ends the launch; and, where asked for, the markers."""
    return LaunchDescription(
        [
            *common_arguments("hardware.yaml", autostart=False),
            DeclareLaunchArgument(
                "command_interface",
                default_value="",
                choices=["", "forward_position", "forward_velocity", "joint_trajectory"],
                description="What the controller takes; empty: as the robot description says",
            ),
            DeclareLaunchArgument(
                "joint_states_topic",
                default_value="",
                description="Joint states in; empty: as the robot description says",
            ),
            DeclareLaunchArgument(
                "command_topic",
                default_value="",
                description="Commands out; empty: as the robot description says",
            ),
            *checked_first(
                # Lock-step waits for states as a simulation's clock does: no time-out, no deadline.
                policy_node(
                    "command_interface", "joint_states_topic", "command_topic", lockstep=False
                ),
                # Drivers publish the description of the arm that they drive.
                markers_node("joint_states_topic", publish_description=False),
            ),
        ]
    )
