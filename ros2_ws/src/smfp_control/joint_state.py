# SPDX-License-Identifier: Apache-2.0
"""Joint states as drivers publish them, turned into arrays in the robot's joint order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from smfp_control.faults import Fault, FaultKind

# Share of elapsed time by which a driver's clock may lose against this computer's without that
# counting as delay: ten times what a quartz does.
_CLOCK_DRIFT = 1e-3
# This many messages out of their publisher's order within this time are no restart any more.
_MOST_REVERSALS, _REVERSALS_S = 3, 1.0


class Stamp(Protocol):
    """builtin_interfaces/Time."""

    sec: int
    nanosec: int


class Header(Protocol):
    """std_msgs/Header, as far as it is read here."""

    stamp: Stamp


class JointStateMessage(Protocol):
    """sensor_msgs/JointState, as far as it is read here."""

    header: Header
    name: Sequence[str]
    position: Sequence[float]
    velocity: Sequence[float]


class JointStateReader:
    """Latest state of the named joints; one thread feeds and reads it.

    Drivers differ: the order of names is not guaranteed and may change, other joints (grippers)
    may be among them or come in messages of their own, velocities may be missing. A message that
    is refused changes nothing: the last good state stays, and grows old.

    Attributes:
        position, velocity: [n], rad and rad/s, in the robot's joint order. Each message makes new
            lists of plain floats, which nobody changes.
        previous_position: the position before the last accepted message.
        received_ns: steady time at which the last message was accepted.
        elapsed_s: between that one and the one before it.
        delay_ns: how much later than the promptest so far the last stamped message came. The
            clocks of driver and computer need not agree, and may drift by 0.1 percent.
        accepted, out_of_order: counts of messages.
        velocity_filter_s: time constant of a low-pass of velocities that the driver leaves to the
            reader to differentiate; 0: none.
    """

    def __init__(self, joint_names: Sequence[str]) -> None:
        n = len(joint_names)
        self._joints = tuple(joint_names)
        self._names: list[str] = []
        self._index: list[int] | None = None
        self._ordered = False
        self.position = self.velocity = self.previous_position = [0.0] * n
        self.out_of_order = 0
        self.velocity_filter_s = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget the state: the next message is the first, whatever its stamp."""
        self.accepted = 0
        self.stamp_ns = 0
        self.received_ns = 0
        self.elapsed_s = 0.0
        self.delay_ns = 0
        self._promptest_ns: int | None = None

    @property
    def concerned(self) -> bool:
        """Whether the last message named these joints: a gripper's own does not."""
        return self._index is not None

    def accept(self, message: JointStateMessage, now_ns: int) -> Fault | None:
        """Take a message received at steady time ``now_ns``.

        Returns:
            Why the message was refused; None if it was taken, or does not concern these joints,
            or is not newer than the last one.
        """
        if not self._names or message.name != self._names:
            fault = self._map(message.name)
            if fault is not None:
                return fault
        if self._index is None:
            return None
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        # A stamp of zero means that the driver sets none.
        if stamp_ns and stamp_ns <= self.stamp_ns:
            self.out_of_order += 1
            return None
        # Read once: each access of a message's field makes a call.
        position, velocity = message.position, message.velocity
        fault = self._check(position, velocity)
        if fault is not None:
            return fault
        elapsed_ns = now_ns - self.received_ns
        first = self.accepted == 0
        ordered, index = self._ordered, self._index
        new_position = list(position) if ordered else [position[i] for i in index]
        # A message that was held up on the way arrives shortly before the next one: then the
        # stamps tell how far apart they are. Without two of them only the arrival is known.
        stamped_ns = stamp_ns - self.stamp_ns if stamp_ns and self.stamp_ns else 0
        if len(velocity):
            new_velocity = list(velocity) if ordered else [velocity[i] for i in index]
        else:
            new_velocity = self._differentiate(new_position, stamped_ns or elapsed_ns)
        self.previous_position = new_position if first else self.position
        self.position, self.velocity = new_position, new_velocity
        self.elapsed_s = 0.0 if first else max(elapsed_ns, stamped_ns) * 1e-9
        if stamp_ns:
            offset_ns = now_ns - stamp_ns
            if self._promptest_ns is None:
                self._promptest_ns = offset_ns
            drifted_ns = self._promptest_ns + round(elapsed_ns * _CLOCK_DRIFT)
            self._promptest_ns = min(drifted_ns, offset_ns)
            self.delay_ns = offset_ns - self._promptest_ns
        self.stamp_ns = stamp_ns
        self.received_ns = now_ns
        self.accepted += 1
        return None

    def _map(self, names: Sequence[str]) -> Fault | None:
        self._names, self._index = [], None
        where = {name: i for i, name in enumerate(names)}
        missing = [joint for joint in self._joints if joint not in where]
        if len(missing) == len(self._joints) and names:
            return None
        if missing:
            return Fault(
                FaultKind.INCOMPLETE_STATE,
                f"joint state lacks {', '.join(missing)}: it names {list(names)[:12]}",
            )
        if len(where) != len(names):
            return Fault(
                FaultKind.INCOMPLETE_STATE, f"joint state names a joint twice: {list(names)[:12]}"
            )
        self._names = list(names)
        self._index = [where[joint] for joint in self._joints]
        self._ordered = self._index == list(range(len(names)))
        return None

    def _check(self, position: Sequence[float], velocity: Sequence[float]) -> Fault | None:
        """Whether the values of a message fit its names, and those of the joints are finite."""
        n = len(self._names)
        if len(position) != n or (len(velocity) not in (0, n)):
            field, values = ("position", position) if len(position) != n else ("velocity", velocity)
            return Fault(
                FaultKind.INCOMPLETE_STATE,
                f"joint state has {len(values)} values of {field} for {n} names",
            )
        # A sum is finite only if every value is; one that is not may be of another joint.
        if math.isfinite(sum(position) + sum(velocity)):
            return None
        for field, values in (("position", position), ("velocity", velocity)):
            for joint, i in zip(self._joints, self._index or (), strict=True):
                if len(values) and not math.isfinite(values[i]):
                    return Fault(
                        FaultKind.NON_FINITE_STATE,
                        f"{field} of {joint} in the joint state is not finite",
                    )
        return None

    def _differentiate(self, position: list[float], elapsed_ns: int) -> list[float]:
        if self.accepted == 0:
            return [0.0] * len(position)
        if elapsed_ns <= 0:
            return self.velocity
        elapsed_s = elapsed_ns * 1e-9
        rows = zip(position, self.position, strict=True)
        difference = [(new - old) / elapsed_s for new, old in rows]
        if not self.velocity_filter_s:
            return difference
        share = elapsed_s / (self.velocity_filter_s + elapsed_s)
        pairs = zip(difference, self.velocity, strict=True)
        return [old + share * (new - old) for new, old in pairs]


