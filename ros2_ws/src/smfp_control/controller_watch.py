# SPDX-License-Identifier: Apache-2.0
"""Whether anybody takes the commands. No ROS in here."""

from __future__ import annotations

import enum

# Discovery has two directions: a publisher may know of a subscriber that does not yet know of it,
# and takes nothing. On a busy computer the two lie some hundred milliseconds apart.
_SURE_AFTER_S = 0.5


class Hearing(enum.Enum):
    """What may be expected of a command that is sent now."""

    NOBODY = "nobody"
    """It reaches nobody: the arm stays where its controller left it."""
    PERHAPS = "perhaps"
    """Somebody has only just appeared, and may miss it."""
    SURELY = "surely"
    """Somebody takes it."""


class ControllerWatch:
    """Judges by the number of subscribers, asked for every now and then."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._had = False

    def begin(self) -> None:
        """Commands begin: nobody can be lost of those that were there before."""
        self._had = False

    def update(self, subscribers: int, now_s: float) -> Hearing:
        """``subscribers`` at ``now_s`` (s, steady clock)."""
        if subscribers == 0:
            self._since_s = None
            return Hearing.NOBODY
        self._had = True
        if self._since_s is None:
            self._since_s = now_s
        return Hearing.SURELY if now_s - self._since_s >= _SURE_AFTER_S else Hearing.PERHAPS

    @property
    def lost(self) -> bool:
        """Whether there was somebody since ``begin``, and is nobody now."""
        return self._had and self._since_s is None
