# SPDX-License-Identifier: Apache-2.0
"""The optional limit of the jerk: kept wherever nothing more important needs more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from guarded import DT, ROBOT, GuardedArm
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import LockStep
from test_safety_limits import FILTERS, TICKS, WIDE, N, admissible, anything, assert_step, copy

from smfp_control.safety import Intervention, SafetyFilter
from smfp_core.policy_file import PolicyFile
from smfp_core.reference import Reference
from smfp_core.robot import RobotConfig

JERKS = (20.0, 100.0, 1000.0)
# Joints without ends: what is left are the limits of velocity and acceleration.
ENDLESS = dataclasses.replace(WIDE, position_min=np.full(N, -1e6), position_max=np.full(N, 1e6))
seeds = st.integers(0, 2**32 - 1)
jerks = st.sampled_from(JERKS)


def jerk(velocities: list[np.ndarray], dt: float) -> np.ndarray:
    """Jerk [t, n], rad/s^3, of velocities that begin at rest and unaccelerated."""
    rows = np.array([velocities[0], *velocities])
    return np.diff(rows, n=2, axis=0) / dt**2


@settings(max_examples=25, deadline=None)
@given(seeds, jerks, st.sampled_from([0.001, 0.002, 0.01]))
def test_wherever_joints_are_free_the_jerk_keeps_to_its_limit(
    seed: int, limit: float, dt: float
) -> None:
    rng = np.random.default_rng(seed)
    safe = SafetyFilter(ENDLESS, dt, jerk_limit=limit)
    command = Reference.at_rest(np.zeros(N))
    velocities = [command.velocity.copy()]
    # Targets of all sizes, beyond the velocity limit too, that change at random moments.
    target = rng.uniform(-1.5, 1.5, N) * ENDLESS.velocity
    for _ in range(100):
        changed = rng.random(N) < 0.05
        target = np.where(changed, rng.uniform(-1.5, 1.5, N) * ENDLESS.velocity, target)
        desired = target
        if rng.random() < 0.5:  # as a reference that is on its way there
            step = ENDLESS.acceleration * dt
            desired = command.velocity + np.clip(target - command.velocity, -step, step)
        safe.apply(command, desired, target)
        velocities.append(command.velocity.copy())
    assert np.abs(jerk(velocities, dt)).max() <= limit * (1.0 + 1e-6) + 1e-9 / dt**2
    assert np.abs(velocities).max() <= ENDLESS.velocity.max() + 1e-9
    change = np.abs(np.diff(velocities, axis=0)).max()
    assert change <= ENDLESS.acceleration.max() * dt + 1e-9


@settings(max_examples=25, deadline=None)
@given(seeds, jerks, st.sampled_from(sorted(FILTERS)))
def test_with_it_on_nothing_leaves_the_other_limits_whatever_comes_in(
    seed: int, limit: float, dt: float
) -> None:
    rng = np.random.default_rng(seed)
    safe = SafetyFilter(WIDE, dt, jerk_limit=limit)
    plain = FILTERS[dt]
    command = admissible(rng)
    change = np.zeros(N)
    for _ in range(TICKS):
        before = copy(command)
        desired = anything(rng, command)
        # One tick in two without NaN: then the jerk is limited but for the ends of the ranges.
        finite = rng.random() < 0.5
        if finite:
            desired = np.where(np.isfinite(desired), desired, 0.0)
        safe.apply(command, desired)
        assert_step(before, command, dt)
        after = command.velocity - before.velocity
        if finite:
            least, greatest = copy(before), copy(before)
            plain.apply(least, np.full(N, -1e9))
            plain.apply(greatest, np.full(N, 1e9))
            exceeded = np.abs(after - change) > limit * dt**2 + 1e-9
            at_a_bound = (np.abs(command.velocity - least.velocity) < 1e-9) | (
                np.abs(command.velocity - greatest.velocity) < 1e-9
            )
            assert (at_a_bound | ~exceeded).all()
        change = after


@pytest.mark.parametrize("limit", JERKS)
def test_a_target_is_reached_without_overshoot_and_kept(limit: float) -> None:
    safe = SafetyFilter(ROBOT.limits, DT, jerk_limit=limit)
    command = Reference.at_rest(np.zeros(6))
    target = np.array([0.5, -0.4, 0.3, 0.001, 0.0, -1.0])
    most = np.zeros(6)
    for _ in range(700):
        safe.apply(command, target)
        most = np.maximum(most, np.abs(command.velocity))
    np.testing.assert_allclose(command.velocity, target, atol=1e-9)
    assert (most <= np.abs(target) + 1e-9).all()


def test_a_stop_for_safety_is_as_short_as_without_it() -> None:
    limits = ROBOT.limits
    soft, plain = SafetyFilter(limits, DT, jerk_limit=20.0), SafetyFilter(limits, DT)
    command = Reference.at_rest(np.zeros(6))
    for _ in range(600):
        soft.apply(command, np.full(6, 1.0))
    other = copy(command)
    for _ in range(60):
        soft.apply(command, np.zeros(6), urgent=True)
        plain.apply(other, np.zeros(6))
        assert (command.velocity == other.velocity).all()
    assert not command.velocity.any()


@settings(max_examples=3, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.25]))
def test_under_the_guard_every_promise_is_kept_with_it_on(seed: int, speed_limit: float) -> None:
    rng = np.random.default_rng(seed)
    arm = GuardedArm(tool_speed_m_s=speed_limit, jerk_limit=100.0)
    for _ in range(4):
        arm.drive(rng.uniform(-1.0, 1.0, 6), int(rng.integers(10, 100)))
        arm.check_braking()


def test_the_loop_reaches_a_goal_with_a_limited_jerk(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    limit = 200.0
    step = LockStep(robot, policy, SafetyFilter(robot.limits, DT, jerk_limit=limit))
    assert step.loop.set_goal(near_goal) is None
    step.run(4.0)
    assert np.linalg.norm(step.tool() - near_goal) < 0.01
    positions = np.array(step.commands)
    third = np.diff(positions, n=3, axis=0) / DT**3
    assert np.abs(third).max() <= limit * 1.01
    assert step.loop.statistics.interventions[Intervention.JERK] > 0
