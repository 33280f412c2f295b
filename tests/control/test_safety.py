# SPDX-License-Identifier: Apache-2.0
"""The safety filter and the checks on the measured arm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smfp_control.faults import FaultKind
from smfp_control.safety import Intervention, SafetyFilter, StateMonitor
from smfp_core.reference import Reference, ReferenceLimits, action_to_command
from smfp_core.robot import RobotConfig, load_robot

ROBOT = load_robot("ur5e")
LIMITS = ROBOT.limits
DT = 1.0 / ROBOT.control_rate_hz
N = len(ROBOT.joints)
FILTER = SafetyFilter(LIMITS, DT)

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
desires = arrays(np.float64, N, elements=anything | st.floats(-20.0, 20.0))


@st.composite
def admissible_references(draw: st.DrawFn) -> Reference:
    """References that the filter itself can have produced: driven from rest at random."""
    share = draw(arrays(np.float64, N, elements=st.floats(0.0, 1.0)))
    reference = Reference.at_rest(
        LIMITS.position_min + share * (LIMITS.position_max - LIMITS.position_min)
    )
    push = draw(arrays(np.float64, N, elements=st.floats(-5.0, 5.0)))
    for _ in range(draw(st.integers(0, 80))):
        FILTER.apply(reference, push)
    return reference


def assert_within(before: Reference, after: Reference, limits: ReferenceLimits) -> None:
    assert np.isfinite(after.position).all() and np.isfinite(after.velocity).all()
    assert (after.position >= limits.position_min - 1e-12).all()
    assert (after.position <= limits.position_max + 1e-12).all()
    assert (np.abs(after.velocity) <= limits.velocity + 1e-12).all()
    change = np.abs(after.velocity - before.velocity)
    assert (change <= limits.acceleration * DT * (1 + 1e-9) + 1e-12).all()


@settings(max_examples=100, deadline=None)
@given(admissible_references(), st.lists(desires, min_size=1, max_size=20))
def test_no_sequence_of_desires_leaves_the_limits(
    command: Reference, sequence: list[np.ndarray]
) -> None:
    for desired in sequence:
        before = Reference(command.position.copy(), command.velocity.copy())
        FILTER.apply(command, desired)
        assert_within(before, command, LIMITS)


@settings(max_examples=100, deadline=None)
@given(admissible_references())
def test_from_every_admissible_state_the_arm_can_brake_within_limits(command: Reference) -> None:
    ticks = 0
    while command.velocity.any():
        before = Reference(command.position.copy(), command.velocity.copy())
        FILTER.apply(command, np.zeros(N))
        assert_within(before, command, LIMITS)
        ticks += 1
        assert ticks <= np.max(LIMITS.velocity / LIMITS.acceleration) / DT + 1


@settings(max_examples=100, deadline=None)
@given(admissible_references(), arrays(np.float64, N, elements=st.floats(-1.0, 1.0)))
def test_the_reference_of_training_passes_untouched(command: Reference, action: np.ndarray) -> None:
    spec = ROBOT.action_spec()
    limits = ReferenceLimits.of(spec)
    command.velocity[:] = 0.0
    desired = Reference(command.position.copy(), command.velocity.copy())
    for _ in range(30):
        action_to_command(spec, limits, action, desired)
        kinds = FILTER.apply(command, desired.velocity)
        assert kinds is Intervention.NONE
        assert (command.position == desired.position).all()
        assert (command.velocity == desired.velocity).all()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, N, elements=st.floats(0.0, 0.5)), desires)
def test_a_command_beyond_a_limit_is_never_driven_further_out(
    excess: np.ndarray, desired: np.ndarray
) -> None:
    command = Reference.at_rest(LIMITS.position_max + excess)
    FILTER.apply(command, desired)
    assert (command.position <= LIMITS.position_max + excess).all()


@pytest.mark.parametrize(
    ("velocity", "desired", "kind"),
    [
        (0.0, np.nan, Intervention.NON_FINITE),
        (0.0, np.inf, Intervention.NON_FINITE),
        (0.0, 1.0, Intervention.ACCELERATION),
        (3.14, 3.155, Intervention.VELOCITY),
    ],
)
def test_interventions_are_told_apart(velocity: float, desired: float, kind: Intervention) -> None:
    command = Reference.at_rest(ROBOT.home_rad)
    command.velocity[0] = velocity
    wish = np.zeros(N)
    wish[0] = desired
    assert FILTER.apply(command, wish) == kind


def test_braking_before_a_limit_counts_as_position() -> None:
    command = Reference.at_rest(ROBOT.home_rad)
    command.position[2] = LIMITS.position_max[2] - 0.001
    command.velocity[2] = 0.015
    wish = np.zeros(N)
    wish[2] = 0.015
    seen = Intervention.NONE
    for _ in range(50):
        seen |= FILTER.apply(command, wish)
    assert seen == Intervention.POSITION
    assert LIMITS.position_max[2] - 1e-6 <= command.position[2] <= LIMITS.position_max[2]


@pytest.fixture
def monitor(robot: RobotConfig) -> StateMonitor:
    return StateMonitor(robot, velocity_tolerance=0.1, tracking_error_rad=0.3, jump_rad=0.05)


def test_a_measured_arm_within_its_limits_is_no_fault(
    monitor: StateMonitor, robot: RobotConfig
) -> None:
    home = robot.home_rad
    assert monitor.check(home, np.full(N, 3.0), None) is None
    assert monitor.check(home, np.full(N, -3.0), home + 0.29) is None
    assert monitor.check_jump(home, home + 0.05, elapsed_s=0.002) is None


@pytest.mark.parametrize("beyond", [-3.2, 3.2])
def test_a_measured_joint_beyond_its_limit_is_named(
    monitor: StateMonitor, robot: RobotConfig, beyond: float
) -> None:
    position = robot.home_rad.copy()
    position[2] = beyond
    fault = monitor.check(position, np.zeros(N), None)
    assert fault is not None and fault.kind is FaultKind.POSITION_LIMIT
    assert "elbow_joint" in fault.reason


def test_too_fast_too_far_and_jumping_joints_are_named(
    monitor: StateMonitor, robot: RobotConfig
) -> None:
    home, one = robot.home_rad, np.eye(N)[3]
    found = [
        monitor.check(home, -4.0 * one, home),
        monitor.check(home, 0.0 * one, home - 0.4 * one),
        monitor.check_jump(home, home + 1.0 * one, elapsed_s=0.002),
    ]
    kinds = [FaultKind.VELOCITY_LIMIT, FaultKind.TRACKING_ERROR, FaultKind.STATE_JUMP]
    assert [fault.kind for fault in found if fault is not None] == kinds
    assert all(fault is not None and "wrist_1_joint" in fault.reason for fault in found)
