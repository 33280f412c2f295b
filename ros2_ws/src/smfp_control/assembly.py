# SPDX-License-Identifier: Apache-2.0
"""What configure builds: from parameters and files to a control loop on a node's topics.

Nothing here moves an arm, and nothing knows of life cycles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from smfp_control.commands import (
    CORRECTION_SHARE,
    VelocityFollower,
    create_command_publisher,
)
from smfp_control.control_loop import ControlLoop
from smfp_control.faults import FaultLatch
from smfp_control.joint_state import PublisherWatch
from smfp_control.lockstep import StateFollower
from smfp_control.noise import NoiseSource
from smfp_control.parameters import ParameterError, PolicyNodeParameters
from smfp_control.path_guard import PathGuard
from smfp_control.policy_runner import PolicyRunner
from smfp_control.polling import create_polled_subscription
from smfp_control.safety import SafetyFilter, StateMonitor
from smfp_control.supervision import LoopSettings
from smfp_core.policy_file import PolicyFile, PolicyFileError
from smfp_core.resources import share_path
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.specs import OBJECT_FIELDS
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel

# Every message of a burst is taken; the newest counts.
_STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT
)


def find_policy(name_or_path: str) -> Path:
    """Path of a policy file given by name (in config/policies) or by path.

    Raises:
        ParameterError: there is none.
    """
    if not name_or_path:
        raise ParameterError("policy_path: not set; give a name in config/policies or a path")
    if name_or_path.endswith(".onnx"):
        return Path(name_or_path)
    try:
        return share_path(f"config/policies/{name_or_path}.onnx")
    except FileNotFoundError as error:
        raise ParameterError(
            f"policy_path: '{name_or_path}' is no shipped policy, and no path of an .onnx file "
            f"({error})"
        ) from error


def load_policy(name_or_path: str, robot: RobotConfig) -> PolicyFile:
    """A policy, found, loaded and verified for ``robot``, that sees only what nodes know.

    Raises:
        ParameterError: there is no such file.
        PolicyFileError: it cannot be used for this robot, or by a node.
    """
    path = find_policy(name_or_path)
    policy = PolicyFile.load(path, robot)
    for item in policy.observation.fields:
        if item.name in OBJECT_FIELDS:
            raise PolicyFileError(
                path,
                f"observation.{item.name}",
                "this node has no source for it: nothing tells it where an object is",
            )
    return policy


def make_runner(
    parameters: PolicyNodeParameters, policy_path: str, robot: RobotConfig
) -> PolicyRunner:
    """A policy, loaded and verified for ``robot``, with the noise that the parameters ask for.

    Raises:
        ParameterError: there is no such file.
        PolicyFileError: it cannot be used for this robot.
    """
    policy = load_policy(policy_path, robot)
    noise = NoiseSource(
        policy.deterministic_noise,
        parameters.noise_scale,
        parameters.seed,
        parameters.noise_redraw,
    )
    return PolicyRunner(policy, noise, policy.metadata.control.velocity_filter_s)


@dataclasses.dataclass
class Assembly:
    """What a configured node holds; gone after cleanup.

    Attributes:
        parameters: as read at configure.
        robot: at the control rate of the parameters.
        loop: the control loop, not running.
        lockstep: what makes the loop tick by states instead of a clock, if the parameters say so.
        commands: publisher of the commands.
        states: subscription of the joint states.
    """

    parameters: PolicyNodeParameters
    robot: RobotConfig
    loop: ControlLoop
    lockstep: StateFollower | None
    commands: Publisher
    states: Subscription

    @property
    def policy(self) -> PolicyFile:
        """The policy that is sampled now."""
        return cast(PolicyFile, self.loop.runner.policy)

    def release(self, node: Node) -> None:
        """Take the topics back."""
        node.destroy_subscription(self.states)
        node.destroy_publisher(self.commands)


def assemble(
    node: Node, parameters: PolicyNodeParameters, latch: FaultLatch, misses: Callable[[], int]
) -> Assembly:
    """Read the files that the parameters name, verify them, and join the topics.

    Args:
        node: the topics are its.
        parameters: of the node.
        latch: where the loop puts faults.
        misses: number of deadlines missed so far.

    Raises:
        ParameterError: a parameter cannot be used.
        ConfigError: the robot's YAML or MJCF cannot be used.
        PolicyFileError: the policy file cannot be used for this robot.
    """
    robot = load_robot(parameters.robot)
    if parameters.control_rate_hz:
        robot = dataclasses.replace(robot, control_rate_hz=parameters.control_rate_hz)
    arm = ArmModel(robot)
    period_s = 1.0 / robot.control_rate_hz
    connection = parameters.connection(robot)
    velocities = connection.command_interface == "forward_velocity"
    correction_m_s = 0.0
    if velocities and parameters.velocity_position_gain:
        correction_m_s = CORRECTION_SHARE * parameters.tool_speed_limit_m_s
    clearance = ClearanceModel(robot, arm.model)
    guard = PathGuard(
        clearance,
        robot.limits.acceleration,
        period_s,
        parameters.collision_margin_m,
        parameters.tool_speed_limit_m_s - correction_m_s,
        parameters.collision_check,
    )
    runner = make_runner(parameters, parameters.policy_path, robot)
    publishers = PublisherWatch()
    states, take = create_polled_subscription(
        node,
        JointState,
        connection.joint_states_topic,
        _STATE_QOS,
        publishers.take,
    )
    lockstep = StateFollower(take) if parameters.lockstep else None
    follower = VelocityFollower(
        robot, parameters.velocity_position_gain, clearance.point_levers, correction_m_s
    )
    commands, send = create_command_publisher(
        node,
        robot,
        connection.command_interface,
        connection.command_topic,
        follower,
        lambda: loop.reader.position if loop.correctable else None,
    )
    loop = ControlLoop(
        robot,
        runner,
        Kinematics(arm),
        LoopSettings(
            parameters.state_timeout_s,
            parameters.deadline_miss_limit,
            parameters.deadline_window_s,
            parameters.state_delay_limit_s,
            parameters.blend_ratio,
            parameters.blend_time_s,
        ),
        StateMonitor(
            robot,
            parameters.velocity_tolerance,
            parameters.tracking_error_rad,
            parameters.state_jump_rad,
        ),
        latch,
        lockstep.take if lockstep else take,
        send,
        misses,
        SafetyFilter(robot.limits, period_s, guard, parameters.jerk_limit_rad_s3),
        publishers,
        follower if velocities else None,
        answers=lockstep is not None,
    )
    return Assembly(parameters, robot, loop, lockstep, commands, states)
