# SPDX-License-Identifier: Apache-2.0
"""One control tick, ROS-free: state -> checks -> policy -> reference -> safety filter -> command.

The loop does not know where states come from, where commands go, or what drives it: the node's
control thread calls ``tick`` on absolute deadlines, a test calls it in lock-step.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from smfp_control.controller_watch import Hearing
from smfp_control.faults import Fault, FaultKind, FaultLatch
from smfp_control.joint_state import JointStateMessage, PublisherWatch
from smfp_control.loop_statistics import LoopStatistics
from smfp_control.policy_runner import PolicyRunner
from smfp_control.safety import Intervention, SafetyFilter, StateMonitor
from smfp_control.supervision import LoopSettings, Supervision
from smfp_core.reference import Reference
from smfp_core.robot import RobotConfig
from smfp_core.rotation import angle
from smfp_core.specs import FloatArray, RobotState

# While nobody takes commands the reference follows the arm, though not the noise of its encoders.
_FOLLOW_RAD = 1e-3
# An arm that is faster does not stand; far above what encoders make of one that does.
_STANDING_RAD_S = 0.1
_GOAL_LACKS = "the policy needs an orientation, and the goal was taken without one: send it again"


def _persists(fault: Fault) -> str:
    return f"its cause persists: {fault.reason}"


class LoopState(enum.Enum):
    """What the loop is doing. The value is the text on ``~/status``."""

    HOLD = "hold"
    TRACKING = "tracking"
    RAMPING_DOWN = "ramping_down"
    FAULT = "fault"
    ESTOP = "estop"


class Kinematics(Protocol):
    """Forward kinematics of the measured joints."""

    def update(self, state: RobotState) -> None:
        """Write tool position and Jacobian of the measured joints into ``state``, in place."""
        ...


class Follower(Protocol):
    """What makes velocities of the reference, where commands are velocities."""

    @property
    def settled(self) -> bool:
        """Whether zeros were sent last."""
        ...

    def rest(self) -> None:
        """Begin anew at zeros."""
        ...


class ControlLoop:
    """State machine of the arm's control, advanced by ``tick`` once a control period.

    Threads: ``tick`` and ``observe`` belong to one thread, the control thread while it runs.
    ``set_goal``, ``drop_goal``, ``swap``, ``request_stop``, ``reset`` and the properties may be
    called from another; each passes one immutable value by a single assignment.

    A fault ramps the reference velocity to zero within the robot's acceleration limit; the last
    commanded reference is then sent on. Neither zeros nor the measured position are commanded: both
    would move a position-controlled arm. What was commanded last is worth nothing, though, to a
    controller that comes anew, perhaps to an arm that was moved meanwhile. So while ``hearing``
    says that nobody takes commands, the reference stays with the measured arm. Where it cannot, or
    something else is wrong as well, nothing is sent; nor is it where no joint states come, once the
    reference rests: whoever listens holds what it has. ``reset`` then begins anew from the measured
    arm, which has to stand.

    Args:
        robot: limits and goals.
        runner: of a policy that was verified for ``robot``.
        kinematics: of ``robot``.
        settings: supervision.
        monitor: checks on the measured arm.
        latch: of faults; it outlives the loop.
        take_message: the next waiting joint state, or None.
        send: takes the reference to command; called every tick.
        missed_deadlines: total of deadlines missed so far by whatever drives ``tick``.
        publishers: is told the number of each message before ``take_message`` gives it.
        follower: makes what ``send`` sends, if that is velocities. By them an arm that was pushed
            away in a fault would come back at the reset: the reference is put where the arm is.
        answers: whether each tick must send, as a simulation in lock-step waits for it.
        safety_filter: for the robot's limits and control period; by default one that bounds the
            joints alone.
    """

    def __init__(
        self,
        robot: RobotConfig,
        runner: PolicyRunner,
        kinematics: Kinematics,
        settings: LoopSettings,
        monitor: StateMonitor,
        latch: FaultLatch,
        take_message: Callable[[], JointStateMessage | None],
        send: Callable[[Reference], None],
        missed_deadlines: Callable[[], int] = lambda: 0,
        safety_filter: SafetyFilter | None = None,
        publishers: PublisherWatch | None = None,
        follower: Follower | None = None,
        answers: bool = False,
    ) -> None:
        n = len(robot.joints)
        self.robot = robot
        self.statistics = LoopStatistics()
        self._supervision = Supervision(
            robot,
            settings,
            monitor,
            publishers or PublisherWatch(),
            take_message,
            missed_deadlines,
            self.statistics,
        )
        self.reader = self._supervision.reader
        self.command = Reference.at_rest(np.zeros(n))
        self.state = LoopState.HOLD
        self.goal_error_m = math.nan
        self.goal_angle_error_rad = math.nan
        # What somebody other than the control thread finds wrong, for as long as it is.
        self.external: Fault | None = None
        # Whether commands reach anybody; told by somebody other than the control thread.
        self.hearing = Hearing.SURELY
        self._follower, self._answers = follower, answers
        self._silent = False
        self._settings = settings
        self._kinematics = kinematics
        self._latch = latch
        self._send = send
        self._dt = 1.0 / robot.control_rate_hz
        self.safety_filter = safety_filter or SafetyFilter(robot.limits, self._dt)
        self._plain_filter = SafetyFilter(robot.limits, self._dt)
        self._zeros = [0.0] * n
        self._step: list[float] = (robot.limits.acceleration * self._dt).tolist()
        self._blend = settings.blend_ratio
        self._blend_step = 1.0
        if settings.blend_time_s > 0.0:
            self._blend_step = (1.0 - settings.blend_ratio) * self._dt / settings.blend_time_s
        self._robot_state = RobotState(
            np.zeros(n),
            np.zeros(n),
            self.command.position,
            self.command.velocity,
            np.zeros(3),
            np.zeros((3, n)),
        )
        runner.policy.observation.make_room(self._robot_state)
        self._runner = self._next_runner = runner
        self.reader.velocity_filter_s = runner.velocity_filter_s
        self._goal: FloatArray | None = None
        self._tracked: FloatArray | None = None
        self._begun = self._stopping = False
        self._clear_requested = False
        self._clear_refusal: str | None = None
        self._present: Fault | None = None
        self._phase = 0
        self._observation_ns = 0

    # Called from the executor's thread.

    @property
    def goal(self) -> FloatArray | None:
        """Goal that is pursued, None while there is none: [3] (m, base frame), or [7] with a
        quaternion x, y, z, w if the policy needs one.
        """
        return self._goal

    @property
    def at_rest(self) -> bool:
        """Whether the commanded reference stands still."""
        return not self.command.velocity.any()

    @property
    def settled(self) -> bool:
        """Whether what was sent last stands still: the reference, and velocities made of it."""
        return self.at_rest and (self._follower is None or self._follower.settled)

    @property
    def correctable(self) -> bool:
        """Whether the measured position may correct what is sent: not in a fault nor at the end."""
        return self._begun and self._latch.fault is None and not self._stopping

    def set_goal(self, goal: FloatArray) -> str | None:
        """Pursue ``goal``, [3] (m, base frame) or [7]; returns the reason if it is refused.

        The quaternion x, y, z, w of the latter is ignored unless the policy needs an orientation.
        A refused goal also ends the pursuit of the one before: whoever sent it no longer wants
        the arm to go there.
        """
        wanted = np.array(goal, np.float64)
        if not self._next_runner.needs_orientation:
            wanted = wanted[:3]
        refusal = _GOAL_LACKS if self._lacks_orientation(wanted) else None
        refusal = refusal or self.robot.goal_refusal(wanted)
        if self.hearing is Hearing.NOBODY:
            refusal = "nobody takes commands: is the controller active?"
        if self._latch.fault is not None:
            refusal = f"fault '{self._latch.fault.kind.value}' is latched: call reset first"
        self._goal = wanted if refusal is None else None
        return refusal

    def drop_goal(self) -> None:
        """Ramp to rest and hold."""
        self._goal = None

    @property
    def runner(self) -> PolicyRunner:
        """What the control thread samples."""
        return self._runner

    def swap(self, runner: PolicyRunner) -> str | None:
        """Sample ``runner`` from the next tick on; returns why the goal had to be dropped, if so.

        A goal that was taken without an orientation is none for a policy that needs one. The
        reference goes on from where it is, so the command takes no step; the old runner is
        in use until ``runner`` is what the property of that name gives.
        """
        self._next_runner = runner
        goal, dropped = self._goal, None
        if goal is not None and self._lacks_orientation(goal):
            self._goal, dropped = None, _GOAL_LACKS
        elif goal is not None and len(goal) > 3 and not runner.needs_orientation:
            self._goal = goal[:3]
        if not self._begun:
            self._take_runner()
        return dropped

    def request_stop(self) -> None:
        """Ramp to rest; ``tick`` returns False once the reference stands still."""
        self._stopping = True

    def reset(self) -> str | None:
        """Ask for the latched fault to be cleared; returns the reason if that is refused.

        The next tick decides: it may find a cause that this one did not. ``reset_answer`` says how.
        """
        if self._latch.estop_pressed:
            return "the e-stop is pressed: release it first"
        if self._present is not None:
            return _persists(self._present)
        if not self.at_rest:
            ramps = self._latch.fault is not None
            return "the arm is still ramping down" if ramps else "no fault is latched"
        self._clear_refusal = None
        self._clear_requested = True
        return None

    def reset_answer(self, timeout_s: float) -> str | None:
        """Wait until a tick has decided on ``reset``; returns the reason if it was refused.

        Without a tick in that time the request is withdrawn: it must not surprise anybody later.
        """
        deadline = time.monotonic() + timeout_s
        while self._clear_requested:
            if time.monotonic() > deadline:
                self._clear_requested = False
                return "no tick of the control loop came: does the simulation stand still?"
            time.sleep(0.001)
        return self._clear_refusal

    @property
    def needs_orientation(self) -> bool:
        """Whether goals must say how the tool is to be turned."""
        return self._next_runner.needs_orientation

    def _lacks_orientation(self, goal: FloatArray) -> bool:
        return self._next_runner.needs_orientation and len(goal) < 7

    # Called from the control thread (before it starts: from the one that starts it).

    def observe(self, now_ns: int) -> Fault | None:
        """Take waiting joint states and judge them; returns what is wrong with the state now."""
        # What nobody is told is not followed.
        heard = self._begun and not self._silent and self.hearing is not Hearing.NOBODY
        return self._supervision.observe(now_ns, self.command.position.tolist() if heard else None)

    def moving(self) -> Fault | None:
        """What is wrong if the measured arm does not stand: a reference at rest would jerk it."""
        fastest = max(map(abs, self.reader.velocity))
        if fastest <= _STANDING_RAD_S:
            return None
        return Fault(
            FaultKind.VELOCITY_LIMIT,
            f"the arm moves, at {fastest:.2f} rad/s: whatever moves it has to stop first",
        )

    def clear_statistics(self) -> None:
        """Start every count anew."""
        self.statistics.clear()
        self.reader.out_of_order = 0
        self._latch.count = 0

    @property
    def faults(self) -> int:
        """Faults latched so far."""
        return self._latch.count

    def end(self) -> None:
        """Commands have ended: the last one no longer says where the arm should be."""
        self._begun = False

    def begin(self) -> None:
        """Start from the measured pose, at rest, without a goal. ``observe`` found no fault."""
        self._begun, self._silent = True, False
        self._rest_follower()
        self._blend = self._settings.blend_ratio
        self._take_over(np.array(self.reader.position))
        self._goal = self._tracked = self._present = None
        self._stopping = self._clear_requested = False
        self._supervision.begin()
        self._runner.noise.restart()
        self.state = LoopState.HOLD
        self.goal_error_m = math.nan

    def tick(self, now_ns: int) -> bool:
        """Advance by one control period at steady time ``now_ns``.

        Returns:
            False once a requested stop is complete; the last command was then sent.
        """
        clock = time.perf_counter_ns
        statistics = self.statistics
        self._observation_ns = 0
        reset = self._clear_requested
        start = clock()
        try:
            self._supervise(now_ns, reset)
            observed = clock()
            wanted, heading = self._desire()
            desired = clock()
        except Exception as error:  # whatever it is, the arm must be ramped down
            observed = desired = clock()
            self._latch.set(Fault(FaultKind.INTERNAL, f"{type(error).__name__}: {error}"))
            wanted = heading = self._zeros
        try:
            kinds = self.safety_filter.apply(
                self.command,
                wanted,
                heading,
                self._latch.fault is not None or self._stopping,
            )
        except Exception as error:  # it changes the command at its very end, so braking is open
            self._latch.set(Fault(FaultKind.INTERNAL, f"{type(error).__name__}: {error}"))
            self.safety_filter.forget()
            kinds = self._plain_filter.apply(self.command, self._zeros)
        if kinds is not Intervention.NONE:
            statistics.count(kinds)
        filtered = clock()
        try:
            if not self._silent:
                self._send(self.command)
        except Exception as error:  # a publisher that fails must not end the thread
            self._latch.set(Fault(FaultKind.INTERNAL, f"publish: {type(error).__name__}: {error}"))
        end = clock()
        if reset:
            if self._latch.fault is not None and self._clear_refusal is None:
                self._clear_refusal = _persists(self._latch.fault)
            self._clear_requested = False
        if self._latch.fault is not None and self._supervision.stale(now_ns):
            self._silent = self._silent or (self.settled and not self._answers)
        self.state = self._state()
        statistics.ticks += 1
        cost = statistics.cost_ns
        cost["observe"].add(observed - start)
        if self._observation_ns:
            cost["observation"].add(self._observation_ns)
        cost["policy"].add(desired - observed)
        cost["filter"].add(filtered - desired)
        cost["publish"].add(end - filtered)
        cost["total"].add(end - start)
        return not (self._stopping and self.settled)

    def _supervise(self, now_ns: int, reset: bool) -> None:
        stall = self._supervision.check_stall(now_ns)
        if self._answers or self.hearing is Hearing.NOBODY:
            stall = None
        if stall is not None and self._follower is None:
            # Without commands the arm has stopped at the last one: a ramp would jerk it.
            self.command.velocity[:] = 0.0
            self.safety_filter.forget()
        fault = self.observe(now_ns)
        busy = self._supervision.check_deadlines(now_ns)
        if self.hearing is Hearing.NOBODY:
            latched = self._latch.fault
            if latched is None or latched.kind is FaultKind.NO_CONTROLLER:
                fault = fault or self._join_arm()
                self._silent = fault is not None
            else:
                # Something is wrong with what the node knows: that is nothing to join.
                self._silent = True
            self._rest_follower()
        fault = stall or fault or busy or self.external
        fault = self._latch.take_estop() or fault
        if reset:
            if fault is None and (self._silent or self._follower is not None):
                fault = self.moving() or self._join_arm()
            if fault is None:
                self._goal = None
                self._silent = False
                self._blend = self._settings.blend_ratio
                self._latch.clear()
            else:
                self._clear_refusal = _persists(fault)
        self._present = fault
        if fault is not None:
            self._latch.set(fault)

    def _join_arm(self) -> Fault | None:
        """Put the reference, at rest, where the arm is; returns why it cannot be there.

        Whoever takes commands next would else be sent at once to where the reference has gone.
        """
        measured = np.array(self.reader.position)
        if np.abs(measured - self.command.position).max() <= _FOLLOW_RAD and self.at_rest:
            return None
        refusal = self.safety_filter.refusal(measured)
        if refusal is None:
            self._take_over(measured)
            return None
        return Fault(
            FaultKind.TRACKING_ERROR,
            f"the arm was moved away, to where it may not start from: {refusal}. Deactivate, move "
            "it with the robot's own controls, reset and activate",
        )

    def _rest_follower(self) -> None:
        """Nobody has the velocity that was sent last: who takes the next one begins at rest."""
        if self._follower is not None:
            self._follower.rest()

    def _take_over(self, position: FloatArray) -> None:
        """Begin at ``position`` [n], at rest."""
        self.command.position[:] = position
        self.command.velocity[:] = 0.0
        self.safety_filter.begin(self.command.position)

    def _desire(self) -> tuple[list[float], list[float]]:
        """The velocity [n] (rad/s) desired of the next tick, and the one that it is on its way to.

        That is rest, or what the policy asks for.
        """
        if self._latch.fault is not None:
            self._goal = None
        if self._next_runner is not self._runner:
            self._take_runner()
            self._phase = 0
        goal = None if self._stopping or self.hearing is not Hearing.SURELY else self._goal
        if goal is not None and self._runner.needs_orientation and len(goal) < 7:
            # Of a policy that is about to take over: it starts with the next tick.
            goal = None
        if goal is not self._tracked:
            self._tracked, self._phase = goal, 0
            self.goal_error_m = self.goal_angle_error_rad = math.nan
            if goal is not None:
                self._runner.noise.on_goal()
        if goal is not None and self._phase == 0:
            self._sample(goal)
        if goal is None or self._latch.fault is not None:
            # From a velocity that leaves room to brake, every slower one does.
            ramp = [
                v - min(max(v, -step), step)
                for v, step in zip(self.command.velocity.tolist(), self._step, strict=True)
            ]
            return ramp, self._zeros
        runner, present = self._runner, self.command.velocity.tolist()
        most = self._blend * self.robot.policy.velocity_rad_s
        self._blend = min(self._blend + self._blend_step, 1.0)
        wanted = runner.next_velocity(self.command.position.tolist(), present, most)
        self._phase = (self._phase + 1) % runner.ticks_per_action
        return wanted, runner.heading

    def _sample(self, goal: FloatArray) -> None:
        state = self._robot_state
        start = time.perf_counter_ns()
        state.joint_position_rad[:] = self.reader.position
        state.joint_velocity_rad_s[:] = self.reader.velocity
        self._kinematics.update(state)
        self.goal_error_m = math.dist(goal[:3].tolist(), state.tool_position_m.tolist())
        if state.tool_orientation is not None:
            self.goal_angle_error_rad = angle(state.tool_orientation.tolist(), goal[3:].tolist())
        self.statistics.policy_samples += 1
        finite = self._runner.sample(state, goal)
        self._observation_ns = self._runner.observed_ns - start
        if not finite:
            self._latch.set(
                Fault(FaultKind.POLICY_OUTPUT, "the policy's action is not finite: export anew")
            )

    def _take_runner(self) -> None:
        runner = self._next_runner
        self.reader.velocity_filter_s = runner.velocity_filter_s
        runner.policy.observation.make_room(self._robot_state)
        self._runner = runner

    def _state(self) -> LoopState:
        fault = self._latch.fault
        if fault is not None:
            return LoopState.ESTOP if fault.kind is FaultKind.ESTOP else LoopState.FAULT
        if self._tracked is not None:
            return LoopState.TRACKING
        return LoopState.HOLD if self.at_rest else LoopState.RAMPING_DOWN
