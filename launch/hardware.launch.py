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

from launch.actions import DeclareLaunchArgument, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

PACKAGE = "smfp_control"


def end_launch(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """Nothing runs on without a node; during a shutdown, another one would be an error."""
    reason = f"{event.process_name} ended"
    return [] if context.is_shutdown else [Shutdown(reason=reason)]


def generate_launch_description() -> LaunchDescription:
    """One node; its end ends the launch."""
    robot = LaunchConfiguration("robot")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "robot", default_value="ur5e", description="Name in config/robots, or a YAML file"
            ),
            DeclareLaunchArgument(
                "policy",
                default_value=[robot, "_reach"],
                description="Name in config/policies, or an .onnx file",
            ),
            DeclareLaunchArgument(
                "config",
                default_value=PathJoinSubstitution(
                    [FindPackageShare(PACKAGE), "config", "control", "hardware.yaml"]
                ),
                description="Parameters of the node",
            ),
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
            DeclareLaunchArgument(
                "rate",
                default_value="0.0",
                description="Control rate in Hz; 0: as the robot description says",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Of the node"),
            DeclareLaunchArgument(
                "autostart",
                default_value="false",
                choices=["true", "false"],
                description="Bring the node to active unasked; leave it off on hardware",
            ),
            LifecycleNode(
                package=PACKAGE,
                executable="policy_node",
                name="policy_node",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("config"),
                    {
                        **{
                            parameter: ParameterValue(LaunchConfiguration(argument), value_type=str)
                            for parameter, argument in (
                                ("robot", "robot"),
                                ("policy_path", "policy"),
                                ("command_interface", "command_interface"),
                                ("joint_states_topic", "joint_states_topic"),
                                ("command_topic", "command_topic"),
                            )
                        },
                        "control_rate_hz": ParameterValue(
                            LaunchConfiguration("rate"), value_type=float
                        ),
                        "autostart": ParameterValue(
                            LaunchConfiguration("autostart"), value_type=bool
                        ),
                    },
                ],
                on_exit=end_launch,
            ),
        ]
    )
