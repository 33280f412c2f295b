# SPDX-License-Identifier: Apache-2.0
"""A simulated arm and the policy node that drives it, brought to active by itself.

    ros2 launch smfp_control sim.launch.py
    ros2 launch smfp_control sim.launch.py robot:=ur5e policy:=/path/to/policy.onnx
    ros2 launch smfp_control sim.launch.py namespace:=left autostart:=false

Then send a goal (base frame, metres):

    ros2 topic pub --once /policy_node/goal geometry_msgs/msg/PoseStamped \
      '{header: {frame_id: base_link}, pose: {position: {x: 0.4, y: 0.2, z: 0.5}}}'
    ros2 topic echo /policy_node/status

`ros2 launch smfp_control sim.launch.py --show-args` lists all arguments.
"""

from launch.actions import DeclareLaunchArgument, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

PACKAGE = "smfp_control"


def end_launch(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """Nothing runs on without a node; during a shutdown, another one would be an error."""
    reason = f"{event.process_name} ended"
    return [] if context.is_shutdown else [Shutdown(reason=reason)]


def generate_launch_description() -> LaunchDescription:
    """Two nodes; the end of either ends the launch."""
    robot = LaunchConfiguration("robot")
    config = LaunchConfiguration("config")
    namespace = LaunchConfiguration("namespace")
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
                    [FindPackageShare(PACKAGE), "config", "control", "sim.yaml"]
                ),
                description="Parameters of both nodes",
            ),
            DeclareLaunchArgument(
                "rate",
                default_value="0.0",
                description="Control rate in Hz; 0: as the robot description says",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Of both nodes"),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Bring the policy node to active",
            ),
            Node(
                package=PACKAGE,
                executable="sim_node",
                name="sim_node",
                namespace=namespace,
                output="screen",
                parameters=[
                    config,
                    {
                        "robot": ParameterValue(robot, value_type=str),
                        "publish_rate_hz": ParameterValue(
                            LaunchConfiguration("rate"), value_type=float
                        ),
                    },
                ],
                on_exit=end_launch,
            ),
            LifecycleNode(
                package=PACKAGE,
                executable="policy_node",
                name="policy_node",
                namespace=namespace,
                output="screen",
                parameters=[
                    config,
                    {
                        "robot": ParameterValue(robot, value_type=str),
                        "policy_path": ParameterValue(
                            LaunchConfiguration("policy"), value_type=str
                        ),
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
