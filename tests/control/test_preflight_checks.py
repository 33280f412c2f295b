# SPDX-License-Identifier: Apache-2.0
"""What preflight makes of joint states that no driver in good health sends. No ROS runs here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from guarded import CELL
from lockstep import joint_state

from smfp_control.preflight_checks import Endpoint, Observed, Row, check_states
from smfp_core.robot import RobotConfig, Workspace

RATE_HZ, WATCHED_S, TIMEOUT_S = 500.0, 3.0, 0.05
BEGAN_NS = 1_700_000_000_000_000_000
KIND = "sensor_msgs/msg/JointState"
States = list[tuple[int, Any]]


def states(
    robot: RobotConfig,
    seconds: tuple[float, float] = (0.0, WATCHED_S),
    names: Sequence[str] | None = None,
    position: np.ndarray | None = None,
) -> States:
    """Joint states of an arm at rest, at the robot's rate, between two times of the watch."""
    names = names or robot.joint_names
    at = np.zeros(len(names))
    at[: len(robot.joints)] = robot.home_rad if position is None else position
    found: States = []
    for t in np.arange(seconds[0] + 1.0 / RATE_HZ, seconds[1], 1.0 / RATE_HZ):
        received_ns = BEGAN_NS + round(t * 1e9)
        found.append((received_ns, joint_state(names, at, 0.0 * at, received_ns - 100_000)))
    return found


def rows_of(robot: RobotConfig, found: States, *publishers: str) -> dict[str, Row]:
    """The table's rows by name."""
    observed = Observed(
        "/joint_states",
        "/commands",
        "",
        states=sorted(found, key=lambda state: state[0]),
        watched_ns=(BEGAN_NS, BEGAN_NS + round(WATCHED_S * 1e9)),
        state_publishers=[Endpoint(name, KIND) for name in publishers or ("/driver",)],
    )
    return {row.check: row for row in check_states(robot, observed, None, TIMEOUT_S)}


def refused(rows: dict[str, Row]) -> set[str]:
    """Checks that say no-go, each with what to do."""
    wrong = [row for row in rows.values() if row.verdict == "no-go"]
    assert all(row.advice for row in wrong)
    return {row.check for row in wrong}


def test_good_states_are_a_go(robot: RobotConfig) -> None:
    rows = rows_of(robot, states(robot))
    assert {row.verdict for row in rows.values()} == {"go"}
    assert rows["state rate"].found.startswith("500 Hz")


@pytest.mark.parametrize(
    "seconds", [(0.0, 0.5), (2.5, WATCHED_S), (0.0, WATCHED_S - 0.1)], ids=["dead", "late", "gone"]
)
def test_states_that_stop_or_begin_within_the_watch_are_a_no_go(
    robot: RobotConfig, seconds: tuple[float, float]
) -> None:
    rows = rows_of(robot, states(robot, seconds))
    assert "state gaps" in refused(rows)
    assert ("state rate" in refused(rows)) == (seconds[1] - seconds[0] < 1.0)


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_states_are_a_no_go(robot: RobotConfig, count: int) -> None:
    rows = rows_of(robot, states(robot)[:count])
    assert "state rate" in refused(rows)


def beside(robot: RobotConfig) -> States:
    """A gripper's own states, of another publisher."""
    finger = states(robot)
    return [(t + 1, joint_state(["finger"], [0.0], [0.0], t + 1)) for t, _ in finger]


def republished(robot: RobotConfig) -> States:
    """The arm's states once more, with a gripper's joint: as joint_state_publisher merges them."""
    names = (*robot.joint_names, "finger")
    return [(t + 1, message) for t, message in states(robot, names=names)]


@pytest.mark.parametrize(("other", "verdict"), [(beside, "go"), (republished, "no-go")])
def test_a_second_publisher_may_have_a_gripper_but_not_the_arm(
    robot: RobotConfig, other: Callable[[RobotConfig], States], verdict: str
) -> None:
    rows = rows_of(robot, states(robot) + other(robot), "/driver", "/second")
    assert rows["joint states"].verdict == verdict
    assert ("/second" in rows["joint states"].found) and "order" not in rows["joint names"].found


def test_a_pose_that_the_node_would_not_start_from_is_a_no_go() -> None:
    rows = rows_of(CELL, states(CELL))
    assert not refused(rows)
    narrow = Workspace((-0.9, -0.9, 0.05), (0.45, 0.6, 1.0))
    cell = dataclasses.replace(
        CELL, surroundings=dataclasses.replace(CELL.surroundings, workspace=narrow)
    )
    rows = rows_of(cell, states(cell))
    assert refused(rows) == {"collision"}
    assert rows["collision"].found.startswith("workspace: ")
