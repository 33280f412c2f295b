# SPDX-License-Identifier: Apache-2.0
"""Files of parameters against the launch arguments that go before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smfp_control.parameter_file import refuse_contradictions
from smfp_core.strict import ConfigError

ARGUMENTS = {
    "robot": ("robot", "ur5e"),
    "policy_path": ("policy", "ur5e_reach"),
    "control_rate_hz": ("rate", 0.0),
    "autostart": ("autostart", False),
    "lockstep": ("", False),
}


def judge(folder: Path, text: str, node: str = "/policy_node") -> None:
    path = folder / "config.yaml"
    path.write_text(text)
    refuse_contradictions(path, node, ARGUMENTS)


@pytest.mark.parametrize(
    "section",
    ["/**/policy_node", "policy_node", "/policy_node", "/**", "/*"],
)
def test_another_robot_in_the_file_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError) as refused:
        judge(tmp_path, f"{section}:\n  ros__parameters:\n    robot: cell.yaml\n")
    assert "config.yaml: robot is 'cell.yaml', and the argument robot" in str(refused.value)
    assert "give robot:=cell.yaml, or take robot out of the file" in str(refused.value)


def test_the_argument_is_named_where_it_is_called_otherwise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give policy:=mine\.onnx, or take policy_path"):
        judge(tmp_path, "/**:\n  ros__parameters:\n    policy_path: mine.onnx\n")
    with pytest.raises(ConfigError, match="give rate:=250, or"):
        judge(tmp_path, "/**:\n  ros__parameters:\n    control_rate_hz: 250\n")


def test_what_the_launch_file_alone_decides_is_refused_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lockstep is 'True', and this launch file's is always"):
        judge(tmp_path, "/**:\n  ros__parameters:\n    lockstep: true\n")
    judge(tmp_path, "/**:\n  ros__parameters:\n    lockstep: false\n")


@pytest.mark.parametrize(
    "text",
    [
        "/**/policy_node:\n  ros__parameters: {robot: ur5e, control_rate_hz: 0}\n",
        "/**/policy_node:\n  ros__parameters: {tool_speed_limit_m_s: 0.05}\n",
        "/**/sim_node:\n  ros__parameters: {robot: cell.yaml}\n",
        "/left/policy_node:\n  ros__parameters: {robot: cell.yaml}\n",
        "/*/policy_node:\n  ros__parameters: {robot: cell.yaml}\n",
        "left:\n  policy_node:\n    ros__parameters: {robot: cell.yaml}\n",
        "/**/policy_node:\n",
        "/**/policy_node:\n  ros__parameters:\n",
    ],
)
def test_the_same_value_other_parameters_and_other_nodes_are_not(tmp_path: Path, text: str) -> None:
    judge(tmp_path, text)


@pytest.mark.parametrize("section", ["/left/policy_node", "/*/policy_node", "/**/policy_node"])
def test_sections_count_for_a_node_in_its_namespace(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match="robot is"):
        judge(tmp_path, f"{section}:\n  ros__parameters: {{robot: a}}\n", node="/left/policy_node")
    nested = "left:\n  policy_node:\n    ros__parameters: {robot: a}\n"
    with pytest.raises(ConfigError, match="robot is"):
        judge(tmp_path, nested, node="/left/policy_node")
