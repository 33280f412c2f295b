# SPDX-License-Identifier: Apache-2.0
"""What drivers publish, and what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest
from lockstep import joint_state

from smfp_control.faults import FaultKind
from smfp_control.joint_state import JointStateReader, PublisherWatch
from smfp_sim.plant import Encoder
from smfp_sim.plant_arm import EncoderModel

NAMES = ("a", "b", "c")
MS = 1_000_000


@pytest.fixture
def reader() -> JointStateReader:
    return JointStateReader(NAMES)


def test_joints_are_taken_by_name_whatever_their_order(reader: JointStateReader) -> None:
    assert reader.accept(joint_state("cab", [3, 1, 2], [30, 10, 20]), 1) is None
    assert reader.position == [1, 2, 3]
    assert reader.velocity == [10, 20, 30]
    assert reader.accept(joint_state("bca", [5, 6, 4], [50, 60, 40]), 2) is None
    assert reader.position == [4, 5, 6]
    assert reader.velocity == [40, 50, 60]


def test_other_joints_are_ignored_in_the_same_or_in_other_messages(
    reader: JointStateReader,
) -> None:
    assert reader.accept(joint_state(["gripper", *NAMES], [9, 1, 2, 3], [9, 0, 0, 0]), 1) is None
    assert reader.accept(joint_state(["gripper"], [9], [9]), 2) is None
    assert reader.position == [1, 2, 3]
    assert (reader.accepted, reader.received_ns) == (1, 1)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (joint_state("ab", [1, 2]), FaultKind.INCOMPLETE_STATE, "lacks c"),
        (joint_state([], []), FaultKind.INCOMPLETE_STATE, "lacks a, b, c"),
        (joint_state("abc", [1, 2]), FaultKind.INCOMPLETE_STATE, "2 values of position"),
        (joint_state("abc", [1, 2, 3, 4]), FaultKind.INCOMPLETE_STATE, "4 values of position"),
        (joint_state("abc", []), FaultKind.INCOMPLETE_STATE, "0 values of position"),
        (joint_state("abc", [1, 2, 3], [1]), FaultKind.INCOMPLETE_STATE, "1 values of velocity"),
        (joint_state("abca", [1, 2, 3, 4]), FaultKind.INCOMPLETE_STATE, "twice"),
        (joint_state("abc", [1, np.nan, 3]), FaultKind.NON_FINITE_STATE, "position of b"),
        (joint_state("abc", [1, 2, np.inf]), FaultKind.NON_FINITE_STATE, "position of c"),
        (joint_state("abc", [1, 2, 3], [np.nan] * 3), FaultKind.NON_FINITE_STATE, "velocity of a"),
    ],
)
def test_a_bad_message_is_refused_with_a_reason_and_changes_nothing(
    reader: JointStateReader, message: object, kind: FaultKind, text: str
) -> None:
    assert reader.accept(joint_state(NAMES, [1, 2, 3], [4, 5, 6]), 1) is None
    fault = reader.accept(message, 2)  # type: ignore[arg-type]
    assert fault is not None and fault.kind is kind and text in fault.reason
    assert reader.position == [1, 2, 3] and reader.velocity == [4, 5, 6]
    assert reader.received_ns == 1
    assert reader.accept(joint_state(NAMES, [7, 8, 9], [0, 0, 0]), 3) is None


def test_missing_velocities_are_differences_of_positions_by_stamp(
    reader: JointStateReader,
) -> None:
    reader.accept(joint_state(NAMES, [1, 2, 3], stamp_ns=1000 * MS), 1)
    assert reader.velocity == [0, 0, 0]
    # Received late; the stamps say that 2 ms lie between them.
    reader.accept(joint_state(NAMES, [1.002, 2, 2.998], stamp_ns=1002 * MS), 9 * MS)
    np.testing.assert_allclose(reader.velocity, [1, 0, -1], atol=1e-9)


def test_missing_velocities_without_stamps_use_the_time_of_arrival(
    reader: JointStateReader,
) -> None:
    reader.accept(joint_state(NAMES, [1, 2, 3]), 10 * MS)
    reader.accept(joint_state(NAMES, [1.004, 2, 3]), 14 * MS)
    np.testing.assert_allclose(reader.velocity, [1, 0, 0], atol=1e-9)


def test_missing_velocities_go_through_the_filter_of_training(reader: JointStateReader) -> None:
    reader.velocity_filter_s = 0.02
    rng = np.random.default_rng(0)
    encoder = EncoderModel(Encoder(velocity="difference", velocity_filter_s=0.02), len(NAMES))
    q = np.array([1.0, 2.0, 3.0])
    encoder.reset(q, rng)
    reader.accept(joint_state(NAMES, q.tolist(), stamp_ns=1000 * MS), 1)
    for k in range(1, 30):
        q = q + 0.001 * rng.standard_normal(3)
        encoder.read(q, np.zeros(3), 0.002, rng)
        reader.accept(joint_state(NAMES, q.tolist(), stamp_ns=(1000 + 2 * k) * MS), 1 + k)
        np.testing.assert_allclose(reader.velocity, encoder.velocity, rtol=1e-9, atol=1e-12)
    # A driver that sends velocities is believed.
    reader.accept(joint_state(NAMES, q.tolist(), [7, 8, 9], stamp_ns=2000 * MS), 99)
    assert reader.velocity == [7, 8, 9]


def test_messages_that_are_not_newer_do_not_count_as_fresh(reader: JointStateReader) -> None:
    reader.accept(joint_state(NAMES, [1, 2, 3], stamp_ns=5 * MS), 10 * MS)
    for stamp_ns in (5 * MS, 4 * MS):
        assert reader.accept(joint_state(NAMES, [9, 9, 9], stamp_ns=stamp_ns), 20 * MS) is None
    assert reader.position == [1, 2, 3]
    assert (reader.received_ns, reader.out_of_order) == (10 * MS, 2)


def faults_of(numbers: list[int | None], period_ns: int = 2 * MS) -> list[bool]:
    watch, found = PublisherWatch(), []
    for i, number in enumerate(numbers):
        watch.take(number)
        watch.note(i * period_ns)
        found.append(watch.fault(i * period_ns) is not None)
    return found


def test_numbers_that_go_back_and_forth_are_two_publishers() -> None:
    assert faults_of([50, 1, 51, 2, 52, 3, 53])[-2:] == [True, True]
    # Started together, they even give the same numbers.
    assert any(faults_of([1, 1, 2, 2, 3, 3, 4, 4]))
    watch = PublisherWatch()
    for i, number in enumerate([5, 1, 6, 2, 7, 3]):
        watch.take(number)
        watch.note(i * MS)
    assert watch.fault(6 * MS) is not None
    assert watch.fault(2000 * MS) is None, "the second one has gone"


def test_a_restart_or_a_lack_of_numbers_is_no_second_publisher() -> None:
    assert not any(faults_of([100, 101, 102, 1, 2, 3, 4]))
    assert not any(faults_of([100, 101, 1, 2, 1, 2, 3, 4]))
    assert not any(faults_of([None] * 20))
    assert not any(faults_of([2**64 - 1] * 20))
