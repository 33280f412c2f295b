# SPDX-License-Identifier: Apache-2.0
"""Lock-step: policy node and simulation wait for each other, so that neither clock matters.

The simulation publishes the state of tick k and waits for the command that answers it before it
steps to tick k+1. Each state has a stamp of its own; one that seems lost is sent again with the
same stamp, which the receiver ignores if it was not. So each state is answered exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from smfp_control.joint_state import JointStateMessage
from smfp_control.periodic import PeriodicThread

# How long to sleep between questions: an answer takes a fraction of a millisecond, a pause long.
_SOON_S, _LATER_S, _SOON_QUESTIONS = 1e-4, 1e-3, 100


class EagerThread(PeriodicThread):
    """Ticks whenever ``due`` says so, as fast as that goes, instead of on deadlines.

    Once it is waited for with ``join``, and while it is ``urgent``, it ticks on, period by period,
    whatever ``due`` says: a loop comes to rest even if nobody steps the simulation any more.
    """

    def __init__(
        self,
        name: str,
        period_s: float,
        tick: Callable[[int], bool],
        due: Callable[[], bool],
        prepare: Callable[[], bool] = lambda: True,
        urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(name, period_s, tick, prepare=prepare)
        self._due, self._urgent = due, urgent
        self._ending = False

    def join(self, timeout_s: float) -> bool:
        """Let it tick to its end, and wait for that; False if it has not ended in time."""
        self._ending = True
        return super().join(timeout_s)

    def _pace(self) -> None:
        while self._await():
            if not self._tick(time.monotonic_ns()):
                return
            self.ticks += 1

    def _await(self) -> bool:
        """Sleep until a tick is due; False: never again."""
        questions = 0
        while not self._stop and not self._due():
            if self._ending or self._urgent():
                time.sleep(self.period_ns * 1e-9)
                break
            questions += 1
            time.sleep(_SOON_S if questions < _SOON_QUESTIONS else _LATER_S)
        return not self._stop


class StateFollower:
    """Between the subscription to joint states and the control loop: says when a tick is due.

    Args:
        take: the next waiting joint state, or None.
    """

    def __init__(self, take: Callable[[], JointStateMessage | None]) -> None:
        self._take = take
        self._held: JointStateMessage | None = None
        self._stamp: Any = None
        self._first = True

    def restart(self) -> None:
        """The first tick is due at once: it answers the state that activation saw."""
        self._held, self._first = None, True

    def due(self) -> bool:
        """Whether a state has come that was not answered yet."""
        if self._first:
            self._first = False
            return True
        while (message := self._take()) is not None:
            if self._is_new(message):
                self._held = message
                return True
        return False

    def take(self) -> JointStateMessage | None:
        """The next joint state for the loop."""
        message, self._held = self._held, None
        if message is None and (message := self._take()) is not None:
            self._is_new(message)
        return message

    def _is_new(self, message: JointStateMessage) -> bool:
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        new = stamp != self._stamp
        self._stamp = stamp
        return new
