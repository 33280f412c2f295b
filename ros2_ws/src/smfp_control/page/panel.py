# SPDX-License-Identifier: Apache-2.0
"""The page's panel: what the node says, buttons for what it can be asked, and curves."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np
import viser
from viser import uplot

from smfp_control.faults import FaultKind
from smfp_control.page.robot_client import RobotClient
from smfp_core.specs import FloatArray

_WINDOW_S = 20.0
_PLOT_PERIOD_S = 0.2
_TEXT_PERIOD_S = 0.1
_PLOT_HEIGHT = 180
# Upper ends of a scale that follows its values.
_STEPS = tuple(digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5))
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")

WARNING = (
    "*E-STOP asks the policy node, over the network, to ramp down and hold. It is **no emergency "
    "stop** in the sense of a safety function: keep the robot's own within reach.*"
)


class Curves:
    """One plot of the last seconds.

    Args:
        server: of the page.
        title: of the plot, with the unit.
        names: of its curves.
        bounds: of the scale; None: from zero to what the values need.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        title: str,
        names: tuple[str, ...],
        bounds: tuple[float, float] | None = None,
    ) -> None:
        rows = round(_WINDOW_S / _PLOT_PERIOD_S)
        self._rows: deque[tuple[float, ...]] = deque(maxlen=rows)
        series = [uplot.Series(label="s")]
        for name, colour in zip(names, _COLOURS * (1 + len(names) // len(_COLOURS)), strict=False):
            series.append(uplot.Series(label=name, stroke=colour, width=1.5))
        self._bounds = bounds
        self._handle = server.gui.add_uplot(
            tuple(np.zeros(2) for _ in series),
            tuple(series),
            title=title,
            scales=_scales(bounds or (0.0, _STEPS[0])),
            legend=uplot.Legend(show=False),
            height=_PLOT_HEIGHT,
        )
        self._top = _STEPS[0]

    def add(self, now_s: float, values: tuple[float, ...]) -> None:
        """A point of every curve at ``now_s``; values that are not finite leave a gap."""
        self._rows.append((now_s, *values))
        if len(self._rows) < 2:
            return
        table = np.array(self._rows)
        if self._bounds is None:
            # Not left to the browser: a value that is not finite would take its scale with it.
            seen = table[:, 1:]
            most = float(np.max(seen[np.isfinite(seen)], initial=0.0))
            top = next((step for step in _STEPS if step >= most), most)
            if top != self._top:
                self._top = top
                self._handle.scales = _scales((0.0, top))
        self._handle.data = tuple(np.ascontiguousarray(column) for column in table.T)


def _scales(bounds: tuple[float, float]) -> dict[str, uplot.Scale]:
    return {"x": uplot.Scale(time=False), "y": uplot.Scale(range=bounds)}


class Panel:
    """The panel beside the scene.

    Args:
        server: of the page.
        client: whose arm it is.
        note: a line on what is special about this page; may be empty.
    """

    def __init__(self, server: viser.ViserServer, client: RobotClient, note: str = "") -> None:
        self._client = client
        self._note = note
        # Given up by Pause, for Go on; and what the node pursued when last looked at.
        self._held: FloatArray | None = None
        self._pursued: FloatArray | None = None
        self._start_s = time.monotonic()
        self._next_text_s = self._next_plot_s = 0.0
        gui = server.gui
        self._status = gui.add_markdown("waiting for the policy node ...")
        stop = gui.add_button("E-STOP", color="red", hint="Ramp down and hold; latches a fault")
        gui.add_markdown(WARNING)
        self._release = gui.add_button("Release e-stop", hint="The arm holds on; then reset")
        self._reset = gui.add_button("Reset fault", hint="Clear the latched fault; nothing moves")
        self._hold = gui.add_button("Pause", hint="Give up the goal: ramp down and hold")
        self._resume = gui.add_button("Go on", hint="Send the goal again that was given up")
        stop.on_click(lambda _: client.request("estop", True))
        self._release.on_click(lambda _: client.request("estop", False))
        self._reset.on_click(lambda _: client.request("reset"))
        self._hold.on_click(lambda _: self._pause())
        self._resume.on_click(lambda _: self._go_on())
        limits = client.robot.limits
        self._velocity_limit = limits.velocity
        self._error = Curves(server, "goal error (mm)", ("error",))
        self._velocity = Curves(
            server, "joint velocity (% of the limit)", client.robot.joint_names, (-100.0, 100.0)
        )
        self._period = Curves(server, "period error (ms), last 8 s", ("p50", "p99"))

    def update(self, goal_text: str) -> None:
        """Show what was seen; ``goal_text`` says why a place is no goal."""
        now = time.monotonic()
        if now >= self._next_text_s:
            self._next_text_s = now + _TEXT_PERIOD_S
            text = self._text(goal_text)
            if text != self._status.content:
                self._status.content = text
            self._offer()
        if now >= self._next_plot_s:
            self._next_plot_s = now + _PLOT_PERIOD_S
            self._plot(now - self._start_s)

    def _pause(self) -> None:
        goal = self._client.seen.goal
        self._held = goal if goal is not None else self._held
        self._client.request("hold")

    def _go_on(self) -> None:
        if self._held is not None:
            self._client.send_goal(self._held)

    def _offer(self) -> None:
        """Grey out what would be refused. The stop is never greyed out.

        A node that is silent may pursue a goal: then Pause is offered, and Go on is not.
        """
        seen = self._client.seen
        silent, fault = seen.silent_s > 0.0, seen.status.get("fault", "none")
        if seen.goal is not None and self._pursued is None:
            self._held = None
        self._pursued = seen.goal
        given_up = self._held is not None and seen.goal is None and not silent
        offers = (
            (self._release, fault == FaultKind.ESTOP.value),
            (self._reset, fault != "none"),
            (self._hold, seen.goal is not None or silent),
            (self._resume, given_up and fault == "none"),
        )
        for button, offered in offers:
            if button.disabled == offered:
                button.disabled = not offered

    def _text(self, goal_text: str) -> str:
        client, status = self._client, self._client.seen.status
        lines = [f"**{client.robot.name}**" + (f": {self._note}" if self._note else "")]
        if client.seen.silent_s:
            lines.append(f"**policy node: silent for {client.seen.silent_s:.0f} s**")
        elif not status:
            lines.append("policy node: not seen yet")
        else:
            lines.append(f"state **{status.get('state')}**, {status.get('lifecycle')}")
            if status.get("fault", "none") != "none":
                lines.append(f"**FAULT {status['fault']}**: {status['fault_reason']}")
            if status.get("refusal"):
                lines.append(f"refused: {status['refusal']}")
            if status.get("goal_error_m"):
                turn = status.get("goal_angle_error_rad")
                angle = f", {float(turn):.3f} rad" if turn else ""
                lines.append(f"goal error {float(status['goal_error_m']) * 1e3:.1f} mm{angle}")
        if not client.reader.accepted:
            lines.append("joint states: none yet")
        elif not client.live:
            lines.append(f"**joint states: none for {client.state_age_s:.0f} s**")
        missed = client.seen.diagnostics.get("deadline_misses")
        if missed is not None:
            interventions = client.seen.diagnostics.get("safety_interventions", "-")
            lines.append(f"missed deadlines {missed}, interventions {interventions}")
        if goal_text:
            lines.append(f"not a goal: {goal_text}")
        elif client.seen.answer:
            lines.append(client.seen.answer)
        return "\n\n".join(lines)

    def _plot(self, now_s: float) -> None:
        client = self._client
        error = client.seen.status.get("goal_error_m")
        self._error.add(now_s, (float(error) * 1e3 if error else math.nan,))
        velocity = np.array(client.reader.velocity) / self._velocity_limit * 100.0
        if not client.live:
            velocity = np.full_like(velocity, math.nan)
        self._velocity.add(now_s, tuple(velocity))
        errors = client.seen.diagnostics.get("period_error_ms_p50_p99_max", "nan nan nan")
        p50, p99, _ = map(float, errors.split())
        self._period.add(now_s, (p50, p99))
