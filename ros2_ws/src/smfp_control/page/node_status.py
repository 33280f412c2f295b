# SPDX-License-Identifier: Apache-2.0
"""What the policy node said last, for as long as that can be believed."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticStatus

# Of a life cycle in which the node repeats its status, at 1 Hz or faster. In the others it speaks
# only when something changes, so that silence says nothing there.
_REPEATING = ("inactive", "active")
_SILENT_S = 2.0


class NodeStatus:
    """The last ``~/status``, which a node that died, or hangs, cannot take back."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._came_s = 0.0

    def take(self, message: DiagnosticStatus) -> None:
        """Note a status, and when it came."""
        self._values = {item.key: item.value for item in message.values}
        self._came_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Age of the last status (s) if another one is overdue; else 0, also before the first."""
        if self._values.get("lifecycle") not in _REPEATING:
            return 0.0
        age_s = time.monotonic() - self._came_s
        return age_s if age_s > _SILENT_S else 0.0

    @property
    def values(self) -> dict[str, str]:
        """Keys and values of the last status; empty before the first, and while one is overdue."""
        return {} if self.silent_s else self._values
