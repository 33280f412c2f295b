# SPDX-License-Identifier: Apache-2.0
"""The rooms and the arrows between them: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "smfp_core": ROOT / "smfp_core",
    "smfp_sim": ROOT / "sim",
    "smfp_control": ROOT / "ros2_ws" / "src" / "smfp_control",
}
# What a robot's computer runs: numpy and onnxruntime, but neither torch nor gymnasium.
DEPLOYED_CORE = {
    *("atomic", "digest", "orientations", "policy_file", "reference", "resources", "robot"),
    *("rotation", "specs", "strict"),
}
TRAINING_ONLY = {"torch", "gymnasium", "dm_control", "onnx", "safetensors", "tensorboard"}
ROS = {"rclpy", "sensor_msgs", "std_msgs", "geometry_msgs", "std_srvs", "diagnostic_msgs"}


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def first(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", files("smfp_core"), ids=lambda p: p.name)
def test_learning_knows_neither_simulation_nor_ros(path: Path):
    assert not first(imports(path)) & (ROS | {"smfp_sim", "smfp_control"})


@pytest.mark.parametrize("path", files("smfp_sim"), ids=lambda p: p.name)
def test_simulation_knows_no_ros(path: Path):
    assert not first(imports(path)) & (ROS | {"smfp_control"})


@pytest.mark.parametrize("path", files("smfp_control"), ids=lambda p: p.name)
def test_control_uses_only_what_a_robot_has(path: Path):
    names = list(imports(path))
    assert not first(iter(names)) & TRAINING_ONLY
    core = {name.split(".")[1] for name in names if name.startswith("smfp_core.")}
    assert core <= DEPLOYED_CORE
    assert not any(name.startswith("smfp_sim.tasks") for name in names)


@pytest.mark.parametrize("module", sorted(DEPLOYED_CORE))
def test_deployed_parts_of_the_core_need_no_training_package(module: str):
    names = list(imports(PACKAGES["smfp_core"] / f"{module}.py"))
    assert not first(iter(names)) & TRAINING_ONLY
    core = {name.split(".")[1] for name in names if name.startswith("smfp_core.")}
    assert core <= DEPLOYED_CORE
