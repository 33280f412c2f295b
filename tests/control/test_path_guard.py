# SPDX-License-Identifier: Apache-2.0
"""The guarded filter on the real arm's model: never a collision, always a way to stop."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from guarded import CELL, DT, MARGIN_M, ROBOT, GuardedArm
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import LockStep

from smfp_control.path_guard import PathGuard
from smfp_control.safety import Intervention, SafetyFilter
from smfp_core.policy_file import PolicyFile
from smfp_core.reference import Reference, ReferenceLimits, action_to_command
from smfp_core.robot import RobotConfig
from smfp_sim.arm import ArmModel, Kinematics, SimulatedArm
from smfp_sim.clearance import ClearanceModel

N = len(ROBOT.joints)
OPEN = np.array([0.0, -1.57, 0.6, -1.57, -1.57, 0.0])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.0, 3.0]), st.sampled_from([0.0, 0.25]))
def test_random_motion_never_collides_and_can_always_brake(
    seed: int, scale: float, speed_limit: float
) -> None:
    rng = np.random.default_rng(seed)
    arm = GuardedArm(CELL, tool_speed_m_s=speed_limit)
    for _ in range(4):
        desired = rng.uniform(-scale, scale, N)
        if rng.random() < 0.2:
            desired[rng.integers(N)] = rng.choice([np.nan, np.inf, 1e30])
        arm.drive(desired, int(rng.integers(10, 100)))
        arm.check_braking()


# What is driven at, words of the pair, and the link whose approach the test waits for.
TARGETS = [
    (ROBOT, ("floor", "wrist_3 (")),
    (ROBOT, ("floor", "forearm (")),
    (ROBOT, ("upper_arm (", "wrist_2 (")),
    (ROBOT, ("shoulder (", "wrist_3 (")),
    (ROBOT, ("base (", "wrist_3 (")),
    (CELL, ("obstacle post", "wrist_1 (")),
    (CELL, ("obstacle post", "forearm (")),
    (CELL, ("obstacle ball", "wrist_3 (")),
]


@pytest.mark.parametrize(("robot", "words"), TARGETS, ids=[" ".join(t[1]) for t in TARGETS])
def test_an_arm_driven_at_something_stops_short_of_it(
    robot: RobotConfig, words: tuple[str, ...]
) -> None:
    arm = GuardedArm(robot)
    row = arm.row(*words)
    plant = SimulatedArm(ArmModel(ROBOT))
    plant.reset(arm.command.position)
    for tick in range(600):
        if tick % 20 == 0:
            desired = arm.approach(row, arm.command.position)
        arm.tick(desired)
        plant.command_position(arm.command.position)
        plant.step()
        assert not plant.in_contact
        if tick % 100 == 50:
            arm.check_braking()
    # Something, if not the target itself, was met and stopped for.
    assert arm.counts[Intervention.COLLISION] + arm.counts[Intervention.WORKSPACE] > 100
    assert arm.filter.reason
    assert not arm.command.velocity.any() or np.abs(arm.command.velocity).max() < 0.5
    if robot is ROBOT:
        assert arm.least_m < MARGIN_M + 0.02


def test_an_arm_that_presses_on_rests_and_leaves_when_asked_to() -> None:
    arm = GuardedArm()
    down = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    arm.drive(down, 1500)
    assert arm.counts[Intervention.COLLISION] > 300
    assert "floor" in arm.filter.reason
    pressed = arm.least_m
    assert pressed < MARGIN_M + 0.01
    # It rests there: it does not brake and accelerate in turn.
    late = np.array(arm.velocities[-300:])
    assert np.ptp(np.array(arm.positions[-300:]), axis=0).max() < 1e-3
    starts = np.count_nonzero(np.diff(np.abs(late).max(axis=1) > 0.0))
    assert starts <= 24
    arm.drive(-down, 500)
    assert arm.distances(arm.command.position)[arm.pairs].min() > pressed + 0.05


def test_commands_in_free_space_pass_untouched() -> None:
    spec = ROBOT.action_spec()
    limits = ReferenceLimits.of(spec)
    arm = GuardedArm()
    desired = Reference.at_rest(arm.command.position)
    looks = 0
    for tick in range(2000):
        # Slow sweeps of every joint about home, at the policy's full speed at times.
        phase = tick * DT * np.array([1.1, 1.7, 1.3, 2.3, 1.9, 2.9])
        action = 0.9 * np.cos(phase) * np.array([1.0, 0.4, 0.4, 1.0, 1.0, 1.0])
        action_to_command(spec, limits, action, desired)
        assert arm.tick(desired.velocity) is Intervention.NONE
        assert (arm.command.position == desired.position).all()
        looks = arm.guard.looks
    # And next to nothing had to be measured for that.
    assert looks < 400


@pytest.mark.parametrize("speed_limit", [0.1, 0.25])
def test_the_tool_keeps_its_speed_limit_and_its_direction(speed_limit: float) -> None:
    arm = GuardedArm(tool_speed_m_s=speed_limit)
    desired = np.array([1.0, 0.3, -0.5, 0.2, 0.4, -0.3])
    arm.drive(desired, 150)
    # Half a turn: the new direction, too, is taken up.
    desired = desired[::-1].copy()
    arm.drive(desired, 150)
    assert arm.counts[Intervention.TOOL_SPEED] > 50
    velocity = arm.command.velocity
    cosine = velocity @ desired / np.linalg.norm(velocity) / np.linalg.norm(desired)
    assert cosine > 0.999
    arm.clearance.set_pose(arm.command.position)
    jacobians = np.zeros((2, 3, N))
    arm.clearance.point_jacobians(jacobians)
    # The limit is used, not only kept.
    assert np.linalg.norm(jacobians @ velocity, axis=1).max() > 0.85 * speed_limit


def test_the_tool_keeps_its_speed_limit_under_sudden_turns() -> None:
    arm = GuardedArm(tool_speed_m_s=0.25)
    rng = np.random.default_rng(5)
    for _ in range(30):
        # Joints that cancel each other at the tool: braking them can speed it up.
        desired = rng.choice([-3.0, 3.0], N) * rng.integers(0, 2, N)
        arm.drive(desired, int(rng.integers(5, 25)))
        arm.check_braking()


def test_joints_that_cancel_each_other_are_slow_enough_to_stop_apart() -> None:
    bare = dataclasses.replace(
        ROBOT, surroundings=dataclasses.replace(ROBOT.surroundings, elbow_body=None)
    )
    arm = GuardedArm(bare, tool_speed_m_s=0.25)
    planar = [1, 2, 3]
    previous = np.array([1.0, 0.0, 0.0])
    jacobians = np.zeros((1, 3, N))
    for tick in range(60):
        # The three parallel axes move the elbow while the tool's point stands still.
        arm.clearance.set_pose(arm.command.position)
        arm.clearance.point_jacobians(jacobians)
        still = np.linalg.svd(jacobians[0][:, planar])[2][-1]
        still *= np.sign(still @ previous)
        desired = np.zeros(N)
        desired[planar] = 3.0 * still / np.abs(still).max()
        previous = still
        arm.tick(desired)
        if tick % 5 == 4:
            arm.check_braking()
    # Braking each joint at its own pace would have swung the tool, which stood still.
    assert arm.counts[Intervention.TOOL_SPEED] > 0


def test_slow_motion_is_not_touched_by_the_speed_limit() -> None:
    arm = GuardedArm(tool_speed_m_s=0.25)
    wave = 0.05 * np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    arm.drive(lambda tick: wave * math.sin(tick * DT), 500)
    assert sum(arm.counts.values()) == 0


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("joint", [0, 1, 2])
def test_tool_and_elbow_stay_in_the_workspace(joint: int, sign: float) -> None:
    arm = GuardedArm(CELL)
    desired = np.zeros(N)
    desired[joint] = sign * 2.0
    arm.drive(desired, 800)
    arm.check_braking()
    assert arm.counts[Intervention.WORKSPACE] + arm.counts[Intervention.COLLISION] > 50


def test_leaving_the_workspace_is_called_that() -> None:
    arm = GuardedArm(CELL, start=OPEN)
    stretch = np.array([0.0, 0.5, -1.0, 0.0, 0.0, 0.0])
    arm.drive(stretch, 800)
    assert arm.counts[Intervention.WORKSPACE] > 100
    assert "workspace" in arm.filter.reason


def folded_to(target_m: float) -> np.ndarray:
    """A pose in which the elbow is folded until forearm and upper arm are so near."""
    clearance = ClearanceModel(ROBOT)
    low, high = 1.5, 3.0
    q = ROBOT.home_rad.copy()
    for _ in range(60):
        q[2] = (low + high) / 2
        clearance.set_pose(q)
        near = min(clearance.distance(row) for row in range(len(clearance.pairs)))
        low, high = (q[2], high) if near > target_m else (low, q[2])
    return q


def test_an_arm_that_starts_within_the_margin_may_leave_but_come_no_nearer_than_half() -> None:
    q = folded_to(0.004)
    arm = GuardedArm(start=q, margin_m=0.0019)
    guard = PathGuard(ClearanceModel(ROBOT), arm.limits.acceleration, DT, MARGIN_M)
    arm.filter = SafetyFilter(arm.limits, DT, guard)
    arm.filter.begin(q)
    fold = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    arm.drive(fold, 500)
    assert arm.counts[Intervention.COLLISION] > 100
    assert 0.002 - 1e-9 <= arm.least_m < 0.004
    arm.drive(-fold, 1000)
    assert arm.distances(arm.command.position)[arm.pairs].min() > 0.05
    # Back in the open the full margin is in force again.
    arm.least_m = math.inf
    arm.drive(fold, 1500)
    assert arm.least_m >= MARGIN_M - 1e-9


def test_an_arm_that_touches_itself_or_is_out_of_its_workspace_may_not_start() -> None:
    guard = PathGuard(ClearanceModel(CELL), CELL.limits.acceleration, DT)
    refusal = guard.refusal(folded_to(-0.01))
    assert refusal is not None and refusal.startswith("collision: ") and "upper_arm" in refusal
    refusal = guard.refusal(np.array([0.0, -0.05, 0.0, 0.0, 0.0, 0.0]))
    assert refusal is not None and refusal.startswith("workspace: ") and "tool" in refusal
    assert guard.refusal(CELL.home_rad) is None


def test_an_arm_that_touches_itself_does_not_move() -> None:
    q = folded_to(-0.01)
    safe = SafetyFilter(
        ROBOT.limits, DT, PathGuard(ClearanceModel(ROBOT), ROBOT.limits.acceleration, DT)
    )
    safe.begin(q)
    command = Reference.at_rest(q)
    for _ in range(100):
        safe.apply(command, np.full(N, 1.0))
    assert (command.position == q).all()


def test_without_the_collision_check_the_workspace_still_holds() -> None:
    guard = PathGuard(ClearanceModel(CELL), CELL.limits.acceleration, DT, collisions=False)
    safe = SafetyFilter(CELL.limits, DT, guard)
    command = Reference.at_rest(OPEN)
    safe.begin(command.position)
    watch = ClearanceModel(CELL)
    for _ in range(800):
        safe.apply(command, np.array([0.0, 0.5, -1.0, 0.0, 0.0, 0.0]))
        watch.set_pose(command.position)
        assert min(watch.distance(len(watch.pairs) + i) for i in range(2)) >= -1e-9
    watch.set_pose(folded_to(-0.01))
    assert guard.refusal(folded_to(-0.01)) is None


def test_a_guard_that_forgot_everything_is_as_careful_as_before() -> None:
    arm = GuardedArm()
    down = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(30):
        arm.drive(down, 20)
        arm.filter.forget()
    assert arm.counts[Intervention.COLLISION] > 50


def test_a_slower_control_rate_keeps_the_same_promises() -> None:
    motion = dataclasses.replace(ROBOT.policy, period_s=0.024)
    slow = dataclasses.replace(ROBOT, control_rate_hz=125.0, policy=motion)
    guard = PathGuard(ClearanceModel(slow), slow.limits.acceleration, 0.008)
    safe = SafetyFilter(slow.limits, 0.008, guard)
    watch = ClearanceModel(slow)
    command = Reference.at_rest(ROBOT.home_rad)
    safe.begin(command.position)
    rng = np.random.default_rng(1)
    seen = Intervention.NONE
    for _ in range(12):
        desired = rng.uniform(-3.0, 3.0, N)
        for _ in range(30):
            before = command.position.copy()
            seen |= safe.apply(command, desired)
            for part in (0.5, 1.0):
                watch.set_pose(before + part * (command.position - before))
                least = min(watch.distance(row) for row in range(len(watch.pairs)))
                assert least >= (MARGIN_M if part == 1.0 else MARGIN_M / 2) - 1e-9
    assert seen & Intervention.COLLISION


def test_the_loop_reaches_a_goal_under_the_guard_without_interventions(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    guard = PathGuard(ClearanceModel(robot), robot.limits.acceleration, DT)
    step = LockStep(robot, policy, SafetyFilter(robot.limits, DT, guard))
    assert step.loop.set_goal(near_goal) is None
    step.run(3.0)
    assert math.dist(step.tool(), near_goal) < 0.01
    assert sum(step.loop.statistics.interventions.values()) == 0


def test_the_loop_reaches_a_goal_at_reduced_speed(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    guard = PathGuard(ClearanceModel(robot), robot.limits.acceleration, DT, tool_speed_m_s=0.1)
    step = LockStep(robot, policy, SafetyFilter(robot.limits, DT, guard))
    assert step.loop.set_goal(near_goal) is None
    step.run(5.0)
    assert math.dist(step.tool(), near_goal) < 0.01
    assert step.loop.statistics.interventions[Intervention.TOOL_SPEED] > 0
    kinematics = Kinematics(ArmModel(robot))
    path = np.array([kinematics.tool_position(q) for q, _ in step.measured])
    # The measured arm follows its servos, which overshoot the reference's speed a little.
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() / DT < 0.1 * 1.1


def test_a_filter_that_raises_brakes_the_arm_and_latches(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    clearance = ClearanceModel(robot)
    guard = PathGuard(clearance, robot.limits.acceleration, DT)
    step = LockStep(robot, policy, SafetyFilter(robot.limits, DT, guard))
    step.loop.set_goal(near_goal)
    step.run(0.3)

    def fail(q: np.ndarray) -> None:
        raise RuntimeError("no model")

    monkeypatch.setattr(clearance, "set_pose", fail)
    guard.forget()
    step.run(1.0)
    fault = step.latch.fault
    assert fault is not None and fault.kind.value == "internal" and "no model" in fault.reason
    assert step.loop.at_rest
    step.assert_commands_within_limits()
