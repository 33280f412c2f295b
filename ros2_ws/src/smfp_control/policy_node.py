# SPDX-License-Identifier: Apache-2.0
"""policy_node: drives an arm with a policy file.

    ros2 run smfp_control policy_node --ros-args -p robot:=ur5e -p policy_path:=ur5e_reach

A life-cycle node. Configure reads and verifies everything, activate starts commanding from the
measured pose, deactivate ramps to rest. In: joint states, ``~/goal``. Out: the controller's command
topic, ``~/status``, ``/diagnostics``. Services: ``~/hold`` (give up the goal), ``~/estop``,
``~/reset``, ``~/reload_policy``, ``~/reset_statistics``.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from std_srvs.srv import SetBool, Trigger

from smfp_control.assembly import Assembly, assemble, make_runner
from smfp_control.control_loop import ControlLoop, LoopState
from smfp_control.controller_watch import (
    ControllerWatch,
    Hearing,
    controller_of,
    full_name,
)
from smfp_control.faults import Fault, FaultKind, FaultLatch
from smfp_control.goals import pose_of
from smfp_control.lockstep import EagerThread
from smfp_control.parameters import (
    DeclaredParameters,
    ParameterError,
    PolicyNodeParameters,
    help_text,
)
from smfp_control.periodic import PeriodicThread
from smfp_control.policy_runner import PolicyRunner
from smfp_control.process import RunnableNode, freeze_garbage, run_node
from smfp_control.realtime import RealtimeSettings
from smfp_control.status import (
    STATUS_QOS,
    StatusSnapshot,
    later_than_trained,
    loop_diagnostics,
    trained_with,
)
from smfp_core.policy_file import PolicyFileError
from smfp_core.strict import ConfigError

_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_AUTOSTART_PERIOD_S = 0.2
_AUTOSTART_WAIT_S = 0.1
_SWAP_S = 1.0
# Many periods of a control thread, and short for who waits to press the e-stop.
_RESET_S = 0.2
_WATCH_PERIOD_S = 0.1
# What a ramp to rest may take beside the time that the limits say.
_SETTLE_S = 1.0
_STUCK = "the control thread does not end: stop the arm with the robot's own controls"
# How long an arm is looked at to see whether it stands.
_STANDING_S = 0.05


class PolicyNode(LifecycleNode, RunnableNode):
    """The node. Its callbacks run in the executor's thread; commands come from a control thread.

    The control thread exists from activate to deactivate. It reads joint states and publishes
    commands itself, so that nothing the executor does can delay it.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("policy_node")
        self._stop = stop
        self._clear_statistics = False
        self._controller = ControllerWatch()
        self._latch = FaultLatch()
        self._configured: Assembly | None = None
        self._free: Callable[[], None] = lambda: None
        self._thread: PeriodicThread | None = None
        # Of the policy that a change of its parameter was accepted with.
        self._accepted: PolicyRunner | None = None
        self._lifecycle = "unconfigured"
        self._refusal = ""
        self._sent: StatusSnapshot | None = None
        self._logged_fault: Fault | None = None
        self._loop_state: LoopState | None = None
        self._status = self.create_publisher(DiagnosticStatus, "~/status", STATUS_QOS)
        self._declared = DeclaredParameters(
            self, PolicyNodeParameters, self._frozen, self._on_parameters
        )
        self._changed = self.create_guard_condition(self._on_change)
        self._autostart = self.create_timer(
            _AUTOSTART_PERIOD_S,
            self._start_by_itself,
            autostart=self.get_parameter("autostart").value,
        )

    # Life cycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and verify parameters, robot and policy; nothing moves yet."""
        for problem in self._declared.unknown():
            self.get_logger().warning(f"parameter {problem}")
        try:
            self._configured = self._configure()
        except (ParameterError, ConfigError, PolicyFileError) as error:
            return self._refuse("configure", str(error))
        except Exception as error:  # rclpy would swallow it without a word
            return self._refuse("configure", f"{type(error).__name__}: {error}")
        freeze_garbage()
        self._refusal = ""
        self.get_logger().info(
            f"configured: {self._configured.robot.name} with {self._policy_text()}"
        )
        self._announce_training()
        self._report("inactive")
        return _SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Wait for a good joint state, then hold the measured pose and take goals."""
        assert self._configured is not None
        return self._activate(self._configured.parameters.activation_timeout_s)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ramp to rest and stop commanding."""
        if not self._halt():
            return self._refuse("deactivate", _STUCK)
        self._report("inactive")
        return _SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release what configure made."""
        self._end_autostart()
        self._release()
        self._report("unconfigured")
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ramp to rest and release everything, from whatever state."""
        self._end_autostart()
        self._halt()
        self._release()
        self._report("finalized")
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ramp to rest and release everything; the node can be configured again."""
        self._halt()
        self._release()
        self._report("unconfigured")
        return _SUCCESS

    def close(self) -> None:
        """Ramp to rest and release everything; called once, before the process ends."""
        self._halt()
        self._release()

    def _refuse(self, transition: str, reason: str) -> TransitionCallbackReturn:
        self._refusal = f"{transition} refused: {reason}"
        self.get_logger().error(self._refusal)
        stays = {"configure": "unconfigured", "activate": "inactive", "deactivate": "active"}
        self._report(stays[transition])
        return _FAILURE

    def _configure(self) -> Assembly:
        parameters = self._declared.read()
        made = assemble(
            self, parameters, self._latch, lambda: self._thread.misses if self._thread else 0
        )
        self._controller.controller = controller_of(made.commands.topic_name)
        diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._goals = self.create_subscription(PoseStamped, "~/goal", self._on_goal, 10)
        services = (
            self.create_service(Trigger, "~/reset", self._on_reset),
            self.create_service(SetBool, "~/estop", self._on_estop),
            self.create_service(Trigger, "~/hold", self._on_hold),
            self.create_service(Trigger, "~/reload_policy", self._on_reload),
            self.create_service(Trigger, "~/reset_statistics", self._on_reset_statistics),
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timers = (
            self.create_timer(1.0 / parameters.status_rate_hz, self._report),
            self.create_timer(1.0, lambda: self._publish_diagnostics(diagnostics)),
            # On a clock that runs whatever use_sim_time says and /clock does.
            self.create_timer(_WATCH_PERIOD_S, self._watch_controller, clock=steady),
            self.create_timer(_WATCH_PERIOD_S, self._watch_delay, clock=steady),
        )

        def release() -> None:
            for timer in timers:
                self.destroy_timer(timer)
            for service in services:
                self.destroy_service(service)
            self.destroy_subscription(self._goals)
            self.destroy_publisher(diagnostics)
            made.release(self)

        self._free = release
        return made

    def _activate(self, timeout_s: float) -> TransitionCallbackReturn:
        assert self._configured is not None
        if self._latch.fault is not None:
            return self._refuse(
                "activate", f"fault '{self._latch.fault.kind.value}' is latched: call ~/reset first"
            )
        loop = self._configured.loop
        fault = self._await_state(loop, timeout_s)
        if fault is not None:
            return self._refuse("activate", f"{fault.kind.value}: {fault.reason}")
        obstruction = loop.safety_filter.refusal(np.array(loop.reader.position))
        if obstruction is not None:
            return self._refuse(
                "activate", f"{obstruction}: move the arm with the robot's own controls"
            )
        parameters = self._configured.parameters
        realtime = RealtimeSettings(
            parameters.scheduler_priority, parameters.cpu_affinity, parameters.lock_memory
        )
        problems: list[str] = []

        def prepare() -> bool:
            problems.extend(realtime.apply())
            return not (problems and parameters.realtime_required)

        period_s = 1.0 / self._configured.robot.control_rate_hz
        lockstep = self._configured.lockstep
        if lockstep is None:
            thread = PeriodicThread("control", period_s, self._tick, parameters.overrun, prepare)
        else:
            lockstep.restart()
            thread = EagerThread(
                "control",
                period_s,
                self._tick,
                lockstep.due,
                prepare,
                lambda: self._latch.estop_pressed or self._stop.is_set(),
            )
        loop.begin()
        loop.external = None
        self._controller.begin()
        self._watch_controller()
        self._thread = thread
        if not thread.start():
            self._thread = None
            loop.end()
            return self._refuse("activate", "; ".join(problems))
        for problem in problems:
            self.get_logger().warning(f"going on without real time: {problem}")
        self._end_autostart()
        self._refusal = self._forget_goals("activation")
        self.get_logger().info("active: holding the measured pose, waiting for ~/goal")
        self._report("active")
        return _SUCCESS

    def _await_state(self, loop: ControlLoop, timeout_s: float) -> Fault | None:
        """Wait for a good state of an arm that stands; what is wrong, if there is none."""
        # This blocks the executor, but states do not come through it. What waits in the queue may
        # be older than it seems: only what comes from now on counts.
        deadline = time.monotonic() + timeout_s
        loop.observe(time.monotonic_ns())
        loop.reader.clear()
        while True:
            fault = loop.observe(time.monotonic_ns())
            if fault is None or fault.kind is not FaultKind.STALE_STATE:
                break
            if self._stop.is_set() or time.monotonic() >= deadline:
                break
            time.sleep(0.002)
        assert self._configured is not None
        # A driver may send no velocities: one state does not say whether the arm stands. A
        # simulation in lock-step sends one.
        states, end = 2, time.monotonic() + _STANDING_S
        if self._configured.lockstep is not None:
            states, end = 1, 0.0
        while fault is None and (time.monotonic() < end or loop.reader.accepted < states):
            time.sleep(0.002)
            fault = loop.observe(time.monotonic_ns())
        return fault or loop.moving()

    def _forget_goals(self, event: str) -> str:
        """Drop goals that were sent before ``event`` ended; the refusal, if there were any."""
        dropped = False
        while self._goals.handle.take_message(PoseStamped, False) is not None:
            dropped = True
        refusal = f"goal refused: it was sent before the {event}: send it again" if dropped else ""
        if dropped:
            self.get_logger().warning(refusal)
        return refusal

    def _tick(self, now_ns: int) -> bool:
        assert self._configured is not None
        loop = self._configured.loop
        if self._clear_statistics and self._thread is not None:
            self._clear_statistics = False
            loop.clear_statistics()
            self._thread.clear_statistics()
        if self._stop.is_set():
            # Here, too: the executor may be held up by whatever a callback waits for.
            loop.request_stop()
        moving = loop.tick(now_ns)
        if loop.state is not self._loop_state:
            self._loop_state = loop.state
            self._changed.trigger()
        return moving

    def _halt(self) -> bool:
        """Ramp to rest and end the control thread, if there is one; False if it does not end."""
        if self._thread is None or self._configured is None:
            return True
        loop, thread = self._configured.loop, self._thread
        loop.request_stop()
        robot = self._configured.robot
        ramp_s = float(np.max(robot.limits.velocity / robot.limits.acceleration))
        ticks = round((ramp_s + _SETTLE_S) * robot.control_rate_hz)
        if not thread.finish(ticks) and thread.stop(1.0):
            # It hung, and is gone now: what is left of the ramp comes from here.
            while ticks and loop.tick(time.monotonic_ns()):
                ticks -= 1
                time.sleep(1.0 / robot.control_rate_hz)
        if thread.alive:
            self.get_logger().fatal(_STUCK)
            return False
        if not loop.settled:
            self.get_logger().error("the last command does not stand still")
        loop.end()
        self._thread = None
        return True

    def _release(self) -> None:
        if self._configured is not None:
            self._free()
            self._configured = None

    def _end_autostart(self) -> None:
        """Who changes the state by hand decides from then on."""
        self._autostart.cancel()

    def _start_by_itself(self) -> None:
        if self._configured is None:
            self.trigger_configure()
        if self._configured is None:
            self.exit_status = 1
            return
        # Waiting for the driver is no failure, so the transition is asked for when it can succeed.
        fault = self._await_state(self._configured.loop, _AUTOSTART_WAIT_S)
        if fault is not None:
            self._refusal = f"waiting to activate: {fault.reason}"
            self.get_logger().warning(self._refusal, throttle_duration_sec=5.0)
            self._report()
            return
        self.trigger_activate()

    def _frozen(self, name: str, value: Any) -> str | None:
        if self._configured is None:
            return None
        if name == "policy_path":
            self._accepted, refusal = self._load_runner(value)
            return refusal
        return "parameters are read at configure: deactivate and clean up first"

    def _on_parameters(self, names: list[str]) -> None:
        if "policy_path" in names and self._configured is not None and self._accepted is not None:
            self._swap(self._accepted)

    # Requests.

    def _on_goal(self, message: PoseStamped) -> None:
        assert self._configured is not None
        loop, base_frame = self._configured.loop, self._configured.robot.base_frame
        if self._thread is None:
            refusal: str | None = "the node is not active"
        elif message.header.frame_id != base_frame:
            loop.drop_goal()
            refusal = (
                f"header.frame_id is '{message.header.frame_id}', goals must be given in "
                f"'{base_frame}'"
            )
        else:
            refusal = loop.set_goal(pose_of(message))
        self._refusal = f"goal refused: {refusal}" if refusal else ""
        if refusal:
            self.get_logger().warning(self._refusal, throttle_duration_sec=1.0)
        self._report()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._configured is not None
        if self._thread is not None:
            loop = self._configured.loop
            refusal = loop.reset() or loop.reset_answer(_RESET_S)
        elif self._latch.estop_pressed:
            refusal = "the e-stop is pressed: release it first"
        else:
            refusal = None
            self._latch.clear()
        response.success = refusal is None
        response.message = f"refused: {refusal}" if refusal else ""
        if refusal is None:
            self._refusal = self._forget_goals("reset")
            self.get_logger().info("reset: the arm holds and takes goals")
        else:
            self.get_logger().warning(f"reset {response.message}", throttle_duration_sec=1.0)
        self._report()
        return response

    def _on_estop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._latch.set_estop(request.data)
        if self._thread is None:
            fault = self._latch.take_estop()
            if fault is not None:
                self._latch.set(fault)
        response.success = True
        response.message = "stopping" if request.data else "released: call ~/reset to go on"
        self._report()
        return response

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._configured is not None
        self._configured.loop.drop_goal()
        self._refusal = ""
        response.success = True
        self._report()
        return response

    def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        refusal = self._reload(self.get_parameter("policy_path").value)
        response.success = refusal is None
        response.message = refusal or self._policy_text()
        return response

    def _on_reset_statistics(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        assert self._configured is not None
        if self._thread is None:
            self._configured.loop.clear_statistics()
        else:
            # The control thread writes the counts, so it clears them, at its next tick.
            self._clear_statistics = True
        response.success = True
        return response

    def _watch_controller(self) -> None:
        """A command that nobody takes is no command: the arm is where its controller left it."""
        if self._configured is None:
            return
        loop, publisher = self._configured.loop, self._configured.commands
        topic = publisher.topic_name
        hearing = self._controller.update(
            publisher.get_subscription_count(),
            time.monotonic(),
            lambda: map(full_name, self.get_subscriptions_info_by_topic(topic)),
        )
        if self._configured.lockstep is None:
            # In lock-step the simulation waits for each command.
            loop.hearing = hearing
        if self._thread is None:
            return
        text = (
            f"nobody takes commands on {topic}: does the driver run, and is the controller active?"
        )
        lost = self._controller.lost
        loop.external = Fault(FaultKind.NO_CONTROLLER, text) if lost else None
        if hearing is Hearing.NOBODY:
            self.get_logger().warning(text, throttle_duration_sec=5.0)

    def _policy_text(self) -> str:
        assert self._configured is not None
        policy = self._configured.policy
        return f"{policy.path}, sha256 {policy.sha256[:16]}"

    def _load_runner(self, policy_path: str) -> tuple[PolicyRunner | None, str | None]:
        """A runner for the file, or the reason why it cannot be used here."""
        assert self._configured is not None
        try:
            runner = make_runner(self._configured.parameters, policy_path, self._configured.robot)
        except (ParameterError, PolicyFileError) as error:
            return None, str(error)
        return runner, None

    def _reload(self, policy_path: str) -> str | None:
        """Swap the policy for the file's; the old one stays if the file is refused."""
        runner, refusal = self._load_runner(policy_path)
        if runner is None:
            self._refusal = f"reload refused: {refusal}"
            self.get_logger().error(self._refusal)
            self._report()
            return refusal
        self._swap(runner)
        return None

    def _swap(self, runner: PolicyRunner) -> None:
        assert self._configured is not None
        loop, old = self._configured.loop, self._configured.loop.runner
        dropped = loop.swap(runner)
        # Held here until the control thread has let go of it: freeing a session takes long.
        deadline = time.monotonic() + _SWAP_S
        while loop.runner is old and time.monotonic() < deadline:
            time.sleep(0.001)
        self._refusal = f"goal dropped: {dropped}" if dropped else ""
        if dropped:
            self.get_logger().warning(self._refusal)
        self.get_logger().info(f"policy: {self._policy_text()}")
        self._announce_training()
        self._report()

    def _announce_training(self) -> None:
        """Say what delay and filtering the policy was trained with, if its file does."""
        assert self._configured is not None
        text = trained_with(self._configured.policy.metadata.control)
        if text:
            self.get_logger().info(text)

    def _watch_delay(self) -> None:
        """A policy that sees older states than in training may oscillate: say so."""
        if self._configured is None or self._thread is None:
            return
        # Without a limit the stamps are not to be judged by.
        if self._configured.parameters.state_delay_limit_s:
            delay_s = self._configured.loop.reader.delay_ns * 1e-9
            text = later_than_trained(self._configured.policy.metadata.control, delay_s)
            if text:
                self.get_logger().warning(text, throttle_duration_sec=5.0)

    # Reports.

    def _snapshot(self) -> StatusSnapshot:
        loop = self._configured.loop if self._configured is not None else None
        running = loop is not None and self._thread is not None
        goal = loop.goal if loop is not None and running else None
        return StatusSnapshot(
            lifecycle=self._lifecycle,
            state=loop.state if loop is not None and running else None,
            fault=self._latch.fault,
            goal=None if goal is None else tuple(map(float, goal)),
            goal_error_m=loop.goal_error_m if loop is not None and running else math.nan,
            refusal=self._refusal,
            goal_angle_error_rad=(
                loop.goal_angle_error_rad if loop is not None and running else math.nan
            ),
            goal_kind="" if loop is None else ("pose" if loop.needs_orientation else "position"),
        )

    def _report(self, lifecycle: str | None = None) -> None:
        """Answer a request or a transition with the status."""
        self._lifecycle = lifecycle or self._lifecycle
        self._send_status(self._snapshot())

    def _on_change(self) -> None:
        """The control thread saw its state change: send the status if that is news."""
        snapshot = self._snapshot()
        if not snapshot.same_but_for_numbers(self._sent):
            self._send_status(snapshot)

    def _send_status(self, snapshot: StatusSnapshot) -> None:
        self._sent = snapshot
        self._status.publish(snapshot.message(self.get_fully_qualified_name(), self._hardware_id))
        if snapshot.fault is not self._logged_fault:
            self._logged_fault = snapshot.fault
            if snapshot.fault is not None:
                self.get_logger().error(
                    f"fault {snapshot.fault.kind.value}: {snapshot.fault.reason}. The arm holds; "
                    "call ~/reset once the cause is gone"
                )

    @property
    def _hardware_id(self) -> str:
        return self._configured.robot.name if self._configured is not None else ""

    def _publish_diagnostics(self, publisher: Publisher) -> None:
        assert self._configured is not None
        status = self._snapshot().message(self.get_fully_qualified_name(), self._hardware_id)
        status.values = [
            *status.values,
            *loop_diagnostics(
                self._configured.loop,
                self._thread,
                self._configured.policy.path.name,
                self._configured.policy.sha256,
            ),
        ]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        publisher.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(help_text(PolicyNodeParameters, __doc__))
        return 0
    return run_node(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
