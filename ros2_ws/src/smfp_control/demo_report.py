# SPDX-License-Identifier: Apache-2.0
"""What the demonstration saw of the node and the arm, as a live table and as one JSON line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rich.table import Table

from smfp_control.goals import goal_of
from smfp_control.status import diagnostics_of
from smfp_core.specs import FloatArray


@dataclass
class GoalRow:
    """One line of the table; ``goal`` is [3] or [7], ``angle_rad`` NaN without an orientation."""

    goal: FloatArray
    error_m: float = math.nan
    angle_rad: float = math.nan
    time_s: float = 0.0
    reached: bool = False


@dataclass
class Scene:
    """What the node says of itself, and the goals so far."""

    state: str = "starting"
    goal: FloatArray | None = None
    goal_kind: str = ""
    fault: str = "none"
    faults: list[str] = field(default_factory=list)
    rows: list[GoalRow] = field(default_factory=list)
    diagnostics: dict[str, str] = field(default_factory=dict)
    first_ticks: tuple[float, int] | None = None
    last_ticks: tuple[float, int] | None = None
    period_error_ms: list[tuple[float, float]] = field(default_factory=list)

    def take_status(self, message: DiagnosticStatus) -> None:
        """A ``~/status``."""
        values = {item.key: item.value for item in message.values}
        if values["fault"] not in ("none", self.fault):
            self.faults.append(message.message)
        self.state = values["state"]
        self.goal = goal_of(values)
        self.goal_kind = values["goal_kind"]
        self.fault = values["fault"]

    def take_diagnostics(self, message: DiagnosticArray) -> None:
        """A ``/diagnostics``: of the policy node, or of whatever else has something to say."""
        values = diagnostics_of(message, "/policy_node")
        if values is None:
            return
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.diagnostics = values
        ticks = int(self.diagnostics["ticks"])
        if "loop_rate_hz" not in self.diagnostics or not ticks:
            return
        self.last_ticks = (stamp, ticks)
        self.first_ticks = self.first_ticks or self.last_ticks
        p50, p99, _ = map(float, self.diagnostics["period_error_ms_p50_p99_max"].split())
        self.period_error_ms.append((p50, p99))

    def control_rate_hz(self) -> float:
        """Mean rate of control ticks between the first and the last diagnostics."""
        if self.first_ticks is None or self.last_ticks is None:
            return math.nan
        elapsed = self.last_ticks[0] - self.first_ticks[0]
        return (self.last_ticks[1] - self.first_ticks[1]) / elapsed if elapsed else math.nan

    def report(self) -> dict[str, Any]:
        """The JSON line. Period errors: median of the p50, largest of the p99 of 8 s windows."""

        def number(value: float, digits: int) -> float | None:
            return round(value, digits) if math.isfinite(value) else None

        errors = [row.error_m for row in self.rows]
        angles = [row.angle_rad for row in self.rows if math.isfinite(row.angle_rad)]
        p50 = float(np.median([p50 for p50, _ in self.period_error_ms] or [math.nan]))
        p99 = max((p99 for _, p99 in self.period_error_ms), default=math.nan)
        return {
            "goals": len(self.rows),
            "reached": sum(row.reached for row in self.rows),
            "median_error_m": number(float(np.median(errors)), 5) if errors else None,
            **({"median_angle_error_rad": number(float(np.median(angles)), 5)} if angles else {}),
            "control_rate_hz": number(self.control_rate_hz(), 2),
            "period_error_ms": {"p50": number(p50, 3), "p99": number(p99, 3)},
            "deadline_misses": int(self.diagnostics.get("deadline_misses", 0)),
            "safety_interventions": int(self.diagnostics.get("safety_interventions", 0)),
            "faults": len(self.faults),
        }

    def table(self, title: str) -> Table:
        """The live table."""
        table = Table(title=title, caption=self._caption(), caption_justify="left")
        turned = any(len(row.goal) > 3 for row in self.rows)
        errors = ("error (mm)", "angle (rad)") if turned else ("error (mm)",)
        for name in ("#", "goal x y z (m)", *errors, "time (s)", "reached"):
            table.add_column(name, justify="right")
        for i, row in enumerate(self.rows[-20:], start=max(len(self.rows) - 19, 1)):
            x, y, z = row.goal[:3]
            current = row is self.rows[-1] and not row.reached
            table.add_row(
                str(i),
                f"{x:+.3f} {y:+.3f} {z:+.3f}",
                f"{row.error_m * 1e3:.1f}",
                *([f"{row.angle_rad:.3f}"] if turned else []),
                f"{row.time_s:.1f}",
                "[green]yes" if row.reached else ("..." if current else "[red]no"),
            )
        return table

    def _caption(self) -> str:
        shown = self.diagnostics
        return (
            f"state {self.state} | rate {shown.get('loop_rate_hz', '-')} Hz | "
            f"missed deadlines {shown.get('deadline_misses', '-')} | "
            f"interventions {shown.get('safety_interventions', '-')} | "
            f"faults {len(self.faults)}" + "".join(f"\n[red]{text}" for text in self.faults[-3:])
        )
