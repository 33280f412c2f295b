# SPDX-License-Identifier: Apache-2.0
"""Joint states as drivers publish them, turned into arrays in the robot's joint order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from smfp_control.faults import Fault, FaultKind


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
        position, velocity: float64 [n], rad and rad/s, in the robot's joint order.
        previous_position: the position before the last accepted message.
        received_ns: steady time at which the last message was accepted; ``elapsed_s`` since the
            one before it.
        accepted, out_of_order: counts of messages.
    """

    def __init__(self, joint_names: Sequence[str]) -> None:
        n = len(joint_names)
        self._joints = tuple(joint_names)
        self._names: list[str] = []
        self._index: np.ndarray | None = None
        self.position = np.zeros(n)
        self.velocity = np.zeros(n)
        self.previous_position = np.zeros(n)
        self._incoming = np.zeros(n)
        self._incoming_velocity = np.zeros(n)
        self.out_of_order = 0
        self.clear()

    def clear(self) -> None:
        """Forget the state: the next message is the first, whatever its stamp."""
        self.accepted = 0
        self.stamp_ns = 0
        self.received_ns = 0
        self.elapsed_s = 0.0

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
        fault = self._read(message, self._index)
        if fault is not None:
            return fault
        elapsed_ns = now_ns - self.received_ns
        if not len(message.velocity):
            self._differentiate((stamp_ns - self.stamp_ns) if stamp_ns else elapsed_ns)
        first = self.accepted == 0
        self.previous_position[:] = self._incoming if first else self.position
        self.position[:] = self._incoming
        self.velocity[:] = self._incoming_velocity
        self.elapsed_s = 0.0 if first else elapsed_ns * 1e-9
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
        self._index = np.array([where[joint] for joint in self._joints])
        return None

    def _read(self, message: JointStateMessage, index: np.ndarray) -> Fault | None:
        for field, values, out, optional in (
            ("position", message.position, self._incoming, False),
            ("velocity", message.velocity, self._incoming_velocity, True),
        ):
            if optional and not len(values):
                continue
            if len(values) != len(self._names):
                return Fault(
                    FaultKind.INCOMPLETE_STATE,
                    f"joint state has {len(values)} values of {field} for {len(self._names)} names",
                )
            np.take(np.asarray(values, np.float64), index, out=out)
            if not np.isfinite(out).all():
                joint = self._joints[int(np.argmin(np.isfinite(out)))]
                text = f"{field} of {joint} in the joint state is not finite"
                return Fault(FaultKind.NON_FINITE_STATE, text)
        return None

    def _differentiate(self, elapsed_ns: int) -> None:
        if self.accepted == 0 or elapsed_ns <= 0:
            self._incoming_velocity[:] = self.velocity if self.accepted else 0.0
            return
        np.subtract(self._incoming, self.position, out=self._incoming_velocity)
        self._incoming_velocity /= elapsed_ns * 1e-9
