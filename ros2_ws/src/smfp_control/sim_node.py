# SPDX-License-Identifier: Apache-2.0
"""sim_node: a simulated arm in real time, behind the topics of a real one's driver.

    ros2 run smfp_control sim_node --ros-args -p robot:=ur5e -p plant:=realistic_delay

With ``lockstep`` it is as fast as the policy node answers, and repeatable to the bit.

Out: joint states, ``/clock`` when asked. In: the controller's command topic. Services:
``~/pause`` (std_srvs/SetBool), ``~/step`` (one period while paused) and ``~/reset``.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from smfp_control.commands import COMMAND_QOS, command_type
from smfp_control.lockstep import EagerThread
from smfp_control.parameters import DeclaredParameters, ParameterError, SimNodeParameters, help_text
from smfp_control.periodic import PeriodicThread
from smfp_control.polling import create_polled_subscription
from smfp_control.process import RunnableNode, freeze_garbage, run_node
from smfp_control.sim_driver import SimulatedDriver
from smfp_core.robot import load_robot
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import Reading, SimulationDiverged
from smfp_sim.plant import load_plant

# A state that is not answered for so long may be lost; it may also be that nobody listens yet.
_RESEND_NS = 20_000_000
# Time of the first tick in lock-step: no clock that a plant can have is behind zero then.
_EPOCH_NS = 100_000 * 10**9
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
        if parameters.randomization and parameters.plant != "ideal":
            raise ParameterError("plant, randomization: give one; the latter's file has a plant")
        if parameters.lockstep and parameters.real_time_factor != 1.0:
            raise ParameterError("real_time_factor: under lockstep the policy node sets the pace")
        if parameters.lockstep and rate_hz != robot.control_rate_hz:
            raise ParameterError(
                "publish_rate_hz: under lockstep a joint state is a period of the policy node's: "
                f"leave it at 0, or set the robot's {robot.control_rate_hz:g}"
            )
        self.driver = SimulatedDriver(
            robot,
            1.0 / rate_hz,
            parameters.physics_rate_hz,
            parameters.start_pose,
            parameters.seed,
            parameters.real_time_factor,
            load_plant(parameters.plant),
            parameters.randomization,
        )
        # Services change the driver between two periods, never during one.
        self._lock = threading.Lock()
        self._paused = False
        connection = parameters.connection(robot)
        self._interface = connection.command_interface
        # As a controller of ros2_control tells, for preflight.
        self.declare_parameter(
            "joints", list(robot.joint_names), ParameterDescriptor(read_only=True)
        )
        self._message = JointState(name=list(robot.joint_names))
        for field in ("position", "velocity", "effort"):
            setattr(self._message, field, [0.0] * len(robot.joints))
        self._position = np.frombuffer(self._message.position, np.float64)
        self._velocity = np.frombuffer(self._message.velocity, np.float64)
        self._effort = np.frombuffer(self._message.effort, np.float64)
        self._states = self.create_publisher(JointState, connection.joint_states_topic, _STATE_QOS)
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", 10) if parameters.publish_clock else None
        )
        _, self._take_command = create_polled_subscription(
            self,
            command_type(self._interface),
            connection.command_topic,
            COMMAND_QOS,
        )
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/step", self._on_step)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._seen_misses = 0
        # In lock-step: called after each period, in the physics thread; False pauses.
        self.on_period: Callable[[], bool] = lambda: True
        self._period_ns = round(1e9 / rate_hz)
        self._clock_error = self.driver.plant.clock
        self._pending: Any = None
        self._ticks = 0
        self._published_ns = 0
        self._lockstep = parameters.lockstep
        if self._lockstep:
            self._thread: PeriodicThread = EagerThread(
                "physics", 1.0 / rate_hz, self._step_once, self._is_answered
            )
        else:
            self._thread = PeriodicThread("physics", 1.0 / rate_hz, self._tick)
        freeze_garbage()
        self._thread.start()
        pace = "in lock-step" if self._lockstep else f"at {rate_hz:g} Hz"
        kind = parameters.randomization or f"plant {parameters.plant}"
        self.get_logger().info(f"simulating {robot.name} {pace}, {kind}")

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
                    self.driver.advance(periods)
                    self._publish()
        except SimulationDiverged as error:
            self.get_logger().fatal(str(error))
            self._paused = True
        except Exception as error:  # a thread that dies silently would leave a frozen robot
            self.get_logger().fatal(f"{type(error).__name__}: {error}")
            self.exit_status = 1
            return False
        return True

    # Lock-step.

    @property
    def answer(self) -> list[float] | None:
        """Values of the command that waits for the next step, None while there is none."""
        with self._lock:
            return None if self._pending is None else list(self._pending.data)

    def pause(self, paused: bool) -> None:
        """Stop stepping, or go on. In lock-step the present state is sent all the while."""
        with self._lock:
            self._paused = paused

    def start_at(self, pose: FloatArray | None = None, plant_seed: int | None = None) -> None:
        """Stand still at ``pose`` [n] (rad), by default the start pose; drop waiting commands."""
        with self._lock:
            self.driver.reset(pose, plant_seed)
            while self._take_command() is not None:
                pass
            self._pending = None
            if self._lockstep:
                self._ticks += 1
                self._publish_tick()

    def _is_answered(self) -> bool:
        """Whether the command came that answers the last joint state; else say it once more."""
        with self._lock:
            while (message := self._take_command()) is not None:
                self._pending = message
            if self._pending is not None and not self._paused:
                return True
            if time.monotonic_ns() - self._published_ns > _RESEND_NS:
                self._publish_tick()
        return False

    def _step_once(self, now_ns: int) -> bool:
        try:
            with self._lock:
                self._take(self._pending)
                self._pending = None
                self.driver.advance()
                self._ticks += 1
                if not self.on_period():
                    self._paused = True
                self._publish_tick()
        except SimulationDiverged as error:
            self.get_logger().fatal(str(error))
            self._paused = True
        except Exception as error:  # a thread that dies silently would leave a frozen robot
            self.get_logger().fatal(f"{type(error).__name__}: {error}")
            self.exit_status = 1
            return False
        return True

    def _publish_tick(self) -> None:
        arm = self.driver.arm
        reading = Reading(
            arm.time_s, arm.measured_position, arm.measured_velocity, arm.measured_effort
        )
        # Stamps tell ticks apart, so they are the tick's own, whenever the state was measured.
        elapsed_ns = self._ticks * self._period_ns
        self._send_clock(elapsed_ns)
        self._send(reading, _EPOCH_NS + elapsed_ns, elapsed_ns)
        self._published_ns = time.monotonic_ns()

    # Commands and states.

    def _take_commands(self) -> None:
        while (message := self._take_command()) is not None:
            self._take(message)

    def _take(self, message: Any) -> None:
        if self._interface == "joint_trajectory":
            problem = self._take_trajectory(message)
        elif self._interface == "forward_velocity":
            problem = self.driver.take_velocity(message.data)
        else:
            problem = self.driver.take_position(message.data)
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
        return self.driver.take_trajectory(names, end.positions, duration_s)

    def _publish(self) -> None:
        arm = self.driver.arm
        time_ns = now_ns = round(arm.time_s * 1e9)
        if self._clock_publisher is None:
            now_ns = self.get_clock().now().nanoseconds
        self._send_clock(time_ns)
        for reading in arm.arrivals:
            self._send(reading, now_ns - time_ns + round(reading.time_s * 1e9), time_ns)

    def _send_clock(self, time_ns: int) -> None:
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=_time(time_ns)))

    def _send(self, reading: Reading, stamp_ns: int, elapsed_ns: int) -> None:
        """Publish a joint state, stamped as the plant's clock has it after ``elapsed_ns``."""
        self._position[:] = reading.position
        self._velocity[:] = reading.velocity
        self._effort[:] = reading.effort
        error_ns = round(self._clock_error.offset_s * 1e9 + self._clock_error.drift * elapsed_ns)
        self._message.header.stamp = _time(max(stamp_ns + error_ns, 0))
        self._states.publish(self._message)

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.pause(request.data)
        response.success, response.message = True, "paused" if request.data else "running"
        return response

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            if not self._paused:
                response.message = "refused: pause first"
            elif self._lockstep:
                response.message = "refused: under lockstep the policy node sets the pace"
            else:
                self._take_commands()
                self.driver.advance()
                self._publish()
                response.success = True
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.start_at()
        response.success = True
        return response


def _time(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


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
