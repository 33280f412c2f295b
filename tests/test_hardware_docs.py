# SPDX-License-Identifier: Apache-2.0
"""docs/hardware.md against the code: what it tells people to type exists."""

from __future__ import annotations

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from smfp_control.faults import FaultKind
from smfp_control.parameters import PolicyNodeParameters, SimNodeParameters, describe

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "hardware.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.strip()
    for kind, block in BLOCKS
    if kind == "console"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


def commands(start: str) -> list[list[str]]:
    """The words of each command that starts so, after the start."""
    found = [shlex.split(c[len(start) :]) for c in COMMANDS if c.startswith(start)]
    assert found, f"no command '{start}' in the page"
    return found


def test_launch_files_have_the_arguments_that_are_given() -> None:
    for file, *arguments in commands("ros2 launch smfp_control "):
        shared = ROOT / "ros2_ws/src/smfp_control/launching.py"
        sources = (ROOT / "launch" / file).read_text() + shared.read_text()
        declared = re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', sources)
        assert {argument.split(":=")[0] for argument in arguments} <= set(declared)


def test_executables_and_options_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its import switches pictures off for good, which the tests of pictures beside it need.
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    from smfp_control.preflight import _arguments

    scripts = metadata.distribution("smfp_control").entry_points.select(group="console_scripts")
    for name, *options in commands("ros2 run smfp_control "):
        assert name in scripts.names
        if name == "preflight":
            assert _arguments(options)
        else:
            assert name == "sim_node"
            given = [word.partition(":=")[0] for word in options if ":=" in word]
            assert set(given) <= {row.name for row in describe(SimNodeParameters)}


def test_topics_and_services_of_the_node_exist() -> None:
    source = (ROOT / "ros2_ws/src/smfp_control/policy_node.py").read_text()
    services = [words[0] for words in commands("ros2 service call ")]
    topics = [words[-3] for words in commands("ros2 topic pub ")]
    topics += [words[0] for words in commands("ros2 topic echo ")]
    for name in services + topics:
        assert name.startswith("/policy_node/")
        assert f'"~/{name.removeprefix("/policy_node/")}"' in source


@pytest.mark.parametrize("name", ["hardware", "robots/ur5e", "robots/fr3"])
def test_files_that_the_page_names_exist(name: str) -> None:
    file = f"config/{name}.yaml" if "/" in name else f"config/control/{name}.yaml"
    assert file in TEXT
    assert (ROOT / file).is_file()


def test_parameters_that_the_page_names_exist() -> None:
    known = {row.name for row in describe(PolicyNodeParameters)}
    named = set(re.findall(r"^ {4}(\w+): [\d.]+$", TEXT, re.MULTILINE))
    named |= {"scheduler_priority", "cpu_affinity", "lock_memory", "realtime_required"}
    named |= {"state_timeout_s", "state_delay_limit_s", "blend_ratio", "blend_time_s"}
    assert all(name in TEXT for name in named)
    assert {"tool_speed_limit_m_s", "tracking_error_rad"} <= named <= known


def test_every_fault_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", TEXT, re.MULTILINE)
    faults = [row for row in rows if row not in ("forward_position", "forward_velocity")]
    assert set(faults) >= {kind.value for kind in FaultKind}
