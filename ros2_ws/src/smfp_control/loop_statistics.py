# SPDX-License-Identifier: Apache-2.0
"""What the control loop counts."""

from __future__ import annotations

from smfp_control.periodic import Ring
from smfp_control.safety import KINDS, Intervention


class LoopStatistics:
    """Counts and costs of ticks. Written by the control thread, read by any.

    Stages: taking and judging states; the policy with its reference, of which ``observation`` is
    the part that makes its input, in the ticks that sample it; the safety filter; sending.
    """

    STAGES = ("observe", "observation", "policy", "filter", "publish", "total")

    def __init__(self) -> None:
        self.cost_ns = {stage: Ring() for stage in self.STAGES}
        self.state_age_ns = Ring()
        # What each combination that was met consists of: taking it apart is slow.
        self._parts: dict[Intervention, list[Intervention]] = {}
        self.clear()

    def count(self, kinds: Intervention) -> None:
        """Count interventions of the filter."""
        if kinds not in self._parts:
            self._parts[kinds] = [kind for kind in KINDS if kind & kinds]
        for kind in self._parts[kinds]:
            self.interventions[kind] += 1

    def clear(self) -> None:
        """Start counting anew."""
        self.ticks = 0
        self.joint_states = 0
        self.policy_samples = 0
        self.interventions: dict[Intervention, int] = dict.fromkeys(KINDS, 0)
        for ring in (*self.cost_ns.values(), self.state_age_ns):
            ring.clear()