class PublisherWatch:
    """Notices two publishers of one joint state, by the numbers that they give their messages.

    Each publisher counts its own, so a second one makes the numbers go back and forth; a
    publisher that restarts does so once. Drivers that differ are noticed as a jump besides.
    """

    def __init__(self) -> None:
        self._last = self._number = 0
        self._reversals_ns = [0] * _MOST_REVERSALS
        self._count = 0

    def take(self, number: int | None) -> None:
        """The number of the message that is about to be judged; None if it has none."""
        # Middleware that does not number gives the greatest unsigned value.
        self._number = 0 if number is None or number >= 2**63 else number

    def note(self, now_ns: int) -> None:
        """The last message, received at steady time ``now_ns``, names the joints of the arm."""
        if self._number and self._number <= self._last:
            self._reversals_ns[self._count % _MOST_REVERSALS] = now_ns
            self._count += 1
        self._last = self._number or self._last

    def fault(self, now_ns: int) -> Fault | None:
        """Whether there are two publishers at steady time ``now_ns``."""
        if self._count < _MOST_REVERSALS:
            return None
        if now_ns - min(self._reversals_ns) > _REVERSALS_S * 1e9:
            return None
        return Fault(
            FaultKind.TWO_PUBLISHERS,
            "two publishers send states of these joints: end one of the drivers",
        )
