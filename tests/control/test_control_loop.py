# SPDX-License-Identifier: Apache-2.0
"""The control loop in lock-step with the simulated arm: what it commands, and when it stops."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lockstep import LockStep

from smfp_control.control_loop import LoopState
from smfp_control.controller_watch import ControllerWatch, Hearing, controller_of
from smfp_control.faults import Fault, FaultKind
from smfp_control.noise import NoiseSource
from smfp_control.policy_runner import PolicyRunner
from smfp_core.policy_file import PolicyFile
from smfp_core.robot import RobotConfig


def test_without_a_goal_the_measured_pose_at_activation_is_held(lockstep: LockStep) -> None:
    start = lockstep.driver.arm.joint_position
    lockstep.run(0.5)
    assert lockstep.loop.state is LoopState.HOLD
    assert (np.array(lockstep.commands) == start).all()


def test_a_goal_is_reached_within_limits_and_without_interventions(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    assert lockstep.loop.set_goal(near_goal) is None
    lockstep.run(3.0)
    assert lockstep.loop.state is LoopState.TRACKING
    assert math.dist(lockstep.tool(), near_goal) < 0.01
    assert lockstep.loop.goal_error_m == pytest.approx(
        math.dist(lockstep.tool(), near_goal), abs=1e-3
    )
    assert sum(lockstep.loop.statistics.interventions.values()) == 0
    lockstep.assert_commands_within_limits()


def test_motion_is_blended_in_after_activation_and_after_a_reset(
    robot: RobotConfig, policy: PolicyFile, near_goal: np.ndarray
) -> None:
    lockstep = LockStep(robot, policy, blend=(0.1, 0.5))
    home = lockstep.tool()

    def assert_blended(goal: np.ndarray) -> None:
        lockstep.run(0.2)  # at rest, no part of the time of motion
        first = len(lockstep.commands)
        assert lockstep.loop.set_goal(goal) is None
        lockstep.run(0.8)
        speed = np.abs(np.diff(np.array(lockstep.commands[first:]), axis=0)).max(axis=1)
        ticks = np.arange(len(speed)) + 2
        ratio = np.minimum(0.1 + 0.9 * ticks * lockstep.period_s / 0.5, 1.0)
        bound = ratio * robot.policy.velocity_rad_s * lockstep.period_s
        assert (speed <= bound + 1e-12).all()
        assert (speed[:50] > 0.9 * bound[:50]).any(), "the bound was never met"

    assert_blended(near_goal)
    lockstep.latch.set_estop(True)
    lockstep.latch.set_estop(False)
    lockstep.run(0.3)
    assert lockstep.loop.reset() is None
    assert_blended(home)
    lockstep.assert_commands_within_limits()


def test_the_policy_is_sampled_once_a_policy_period(
    lockstep: LockStep, near_goal: np.ndarray, policy: PolicyFile
) -> None:
    lockstep.run(0.1)
    assert lockstep.loop.statistics.policy_samples == 0
    lockstep.loop.set_goal(near_goal)
    lockstep.run(1.0)
    assert lockstep.loop.statistics.policy_samples == round(1.0 / policy.action.policy_period_s)


def test_a_goal_out_of_reach_is_refused_and_the_arm_comes_to_rest(
    lockstep: LockStep, near_goal: np.ndarray, far_goal: np.ndarray
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    refusal = lockstep.loop.set_goal(far_goal)
    assert refusal is not None and "out of reach" in refusal
    lockstep.run(0.002)
    assert lockstep.loop.state is LoopState.RAMPING_DOWN
    lockstep.run(0.5)
    assert lockstep.loop.state is LoopState.HOLD
    assert (lockstep.commands[-1] == lockstep.commands[-50]).all()
    lockstep.assert_commands_within_limits()


def test_a_goal_of_nan_is_refused(lockstep: LockStep) -> None:
    refusal = lockstep.loop.set_goal(np.array([0.4, np.nan, 0.4]))
    assert refusal is not None and "not finite" in refusal


def drop(message: SimpleNamespace) -> None:
    return None


def lose_a_joint(message: SimpleNamespace) -> SimpleNamespace:
    del message.name[2], message.position[2], message.velocity[2]
    return message


def shorten(message: SimpleNamespace) -> SimpleNamespace:
    del message.position[-1]
    return message


def spoil(message: SimpleNamespace) -> SimpleNamespace:
    message.position[4] = math.nan
    return message


def jump(message: SimpleNamespace) -> SimpleNamespace:
    message.position[1] += 1.0
    return message


def race(message: SimpleNamespace) -> SimpleNamespace:
    message.velocity[0] = -3.6
    return message


def leave(message: SimpleNamespace) -> SimpleNamespace:
    message.position[2] = 3.15
    return message


def turn_back(message: SimpleNamespace) -> SimpleNamespace:
    message.header.stamp.sec -= 1
    return message


TAMPERINGS = [
    (drop, FaultKind.STALE_STATE),
    (turn_back, FaultKind.STALE_STATE),
    (lose_a_joint, FaultKind.INCOMPLETE_STATE),
    (shorten, FaultKind.INCOMPLETE_STATE),
    (spoil, FaultKind.NON_FINITE_STATE),
    (jump, FaultKind.STATE_JUMP),
    (race, FaultKind.VELOCITY_LIMIT),
]


@pytest.mark.parametrize(("tamper", "kind"), TAMPERINGS)
def test_a_bad_state_ramps_down_and_latches_until_reset(
    lockstep: LockStep, near_goal: np.ndarray, tamper: object, kind: FaultKind
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.tamper = tamper  # type: ignore[assignment]
    lockstep.run(0.5)
    fault = lockstep.latch.fault
    assert fault is not None and fault.kind is kind
    assert lockstep.loop.state is LoopState.FAULT and lockstep.loop.at_rest
    # Held where it came to rest: neither zeros nor the measured position.
    assert (lockstep.commands[-1] == lockstep.commands[-2]).all()
    lockstep.assert_commands_within_limits()
    rested = lockstep.commands[-1]

    lockstep.tamper = untouched
    lockstep.run(0.1)
    assert (lockstep.commands[-1] == rested).all()
    assert lockstep.latch.fault is fault, "the fault went away by itself"
    assert lockstep.loop.set_goal(near_goal) is not None
    assert lockstep.loop.reset() is None
    lockstep.run(0.1)
    assert lockstep.latch.fault is None and lockstep.loop.state is LoopState.HOLD
    assert lockstep.loop.set_goal(near_goal) is None
    lockstep.run(3.0)
    assert math.dist(lockstep.tool(), near_goal) < 0.01
    lockstep.assert_commands_within_limits()


@pytest.mark.parametrize(("tamper", "kind"), TAMPERINGS)
def test_each_fault_is_latched_within_two_periods(
    lockstep: LockStep, near_goal: np.ndarray, tamper: object, kind: FaultKind
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.tamper = tamper  # type: ignore[assignment]
    # States that stop are a fault once the last one is older than the timeout.
    bound = round(0.05 / lockstep.period_s) + 2 if kind is FaultKind.STALE_STATE else 2
    ticks = 0
    while lockstep.latch.fault is None:
        lockstep.run(lockstep.period_s)
        ticks += 1
        assert ticks <= bound
    assert lockstep.latch.fault.kind is kind
    # That very tick begins to brake: no joint's commanded speed grows from here on.
    speed = np.abs(np.diff(np.array(lockstep.commands), axis=0)[-2:])
    assert (speed[1] <= speed[0] + 1e-12).all()


def test_states_that_come_ever_later_are_stale_though_they_come_steadily(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    late_s = 0.0

    def come_late(message: SimpleNamespace) -> SimpleNamespace:
        stamp_ns = lockstep.now_ns - round(late_s * 1e9) + 86_400_000_000_000
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message

    # The driver's clock is a day ahead; that alone is nothing.
    lockstep.tamper = come_late
    lockstep.loop.reader.clear()
    lockstep.loop.set_goal(near_goal)
    while late_s < 0.199:
        lockstep.run(0.004)
        late_s += 0.001
        assert lockstep.latch.fault is None, late_s
    for _ in range(4):
        lockstep.run(0.004)
        late_s += 0.001
    fault = lockstep.latch.fault
    assert fault is not None and fault.kind is FaultKind.STALE_STATE
    assert "later than they did" in fault.reason
    lockstep.run(0.5)
    assert lockstep.loop.reset() is not None
    lockstep.assert_commands_within_limits()


@pytest.mark.parametrize(("late_s", "borne"), [(0.1, True), (0.3, False)])
def test_states_100_ms_late_are_borne_and_300_ms_late_are_stale(
    lockstep: LockStep, late_s: float, borne: bool
) -> None:
    waiting: deque[SimpleNamespace] = deque()

    def come_late(message: SimpleNamespace) -> SimpleNamespace | None:
        waiting.append(message)
        # Begins in steps below the timeout of 50 ms; a state is sent every other tick till then.
        length = min(late_s, len(lockstep.commands) * lockstep.period_s / 2) / lockstep.period_s
        return waiting.popleft() if len(waiting) > length else None

    lockstep.tamper = come_late
    lockstep.run(1.0)
    fault = lockstep.latch.fault
    assert (fault is None) is borne
    assert borne or (fault is not None and "later than they did" in fault.reason)
    lockstep.assert_commands_within_limits()


def test_a_clock_that_drifts_is_no_delay(lockstep: LockStep) -> None:
    start_ns = lockstep.now_ns

    def drift(message: SimpleNamespace) -> SimpleNamespace:
        stamp_ns = start_ns + round((lockstep.now_ns - start_ns) * (1.0 - 5e-4)) + 1
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message

    lockstep.tamper = drift
    lockstep.run(2.0)
    assert lockstep.loop.reader.delay_ns < 10_000


@pytest.mark.parametrize("tamper", [drop, lose_a_joint, spoil])
def test_reset_is_refused_while_the_cause_persists(lockstep: LockStep, tamper: object) -> None:
    lockstep.tamper = tamper  # type: ignore[assignment]
    lockstep.run(0.2)
    refusal = lockstep.loop.reset()
    assert refusal is not None and "persists" in refusal
    lockstep.run(0.2)
    assert lockstep.latch.fault is not None


def untouched(message: SimpleNamespace) -> SimpleNamespace:
    return message


def ask_for_a_reset(lockstep: LockStep) -> None:
    """A fault came and its cause is gone; the tick that decides on the reset is still to come."""
    lockstep.tamper = spoil
    lockstep.run(0.2)
    lockstep.tamper = untouched
    lockstep.run(0.2)
    assert lockstep.loop.reset() is None


def test_a_reset_that_meets_a_new_cause_says_so(lockstep: LockStep) -> None:
    ask_for_a_reset(lockstep)
    lockstep.tamper = lose_a_joint
    lockstep.run(0.002)
    answer = lockstep.loop.reset_answer(1.0)
    assert answer is not None and "persists: joint state lacks" in answer
    assert lockstep.latch.fault is not None
    lockstep.tamper = untouched
    lockstep.run(0.1)
    assert lockstep.latch.fault is not None, "a refused reset was carried out later"
    assert lockstep.reset() is None
    assert lockstep.latch.fault is None


def test_a_reset_whose_tick_fails_is_none(
    lockstep: LockStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_a_reset(lockstep)

    def fail(*_: object) -> None:
        raise RuntimeError("the context is gone")

    monkeypatch.setattr(lockstep.loop, "_send", fail)
    lockstep.run(0.002)
    assert "the context is gone" in (lockstep.loop.reset_answer(0.0) or "")
    monkeypatch.undo()
    # Nor one that is not even decided on.
    assert lockstep.loop.reset() is None
    monkeypatch.setattr(lockstep.loop, "observe", fail)
    lockstep.run(0.002)
    assert "the context is gone" in (lockstep.loop.reset_answer(0.0) or "")
    monkeypatch.undo()
    lockstep.run(0.002)
    assert lockstep.reset() is None
    assert lockstep.latch.fault is None


def test_a_reset_in_motion_without_a_fault_is_refused(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    assert lockstep.loop.reset() == "no fault is latched"


def test_a_reset_that_no_tick_answers_is_withdrawn(lockstep: LockStep) -> None:
    ask_for_a_reset(lockstep)
    answer = lockstep.loop.reset_answer(0.01)
    assert answer is not None and "no tick" in answer
    lockstep.run(0.1)
    assert lockstep.latch.fault is not None


def test_stale_state_is_noticed_one_period_after_the_timeout(lockstep: LockStep) -> None:
    lockstep.run(0.1)
    lockstep.tamper = drop
    lockstep.run(0.05)
    assert lockstep.latch.fault is None
    lockstep.run(0.002)
    assert lockstep.latch.fault is not None


def test_a_measured_joint_beyond_its_limit_is_a_fault_even_without_a_jump(
    lockstep: LockStep,
) -> None:
    lockstep.tamper = leave
    lockstep.driver.arm.reset([0, -1.57, 3.12, -1.57, -1.57, 0])
    lockstep.loop.reader.clear()
    lockstep.run(0.004)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.POSITION_LIMIT


def test_an_arm_that_does_not_follow_is_a_fault(lockstep: LockStep, near_goal: np.ndarray) -> None:
    start = list(lockstep.driver.arm.joint_position)

    def freeze(message: SimpleNamespace) -> SimpleNamespace:
        message.position[:] = start
        message.velocity[:] = [0.0] * len(start)
        return message

    lockstep.tamper = freeze
    lockstep.loop.set_goal(near_goal)
    lockstep.run(3.0)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.TRACKING_ERROR
    refusal = lockstep.loop.reset()
    assert refusal is not None and "Deactivate" in refusal


def test_a_reference_that_nobody_takes_stays_where_the_arm_is(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    loop, arm = lockstep.loop, lockstep.driver.arm
    loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.heard = False
    lockstep.run(0.2)  # not noticed yet
    ahead = np.abs(lockstep.commands[-1] - arm.joint_position).max()
    assert ahead > 0.02
    loop.hearing = Hearing.NOBODY
    loop.external = Fault(FaultKind.NO_CONTROLLER, "nobody takes commands")
    lockstep.run(0.1)
    assert np.abs(lockstep.commands[-1] - arm.joint_position).max() <= 1e-3

    # The controller is back, and takes commands before anybody can be sure of it.
    lockstep.heard = True
    loop.hearing, loop.external = Hearing.PERHAPS, None
    left = arm.joint_position
    lockstep.run(0.002)
    assert loop.reset() is None
    lockstep.run(0.1)
    assert loop.reset_answer(0.0) is None
    assert np.abs(arm.joint_position - left).max() < 2e-3
    assert loop.set_goal(near_goal) is None
    held = lockstep.commands[-1]
    lockstep.run(0.1)
    assert (lockstep.commands[-1] == held).all()
    assert loop.state is LoopState.HOLD
    loop.hearing = Hearing.SURELY
    lockstep.run(3.0)
    assert math.dist(lockstep.tool(), near_goal) < 0.01


@pytest.mark.parametrize("moved_rad", [0.0, 0.2, 0.5])
def test_without_states_nothing_is_sent_and_a_reset_begins_where_the_arm_is_then(
    lockstep: LockStep, near_goal: np.ndarray, moved_rad: float
) -> None:
    loop, arm = lockstep.loop, lockstep.driver.arm
    loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.tamper = drop
    lockstep.run(0.5)
    lockstep.assert_commands_within_limits()
    sent = len(lockstep.commands)
    assert np.abs(lockstep.commands[-1] - lockstep.commands[-2]).max() == 0.0
    # The driver ends, the arm is moved by hand, the driver comes back and takes what is sent.
    pose = arm.joint_position
    pose[-1] += moved_rad
    arm.reset(pose)
    lockstep.driver.take_position(pose)
    lockstep.tamper = untouched
    lockstep.run(0.5)
    assert len(lockstep.commands) == sent
    np.testing.assert_allclose(arm.joint_position, pose, atol=2e-3)
    assert loop.reset() is None
    lockstep.run(0.1)
    assert loop.reset_answer(0.0) is None
    assert len(lockstep.commands) > sent + 40
    np.testing.assert_allclose(lockstep.commands[sent:], [pose] * 50, atol=2e-3)
    loop.set_goal(near_goal)
    lockstep.run(3.0)
    assert math.dist(lockstep.tool(), near_goal) < 0.01


def test_a_reset_without_states_waits_until_the_arm_stands(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    loop, arm = lockstep.loop, lockstep.driver.arm
    lockstep.tamper = drop
    lockstep.run(0.5)

    def hurry(message: SimpleNamespace) -> SimpleNamespace:
        message.velocity[2] = 0.3
        return message

    lockstep.tamper = hurry
    lockstep.run(0.1)
    sent = len(lockstep.commands)
    assert loop.reset() is None
    lockstep.run(0.01)
    assert "the arm moves, at 0.30 rad/s" in (loop.reset_answer(0.0) or "")
    assert len(lockstep.commands) == sent
    lockstep.tamper = untouched
    lockstep.run(0.01)
    assert loop.reset() is None
    lockstep.run(0.1)
    assert loop.reset_answer(0.0) is None
    np.testing.assert_allclose(lockstep.commands[-1], arm.joint_position, atol=2e-3)


def test_what_nobody_takes_is_not_sent_where_the_arm_cannot_be_followed(
    lockstep: LockStep,
) -> None:
    loop, arm = lockstep.loop, lockstep.driver.arm
    lockstep.run(0.1)
    loop.hearing = Hearing.NOBODY
    lockstep.run(0.1)
    sent = len(lockstep.commands)
    # Out of its range by hand, and back to somewhere else.
    lockstep.tamper = leave
    lockstep.run(0.1)
    lockstep.tamper = untouched
    assert lockstep.latch.fault is not None and len(lockstep.commands) == sent
    loop.hearing = Hearing.PERHAPS
    pose = np.array([0.3, -1.57, 1.2, -1.57, -1.57, 0])
    arm.reset(pose)
    lockstep.driver.take_position(pose)
    lockstep.run(0.1)
    assert len(lockstep.commands) == sent
    assert loop.reset() is None
    lockstep.run(0.1)
    np.testing.assert_allclose(lockstep.commands[sent:], [pose] * 50, atol=2e-3)


def test_a_state_that_jumped_while_nobody_listened_is_not_joined(lockstep: LockStep) -> None:
    loop, arm = lockstep.loop, lockstep.driver.arm
    lockstep.run(0.1)
    loop.hearing = Hearing.NOBODY
    lockstep.run(0.1)
    sent = len(lockstep.commands)
    # For one tick this is a jump; from the next one on, where the arm seems to be.
    lockstep.tamper = jump
    lockstep.run(0.1)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.STATE_JUMP
    loop.hearing = Hearing.SURELY
    lockstep.run(0.1)
    assert len(lockstep.commands) == sent
    lockstep.tamper = untouched
    lockstep.run(0.1)
    assert loop.reset() is None
    lockstep.run(0.1)
    assert loop.reset_answer(0.0) is None
    np.testing.assert_allclose(lockstep.commands[sent:], [arm.joint_position] * 50, atol=2e-3)


def test_a_goal_is_refused_while_nobody_takes_commands(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    lockstep.loop.hearing = Hearing.NOBODY
    assert "nobody takes commands" in (lockstep.loop.set_goal(near_goal) or "")
    lockstep.loop.hearing = Hearing.SURELY
    lockstep.run(0.1)
    assert lockstep.loop.state is LoopState.HOLD


def test_a_controller_is_counted_on_when_it_has_been_there_for_half_a_second() -> None:
    watch = ControllerWatch()
    assert watch.update(0, 10.0) is Hearing.NOBODY
    assert not watch.lost, "there was none to lose"
    assert watch.update(1, 10.1) is Hearing.PERHAPS
    assert watch.update(2, 10.5) is Hearing.PERHAPS
    assert watch.update(1, 10.7) is Hearing.SURELY
    assert watch.update(0, 10.8) is Hearing.NOBODY
    assert watch.lost
    assert watch.update(1, 10.9) is Hearing.PERHAPS
    assert not watch.lost
    watch.begin()
    watch.update(0, 11.0)
    assert not watch.lost


def test_who_only_looks_on_takes_no_commands() -> None:
    watch, nodes = (
        ControllerWatch(),
        ["/forward_position_controller", "/left/view", "/rosbag2_recorder"],
    )
    names = lambda: iter(nodes)  # noqa: E731
    assert watch.update(3, 10.0, names) is Hearing.PERHAPS
    assert watch.update(3, 10.6, names) is Hearing.SURELY
    nodes.pop(0)
    assert watch.update(2, 10.7, names) is Hearing.NOBODY
    assert watch.lost
    # One whose name is not known yet may be a controller, and so may one with any other name.
    assert watch.update(3, 10.8, names) is Hearing.PERHAPS
    nodes[:] = ["/view_controller"]
    assert watch.update(1, 10.9, names) is Hearing.PERHAPS
    # Names that lag behind the number are asked for again.
    nodes[:] = ["/view"]
    assert watch.update(1, 11.0, names) is Hearing.PERHAPS
    assert watch.update(1, 12.0, names) is Hearing.NOBODY
    # Known by name and without commands: less of them than one is none.
    nodes[:] = ["/view", "/rqt_plot", "/arm"]
    assert watch.update(2, 12.1, names) is Hearing.PERHAPS


def test_the_controller_that_the_topic_is_named_after_is_missed_whoever_else_listens() -> None:
    controller = controller_of("/left/forward_position_controller/commands")
    watch, nodes = ControllerWatch(controller), ["/left/logger"]
    names = lambda: iter(nodes)  # noqa: E731
    # Until it was there once, any node may be the one that moves the arm.
    assert watch.update(1, 10.0, names) is Hearing.PERHAPS
    assert watch.update(1, 10.6, names) is Hearing.SURELY
    nodes.append("/right/forward_position_controller")
    nodes.append("/left/forward_position_controller")
    assert watch.update(3, 10.7, names) is Hearing.SURELY
    nodes.pop()
    assert watch.update(2, 10.8, names) is Hearing.NOBODY
    assert watch.lost
    nodes.append("/left/forward_position_controller")
    assert watch.update(3, 10.9, names) is Hearing.PERHAPS
    assert not watch.lost
    nodes.pop()
    watch.begin()
    assert watch.update(2, 11.0, names) is Hearing.PERHAPS


def test_estop_stops_at_once_and_needs_release_and_reset(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.latch.set_estop(True)
    lockstep.run(0.002)
    assert lockstep.loop.state is LoopState.ESTOP
    lockstep.run(0.5)
    refusal = lockstep.loop.reset()
    assert refusal is not None and "release" in refusal
    lockstep.latch.set_estop(False)
    lockstep.run(0.1)
    assert lockstep.loop.state is LoopState.ESTOP
    assert lockstep.loop.reset() is None
    lockstep.run(0.1)
    assert lockstep.loop.state is LoopState.HOLD
    lockstep.assert_commands_within_limits()


def test_an_estop_released_between_two_ticks_still_stops(lockstep: LockStep) -> None:
    lockstep.latch.set_estop(True)
    lockstep.latch.set_estop(False)
    lockstep.run(0.002)
    assert lockstep.loop.state is LoopState.ESTOP


def test_the_first_fault_is_kept(lockstep: LockStep) -> None:
    lockstep.tamper = spoil
    lockstep.run(0.004)
    lockstep.latch.set_estop(True)
    lockstep.tamper = drop
    lockstep.run(0.2)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.NON_FINITE_STATE
    assert lockstep.latch.count == 1


def test_too_many_missed_deadlines_are_a_fault(lockstep: LockStep) -> None:
    lockstep.run(0.002)
    lockstep.misses = 50
    lockstep.run(0.1)
    assert lockstep.latch.fault is None
    lockstep.misses = 51
    lockstep.run(0.1)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.MISSED_DEADLINES


def test_misses_are_counted_within_a_window(lockstep: LockStep) -> None:
    for second in range(5):
        lockstep.misses = 50 * second
        lockstep.run(1.1)
    assert lockstep.latch.fault is None


def test_a_stall_in_motion_stops_the_arm_though_fresh_states_wait_at_its_end(
    lockstep: LockStep, near_goal: np.ndarray
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    lockstep.stall(0.044)
    lockstep.run(0.002)
    assert lockstep.latch.fault is None
    held = lockstep.commands[-1]
    assert np.abs(held - lockstep.commands[-2]).max() > 1e-4  # rad a tick: in motion
    lockstep.stall(0.09)
    # Long enough for the deadlines that were missed to be over as well.
    lockstep.run(1.1)
    fault = lockstep.latch.fault
    assert fault is not None and fault.kind is FaultKind.MISSED_DEADLINES
    assert "no command for 92 ms" in fault.reason
    # The arm has stopped at the last command meanwhile: a ramp from the old velocity is a jerk.
    assert (np.array(lockstep.commands[-550:]) == held).all()
    assert lockstep.loop.reset() is None
    lockstep.run(0.1)
    assert lockstep.loop.reset_answer(0.0) is None
    lockstep.loop.set_goal(near_goal)
    lockstep.run(3.0)
    assert math.dist(lockstep.tool(), near_goal) < 0.01


def test_a_stall_at_which_nobody_listens_or_before_commands_begin_is_none(
    lockstep: LockStep,
) -> None:
    lockstep.run(0.1)
    lockstep.loop.hearing = Hearing.NOBODY
    lockstep.stall(0.09)
    lockstep.run(0.1)
    assert lockstep.latch.fault is None
    lockstep.loop.end()
    lockstep.stall(0.09)
    lockstep.loop.hearing = Hearing.SURELY
    lockstep.loop.observe(lockstep.now_ns)
    lockstep.loop.begin()
    lockstep.run(0.1)
    assert lockstep.latch.fault is None


@pytest.mark.parametrize("begin_s", np.arange(0.1, 2.3, 0.1))
def test_missed_deadlines_count_wherever_a_stall_begins(lockstep: LockStep, begin_s: float) -> None:
    """A tick that hangs is found by the next one, which may be the first of another second."""
    lockstep.run(begin_s)
    # No longer than state_timeout_s, which would be found by itself.
    lockstep.now_ns += 45_000_000
    lockstep.misses += 51
    lockstep.run(0.004)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.MISSED_DEADLINES


def test_misses_on_both_sides_of_a_second_are_one_sum(lockstep: LockStep) -> None:
    for _ in range(22):
        lockstep.misses += 4
        lockstep.run(0.1)
    assert lockstep.latch.fault is None  # 44 within a second, at most
    lockstep.misses += 12
    lockstep.run(0.1)
    assert lockstep.latch.fault is not None
    assert "52 deadlines missed" in lockstep.latch.fault.reason


def test_a_policy_output_that_is_not_finite_is_a_fault_and_never_a_motion(
    robot: RobotConfig, nan_policy_path: Path, near_goal: np.ndarray
) -> None:
    lockstep = LockStep(robot, PolicyFile.load(nan_policy_path, robot))
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.5)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.POLICY_OUTPUT
    assert (np.array(lockstep.commands) == lockstep.commands[0]).all()


def test_an_unexpected_error_stops_the_arm_and_the_loop_goes_on(
    lockstep: LockStep, near_goal: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(lockstep.loop.runner.policy, "sample", fail)
    before = len(lockstep.commands)
    lockstep.run(0.5)
    assert lockstep.latch.fault is not None
    assert lockstep.latch.fault.kind is FaultKind.INTERNAL
    assert "out of order" in lockstep.latch.fault.reason
    assert lockstep.loop.at_rest and len(lockstep.commands) == before + 250
    lockstep.assert_commands_within_limits()


def test_a_requested_stop_ramps_down_first(lockstep: LockStep, near_goal: np.ndarray) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    assert not lockstep.loop.at_rest
    lockstep.loop.request_stop()
    assert lockstep.run(1.0) is False
    assert lockstep.loop.at_rest
    lockstep.assert_commands_within_limits()


def test_the_same_seed_gives_the_same_commands_to_the_bit(
    robot: RobotConfig, shaky_policy_path: Path, near_goal: np.ndarray
) -> None:
    def commands(**noise: object) -> np.ndarray:
        lockstep = LockStep(robot, PolicyFile.load(shaky_policy_path, robot), **noise)
        lockstep.loop.set_goal(near_goal)
        lockstep.run(0.5)
        return np.array(lockstep.commands)

    sampled = commands(scale=1.0, seed=3, redraw="tick")
    assert (sampled == commands(scale=1.0, seed=3, redraw="tick")).all()
    assert (sampled != commands(scale=1.0, seed=4, redraw="tick")).any()
    assert (sampled != commands(scale=1.0, seed=3, redraw="goal")).any()
    assert (commands(scale=0.0, seed=3) == commands(scale=0.0, seed=4)).all()


def test_a_swap_in_motion_takes_no_step_in_the_command(
    lockstep: LockStep,
    robot: RobotConfig,
    shaky_policy_path: Path,
    near_goal: np.ndarray,
) -> None:
    lockstep.loop.set_goal(near_goal)
    lockstep.run(0.3)
    assert not lockstep.loop.at_rest
    policy = PolicyFile.load(shaky_policy_path, robot)
    runner = PolicyRunner(policy, NoiseSource(policy.deterministic_noise, 1.0, 0, "tick"))
    lockstep.loop.swap(runner)
    lockstep.run(0.002)
    assert lockstep.loop.runner is runner
    lockstep.run(3.0)
    assert math.dist(lockstep.tool(), near_goal) < 0.03
    assert sum(lockstep.loop.statistics.interventions.values()) == 0
    lockstep.assert_commands_within_limits()
