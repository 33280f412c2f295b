# SPDX-License-Identifier: Apache-2.0
"""The guard's parameters and refusals in the node, as a process."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bench import Bench, FakeDriver

from smfp_core.resources import share_path

pytestmark = pytest.mark.process

# The elbow folded until the wrist lies in the upper arm.
FOLDED = [0.0, -1.57, 2.9, -1.57, -1.57, 0.0]


def test_a_pose_in_which_the_model_touches_itself_is_not_activated_from(
    bench: Bench, policy_path: Path
) -> None:
    FakeDriver(bench, FOLDED)
    bench.start_policy_node(policy_path)
    assert bench.transition("configure")
    assert not bench.transition("activate")
    bench.until(lambda: "collision: " in bench.status.get("refusal", ""), "the refusal")
    assert "touch in the robot's model" in bench.status["refusal"]
    assert not bench.commands


def test_the_collision_check_can_be_switched_off(bench: Bench, policy_path: Path) -> None:
    FakeDriver(bench, FOLDED)
    bench.start_policy_node(policy_path, collision_check=False)
    assert bench.transition("configure")
    assert bench.transition("activate")
    bench.until_state("hold")


def test_an_obstacle_in_the_robot_description_is_heeded(
    bench: Bench, policy_path: Path, tmp_path: Path
) -> None:
    shipped = share_path("config/robots/ur5e.yaml")
    data = yaml.safe_load(shipped.read_text())
    data["mjcf"] = str((shipped.parent / data["mjcf"]).resolve())
    tool = {"name": "crate", "center_m": [0.45, 0.2, 0.45], "size_m": [0.4, 0.4, 0.4]}
    data["surroundings"]["obstacles"] = [tool]
    path = tmp_path / "cell.yaml"
    path.write_text(yaml.safe_dump(data))
    FakeDriver(bench)
    bench.start_policy_node(policy_path, robot=path)
    assert bench.transition("configure")
    assert not bench.transition("activate")
    bench.until(lambda: "obstacle crate" in bench.status.get("refusal", ""), "the refusal")
