# SPDX-License-Identifier: Apache-2.0
"""What the policy node tells the world: ``~/status`` and ``/diagnostics``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from smfp_control.control_loop import ControlLoop, LoopState
from smfp_control.faults import Fault
from smfp_control.periodic import PeriodicThread
from smfp_control.safety import KINDS
from smfp_core.specs import ControlAssumptions

# Late subscribers (``ros2 topic echo``) get the present status at once.
STATUS_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True)
class StatusSnapshot:
    """The content of one ``~/status``; two equal ones need not be sent twice.

    Attributes:
        lifecycle: label of the life-cycle state.
        state: of the control loop; None while it does not run.
        goal: [3] in the base frame, m, or [7] with a quaternion x, y, z, w; None without one.
        goal_error_m: distance of the tool to the goal; NaN without one.
        goal_angle_error_rad: angle of the tool to the goal's orientation; NaN without one.
        goal_kind: what goals the policy needs, "position" or "pose"; empty before there is one.
        refusal: why the last request (goal, configuration, activation) was refused; empty if not.
    """

    lifecycle: str
    state: LoopState | None
    fault: Fault | None
    goal: tuple[float, ...] | None
    goal_error_m: float
    refusal: str
    goal_angle_error_rad: float = math.nan
    goal_kind: str = ""

    def same_but_for_numbers(self, other: StatusSnapshot | None) -> bool:
        """Whether nothing changed that is worth a message of its own."""
        return other is not None and (
            (self.lifecycle, self.state, self.fault, self.goal, self.refusal, self.goal_kind)
            == (
                *(other.lifecycle, other.state, other.fault),
                *(other.goal, other.refusal, other.goal_kind),
            )
        )

    def message(self, name: str, hardware_id: str) -> DiagnosticStatus:
        """As ``diagnostic_msgs/DiagnosticStatus``."""
        if self.fault is not None:
            level, text = DiagnosticStatus.ERROR, f"{self.fault.kind.value}: {self.fault.reason}"
        elif self.refusal:
            level, text = DiagnosticStatus.WARN, self.refusal
        else:
            level, text = DiagnosticStatus.OK, self.state.value if self.state else self.lifecycle
        goal = self.goal or ()
        values = {
            "lifecycle": self.lifecycle,
            "state": self.state.value if self.state else "inactive",
            "fault": self.fault.kind.value if self.fault else "none",
            "fault_reason": self.fault.reason if self.fault else "",
            "refusal": self.refusal,
            "goal_m": " ".join(f"{x:.6f}" for x in goal[:3]),
            "goal_error_m": _number(self.goal_error_m),
            "goal_orientation": " ".join(f"{x:.6f}" for x in goal[3:]),
            "goal_angle_error_rad": _number(self.goal_angle_error_rad),
            "goal_kind": self.goal_kind,
        }
        return DiagnosticStatus(
            level=level, name=name, message=text, hardware_id=hardware_id, values=_pairs(values)
        )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _pairs(values: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]


def _percentiles(values: NDArray[np.float64], scale: float) -> str:
    return " ".join("nan" if math.isnan(x) else f"{x * scale:.3f}" for x in values)


def loop_diagnostics(
    loop: ControlLoop, thread: PeriodicThread | None, policy_name: str, policy_sha256: str
) -> list[KeyValue]:
    """Rates, delays and counts of the running loop, as keys with their units."""
    statistics = loop.statistics
    values = {
        "policy": policy_name,
        "policy_sha256": policy_sha256,
        "faults": str(loop.faults),
        "ticks": str(statistics.ticks),
        "policy_samples": str(statistics.policy_samples),
        "joint_states_accepted": str(statistics.joint_states),
        "joint_states_out_of_order": str(loop.reader.out_of_order),
        "state_delay_ms": f"{loop.reader.delay_ns * 1e-6:.3f}",
        "state_age_ms_p50_p99": _percentiles(statistics.state_age_ns.percentiles(50, 99), 1e-6),
    }
    if thread is not None:
        values["loop_rate_hz"] = f"{thread.rate_hz():.3f}"
        values["deadline_misses"] = str(thread.misses_since_clear)
        values["period_error_ms_p50_p99_max"] = _percentiles(
            thread.period_error_ns.percentiles(50, 99, 100), 1e-6
        )
    for stage, ring in statistics.cost_ns.items():
        values[f"{stage}_us_p50_p99"] = _percentiles(ring.percentiles(50, 99), 1e-3)
    for kind in KINDS:
        name = (kind.name or "").lower()
        values[f"interventions_{name}"] = str(statistics.interventions[kind])
    values["safety_last_obstruction"] = loop.safety_filter.reason
    values["safety_interventions"] = str(sum(statistics.interventions.values()))
    return _pairs(values)


def diagnostics_of(message: DiagnosticArray, node: str) -> dict[str, str] | None:
    """Values of ``/diagnostics`` by the node of this full name; None if it is another one's."""
    for status in message.status:
        if status.name == node:
            return {item.key: item.value for item in status.values}
    return None


def trained_with(control: ControlAssumptions) -> str:
    """What delay and filtering a policy was trained with; empty if its file does not say."""
    if control.state_delay_s is None:
        return ""
    text = (
        f"trained with commands up to {control.command_delay_s * 1e3:g} ms and joint states "
        f"up to {control.state_delay_s * 1e3:g} ms late"
    )
    if control.velocity_filter_s:
        text += (
            f", velocities behind a low-pass of {control.velocity_filter_s * 1e3:g} ms, which "
            "is applied here where the driver sends none"
        )
    return text


def later_than_trained(control: ControlAssumptions, delay_s: float) -> str:
    """That joint states come later than in training; empty if not, or if nothing is known of it."""
    if control.state_delay_s is None or delay_s <= control.state_delay_s:
        return ""
    return (
        f"joint states come {delay_s * 1e3:.0f} ms late, and the policy was trained with "
        f"up to {control.state_delay_s * 1e3:g} ms: mend the network, or train with more"
    )
