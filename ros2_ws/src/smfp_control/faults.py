# SPDX-License-Identifier: Apache-2.0
"""Faults: what stops the arm, and the latch that keeps the first one until somebody resets it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FaultKind(enum.Enum):
    """Why the arm was stopped. The value is the text on ``~/status``."""

    ESTOP = "estop"
    STALE_STATE = "stale_state"
    INCOMPLETE_STATE = "incomplete_state"
    NON_FINITE_STATE = "non_finite_state"
    STATE_JUMP = "state_jump"
    TWO_PUBLISHERS = "two_publishers"
    POSITION_LIMIT = "position_limit"
    VELOCITY_LIMIT = "velocity_limit"
    TRACKING_ERROR = "tracking_error"
    NO_CONTROLLER = "no_controller"
    MISSED_DEADLINES = "missed_deadlines"
    POLICY_OUTPUT = "policy_output"
    INTERNAL = "internal"


@dataclass(frozen=True)
class Fault:
    """One fault, with a reason that says what was seen and what to do."""

    kind: FaultKind
    reason: str


class FaultLatch:
    """Keeps the first fault; later ones neither replace nor clear it. Holds the e-stop's level.

    ``fault`` is written by the control thread while there is one, else by the executor's; any
    thread may read. The latch outlives activations: only a reset, never a life-cycle transition,
    clears a fault.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.count = 0
        self.estop_pressed = False
        # Counted by the thread that presses, compared by the one that stops: a press is never lost.
        self._presses = self._presses_taken = 0

    def set(self, fault: Fault) -> None:
        """Latch ``fault`` unless one is latched already."""
        if self.fault is None:
            self.fault = fault
            self.count += 1

    def clear(self) -> None:
        """Forget the fault. The caller has made sure that its cause is gone."""
        self.fault = None

    def set_estop(self, pressed: bool) -> None:
        """The e-stop was pressed or released."""
        # The press outlives a release that comes before the next tick.
        self._presses += pressed
        self.estop_pressed = pressed

    def take_estop(self) -> Fault | None:
        """The fault of an e-stop that is pressed, or was since the last call."""
        presses = self._presses
        stopped = self.estop_pressed or presses != self._presses_taken
        self._presses_taken = presses
        return Fault(FaultKind.ESTOP, "the e-stop was pressed") if stopped else None
