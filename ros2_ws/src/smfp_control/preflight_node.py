# SPDX-License-Identifier: Apache-2.0
"""What has to hold of the policy node that is to drive the arm. No ROS in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smfp_control.preflight_checks import Row

# Of its parameters, those that decide what the other checks are worth.
NODE_PARAMETERS = (
    *("robot", "policy_path", "command_interface", "joint_states_topic", "command_topic"),
    *("control_rate_hz", "state_timeout_s", "lockstep"),
)


def check_node(checked: Mapping[str, Any], found: Mapping[str, Any] | None) -> Row:
    """Whether it will do what was checked.

    Args:
        checked: the parameters that preflight was given, and took for those that it was not.
        found: those of the node, with the same defaults filled in; None: there is no node, empty:
            it does not tell.
    """
    check = "policy node"
    if found is None:
        return Row(check, "note", "not there yet", "run this again when it is configured")
    if not found:
        return Row(check, "note", "does not tell its parameters", "look: ros2 param dump")
    if found["lockstep"]:
        return Row(
            check,
            "no-go",
            "runs with lockstep: it would not notice that states no longer come",
            "start it without; lockstep is for simulation only",
        )
    others = [
        f"{name} {found[name] or 'unset'}, not {value}"
        for name, value in checked.items()
        if found[name] != value
    ]
    if others:
        return Row(
            check,
            "no-go",
            "runs with " + "; ".join(others),
            "give preflight and the node the same arguments",
        )
    return Row(check, "go", "runs with what was checked here")
