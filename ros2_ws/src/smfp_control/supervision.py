# SPDX-License-Identifier: Apache-2.0
"""What the control loop looks at before each command: joint states and missed deadlines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smfp_control.faults import Fault, FaultKind
from smfp_control.joint_state import JointStateMessage, JointStateReader, PublisherWatch
from smfp_control.loop_statistics import LoopStatistics
from smfp_control.safety import StateMonitor
from smfp_core.robot import RobotConfig

# A queue that is longer than this is left for the next tick: a flood must not stop the loop.
_MOST_MESSAGES_PER_TICK = 16


@dataclass(frozen=True)
class LoopSettings:
    """Bounds of the loop's own supervision.

    Attributes:
        state_timeout_s: age of the newest state, on the steady clock, that stops the arm; and as
            long a time without a tick.
        state_delay_limit_s: how much later than the promptest joint states may come; 0: any.
        blend_ratio, blend_time_s: after activation or a reset the policy moves joints at most at
            this part of its speed, which rises to all of it over this time of motion.
        deadline_miss_limit: missed deadlines within ``deadline_window_s`` that stop it.
    """

    state_timeout_s: float
    deadline_miss_limit: int
    deadline_window_s: float
    state_delay_limit_s: float = 0.0
    blend_ratio: float = 1.0
    blend_time_s: float = 0.0


class Supervision:
    """Takes joint states and judges them, and counts the deadlines that were missed.

    Belongs to one thread: that of the control loop while it runs, else the one that starts it.

    Args:
        robot: names of the joints, and the control rate.
        settings: bounds.
        monitor: checks on the measured arm.
        publishers: is told the number of each message before ``take_message`` gives it.
        take_message: the next waiting joint state, or None.
        missed_deadlines: total of deadlines missed so far.
        statistics: counts the states that were taken, and how old they were.

    Attributes:
        reader: the newest joint state.
    """

    def __init__(
        self,
        robot: RobotConfig,
        settings: LoopSettings,
        monitor: StateMonitor,
        publishers: PublisherWatch,
        take_message: Callable[[], JointStateMessage | None],
        missed_deadlines: Callable[[], int],
        statistics: LoopStatistics,
    ) -> None:
        self.reader = JointStateReader(robot.joint_names)
        self._settings = settings
        self._monitor = monitor
        self._publishers = publishers
        self._take_message = take_message
        self._missed_deadlines = missed_deadlines
        self._statistics = statistics
        self._dt = 1.0 / robot.control_rate_hz
        self._timeout_ns = round(settings.state_timeout_s * 1e9)
        self._delay_ns = round(settings.state_delay_limit_s * 1e9)
        self._window_ns = round(settings.deadline_window_s * 1e9)
        self._refused: Fault | None = None
        self._ticked_ns: int | None = None
        self._missed_before = 0
        # Deadlines missed of late: when they were noticed (ns), and how many; their sum.
        self._late: deque[tuple[int, int]] = deque()
        self._late_total = 0

    def begin(self) -> None:
        """Commands begin: nothing that was late before counts."""
        self._ticked_ns = None
        self._missed_before = self._missed_deadlines()
        self._late.clear()
        self._late_total = 0

    def stale(self, now_ns: int) -> bool:
        """Whether no good joint state came for longer than ``state_timeout_s``."""
        return self.reader.accepted == 0 or now_ns - self.reader.received_ns > self._timeout_ns

    def observe(self, now_ns: int, commanded: Sequence[float] | None) -> Fault | None:
        """Take waiting joint states and judge them; returns what is wrong with the state now.

        ``commanded`` is the position [n] (rad) that the arm should be near; None: wherever it is.
        """
        reader = self.reader
        jumped: Fault | None = None
        for _ in range(_MOST_MESSAGES_PER_TICK):
            message = self._take_message()
            if message is None:
                break
            accepted = reader.accepted
            refused = reader.accept(message, now_ns)
            if reader.concerned:
                self._publishers.note(now_ns)
            if refused is not None:
                self._refused = refused
            elif reader.accepted > accepted:
                self._statistics.joint_states += 1
                self._refused = None
                jumped = jumped or self._monitor.check_jump(
                    reader.previous_position, reader.position, max(reader.elapsed_s, self._dt)
                )
        # What is wrong with the last message stays wrong until a good one comes.
        fault = self._publishers.fault(now_ns) or self._refused or jumped
        if fault is not None:
            return fault
        if reader.accepted == 0:
            return Fault(FaultKind.STALE_STATE, "no joint state was received yet")
        age_ns = now_ns - reader.received_ns
        self._statistics.state_age_ns.add(age_ns)
        if self.stale(now_ns):
            # Nothing newer by its stamp came: perhaps the driver's clock was set back. The fault
            # is latched; from here on any stamp will do as the new beginning.
            reader.stamp_ns = 0
            return Fault(
                FaultKind.STALE_STATE,
                f"newest joint state is {age_ns * 1e-6:.0f} ms old (limit "
                f"{self._settings.state_timeout_s * 1e3:g} ms): does the driver run?",
            )
        if 0 < self._delay_ns < reader.delay_ns:
            return Fault(
                FaultKind.STALE_STATE,
                f"joint states come {reader.delay_ns * 1e-6:.0f} ms later than they did (limit "
                f"{self._settings.state_delay_limit_s * 1e3:g} ms): look at the network and at the "
                "driver's load; if a clock was set, deactivate, reset and activate",
            )
        return self._monitor.check(reader.position, reader.velocity, commanded)

    def check_stall(self, now_ns: int) -> Fault | None:
        """Whether no command went out for longer than ``state_timeout_s``; to be asked every tick.

        A state that came meanwhile counts as new when it is taken, so that its age does not tell.
        """
        before_ns, self._ticked_ns = self._ticked_ns, now_ns
        if before_ns is None or now_ns - before_ns <= self._timeout_ns:
            return None
        return Fault(
            FaultKind.MISSED_DEADLINES,
            f"no command for {(now_ns - before_ns) * 1e-6:.0f} ms (limit "
            f"{self._settings.state_timeout_s * 1e3:g} ms): the computer is too busy",
        )

    def check_deadlines(self, now_ns: int) -> Fault | None:
        """Whether too many deadlines were missed of late; to be asked at every tick.

        The window ends now, wherever a stall lies: windows side by side would share one that
        crosses their border, or forget it.
        """
        missed = self._missed_deadlines()
        late = self._late
        if missed > self._missed_before:
            late.append((now_ns, missed - self._missed_before))
            self._late_total += missed - self._missed_before
            self._missed_before = missed
        while late and now_ns - late[0][0] > self._window_ns:
            self._late_total -= late.popleft()[1]
        if self._late_total <= self._settings.deadline_miss_limit:
            return None
        return Fault(
            FaultKind.MISSED_DEADLINES,
            f"{self._late_total} deadlines missed within {self._settings.deadline_window_s:g} s "
            f"(limit {self._settings.deadline_miss_limit}): the computer is too busy",
        )
