# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the shipped robot, and policies whose behaviour is known."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, open_bench
from crafted import towards_goal, write_policy, write_pose_policy
from lockstep import LockStep

from smfp_control.isolation import local_environment
from smfp_core.policy_file import PolicyFile
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.rotation import multiply


@pytest.fixture(scope="session")
def robot() -> RobotConfig:
    return load_robot("ur5e")


@pytest.fixture(scope="session")
def policy_path(robot: RobotConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that goes to goals near home."""
    return write_policy(
        tmp_path_factory.mktemp("policy") / "near_home.onnx", robot, towards_goal(robot)
    )


@pytest.fixture(scope="session")
def shaky_policy_path(robot: RobotConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that goes to goals near home and adds its noise to the action."""
    path = tmp_path_factory.mktemp("policy") / "shaky.onnx"
    return write_policy(path, robot, towards_goal(robot), noise_gain=0.1)


@pytest.fixture(scope="session")
def nan_policy_path(robot: RobotConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose output is NaN."""
    path = tmp_path_factory.mktemp("policy") / "nan.onnx"
    return write_policy(path, robot, towards_goal(robot), spoilt=True)


@pytest.fixture(scope="session")
def pose_policy_path(robot: RobotConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that goes to goals with an orientation."""
    return write_pose_policy(tmp_path_factory.mktemp("policy") / "pose.onnx", robot)


@pytest.fixture
def policy(policy_path: Path, robot: RobotConfig) -> PolicyFile:
    return PolicyFile.load(policy_path, robot)


@pytest.fixture
def lockstep(robot: RobotConfig, policy: PolicyFile) -> LockStep:
    return LockStep(robot, policy)


@pytest.fixture
def near_pose() -> np.ndarray:
    """The near goal, with the tool turned by a third of a radian."""
    down = load_robot("ur5e").goals.orientations
    assert down is not None
    turn = (0.0, 0.0, np.sin(1 / 6), np.cos(1 / 6))
    return np.array([*NEAR_GOAL, *multiply(down.middle_xyzw, turn)])


NEAR_GOAL = np.array([0.42, 0.20, 0.55])
FAR_GOAL = np.array([2.0, 0.0, 0.5])


@pytest.fixture
def near_goal() -> np.ndarray:
    """Within 12 cm of where the tool is at home."""
    return NEAR_GOAL.copy()


@pytest.fixture
def far_goal() -> np.ndarray:
    """Out of the arm's reach."""
    return FAR_GOAL.copy()


@pytest.fixture(scope="session")
def local_ros() -> None:
    """ROS traffic confined to this computer; each bench has a domain of its own."""
    os.environ.update(local_environment())


@pytest.fixture
def bench(robot: RobotConfig, local_ros: None) -> Iterator[Bench]:
    with open_bench(robot) as bench:
        yield bench


@pytest.fixture
def hangups() -> Iterator[None]:
    """Children hear SIGHUP even where these tests run under nohup, which is handed down."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
