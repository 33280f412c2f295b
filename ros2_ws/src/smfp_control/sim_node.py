# SPDX-License-Identifier: Apache-2.0
"""sim_node: a simulated arm in real time, behind the topics of a real one's driver.

    ros2 run smfp_control sim_node --ros-args -p robot:=ur5e

Out: joint states, ``/clock`` when asked. In: the controller's command topic. Services:
``~/pause`` (std_srvs/SetBool), ``~/step`` (one period while paused) and ``~/reset``.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import sys
import threading

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from smfp_control.commands import COMMAND_QOS, command_type
from smfp_control.parameters import DeclaredParameters, ParameterError, SimNodeParameters, help_text
from smfp_control.periodic import PeriodicThread
from smfp_control.polling import create_polled_subscription
from smfp_control.process import RunnableNode, freeze_garbage, run_node
from smfp_control.sim_driver import SimulatedDriver
from smfp_core.robot import load_robot
from smfp_core.strict import ConfigError
from smfp_sim.arm import SimulationDiverged

# Reliable, as ros2_control's broadcaster publishes: it serves both kinds of subscribers.
_STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
)


class SimNode(RunnableNode):
    """The node. A physics thread of its own takes commands, steps and publishes.

    Raises:
        ParameterError, ConfigError: a parameter, the robot's YAML or its MJCF is wrong.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("sim_node")
        declared = DeclaredParameters(self, SimNodeParameters)
        for problem in declared.unknown():
            self.get_logger().warning(f"parameter {problem}")
        parameters = declared.read()
        robot = load_robot(parameters.robot)
        rate_hz = parameters.publish_rate_hz or robot.control_rate_hz
        self._driver = SimulatedDriver(
            robot,
            1.0 / rate_hz,
            parameters.physics_rate_hz,
            parameters.start_pose,
            parameters.seed,
            parameters.real_time_factor,
        )
        # Services change the driver between two periods, never during one.
        self._lock = threading.Lock()
        self._paused = False
        self._interface = parameters.command_interface or robot.command_interface
        self._message = JointState(name=list(robot.joint_names))
        for field in ("position", "velocity", "effort"):
            setattr(self._message, field, [0.0] * len(robot.joints))
        self._position = np.frombuffer(self._message.position, np.float64)
        self._velocity = np.frombuffer(self._message.velocity, np.float64)
        self._effort = np.frombuffer(self._message.effort, np.float64)
        self._states = self.create_publisher(
            JointState, parameters.joint_states_topic or robot.topics.joint_states, _STATE_QOS
        )
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", 10) if parameters.publish_clock else None
        )
        _, self._take_command = create_polled_subscription(
            self,
            command_type(self._interface),
            parameters.command_topic or getattr(robot.topics, self._interface),
            COMMAND_QOS,
        )
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/step", self._on_step)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._seen_misses = 0
        self._thread = PeriodicThread("physics", 1.0 / rate_hz, self._tick)
        freeze_garbage()
        self._thread.start()
        self.get_logger().info(f"simulating {robot.name} at {rate_hz:g} Hz")

    def close(self) -> None:
        """Stop stepping."""
        self._thread.stop(2.0)

    def _tick(self, now_ns: int) -> bool:
        misses = self._thread.misses
        periods, self._seen_misses = 1 + misses - self._seen_misses, misses
        try:
            with self._lock:
                self._take_commands()
                if not self._paused:
                    self._driver.advance(periods)
                    self._publish()
        except SimulationDiverged as error:
            self.get_logger().fatal(str(error))
            self._paused = True
        except Exception as error:  # a thread that dies silently would leave a frozen robot
            self.get_logger().fatal(f"{type(error).__name__}: {error}")
            self.exit_status = 1
            return False
        return True

    def _take_commands(self) -> None:
        while (message := self._take_command()) is not None:
            if self._interface == "joint_trajectory":
                problem = self._take_trajectory(message)
            elif self._interface == "forward_velocity":
                problem = self._driver.take_velocity(message.data)
            else:
                problem = self._driver.take_position(message.data)
            if problem is not None:
                self.get_logger().warning(f"command ignored: {problem}", throttle_duration_sec=1.0)

    def _take_trajectory(self, message: object) -> str | None:
        points = getattr(message, "points", ())
        if not points:
            return "the trajectory has no points"
        # Our own controller sends one point at a time; of a longer path only the end is taken.
        end = points[-1]
        duration_s = end.time_from_start.sec + end.time_from_start.nanosec * 1e-9
        names = getattr(message, "joint_names", ())
        return self._driver.take_trajectory(names, end.positions, duration_s)

    def _publish(self) -> None:
        arm = self._driver.arm
        self._position[:] = arm.joint_position
        self._velocity[:] = arm.joint_velocity
        self._effort[:] = arm.joint_effort
        if self._clock_publisher is None:
            stamp = self.get_clock().now().to_msg()
        else:
            nanoseconds = round(arm.time_s * 1e9)
            stamp = Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
            self._clock_publisher.publish(Clock(clock=stamp))
        self._message.header.stamp = stamp
        self._states.publish(self._message)

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._paused = request.data
        response.success, response.message = True, "paused" if request.data else "running"
        return response

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            response.success = self._paused
            if self._paused:
                self._take_commands()
                self._driver.advance()
                self._publish()
            else:
                response.message = "refused: pause first"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._driver.reset()
        response.success = True
        return response


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(help_text(SimNodeParameters, __doc__))
        return 0
    try:
        return run_node(SimNode, args)
    except (ParameterError, ConfigError) as error:
        print(f"sim_node: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
