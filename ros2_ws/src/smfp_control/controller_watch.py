# SPDX-License-Identifier: Apache-2.0
"""Whether anybody takes the commands. No ROS in here."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Protocol

# Discovery has two directions: a publisher may know of a subscriber that does not yet know of it,
# and takes nothing. On a busy computer the two lie some hundred milliseconds apart.
_SURE_AFTER_S = 0.5
# Asking for names takes a third of a millisecond, and they may lag behind the number.
_NAMES_S = 1.0
# Nodes that look on: this package's page; by how their names begin, recorders, plots, bridges.
PAGE_NODE = "view"
_ONLOOKERS = ("_ros2cli", "rosbag2", "rqt", "plotjuggler", "foxglove_bridge")


class Endpoint(Protocol):
    """rclpy's TopicEndpointInfo, as far as it is read here."""

    node_name: str
    node_namespace: str


def full_name(end: Endpoint) -> str:
    """Full name of the node that a publisher or subscriber belongs to."""
    return f"{end.node_namespace.rstrip('/')}/{end.node_name}"


def is_onlooker(node: str) -> bool:
    """Whether a subscriber of the commands, by its name, is known to move nothing by them."""
    name = node.split("/")[-1]
    return name == PAGE_NODE or name.startswith(_ONLOOKERS)


def controller_of(topic: str) -> str:
    """The node that a command topic is named after: controllers take ``~/commands`` and alike."""
    return topic.rpartition("/")[0]


class Hearing(enum.Enum):
    """What may be expected of a command that is sent now."""

    NOBODY = "nobody"
    """It reaches nobody: the arm stays where its controller left it."""
    PERHAPS = "perhaps"
    """Somebody has only just appeared, and may miss it."""
    SURELY = "surely"
    """Somebody takes it."""


class ControllerWatch:
    """Judges by the number of subscribers, asked for every now and then, less those who look on.

    Whoever else listens may be a controller too, but not in the place of ``controller``, the node
    that the topic is named after: once that one was there it must stay.
    """

    def __init__(self, controller: str = "") -> None:
        self.controller = controller
        self._met = False
        self._since_s: float | None = None
        self._had = False
        self._subscribers = 0
        self._names: list[str] = []
        self._names_until_s = 0.0

    def begin(self) -> None:
        """Commands begin: nobody can be lost of those that were there before."""
        self._had = self._met = False

    def update(
        self, subscribers: int, now_s: float, names: Callable[[], Iterable[str]] = tuple
    ) -> Hearing:
        """``subscribers`` at ``now_s`` (s, steady clock); ``names`` tells their nodes, in full."""
        if subscribers != self._subscribers or now_s >= self._names_until_s:
            self._subscribers, self._names_until_s = subscribers, now_s + _NAMES_S
            self._names = list(names()) if subscribers else []
        onlookers = sum(map(is_onlooker, self._names))
        there = self.controller in self._names
        self._met = self._met or there
        # Names may lack some of the subscribers, or have some that get no commands: in doubt it is
        # a controller.
        if max(subscribers, len(self._names)) <= onlookers or (self._met and not there):
            self._since_s = None
            return Hearing.NOBODY
        self._had = True
        if self._since_s is None:
            self._since_s = now_s
        return Hearing.SURELY if now_s - self._since_s >= _SURE_AFTER_S else Hearing.PERHAPS

    @property
    def lost(self) -> bool:
        """Whether there was somebody since ``begin``, and is nobody now."""
        return self._had and self._since_s is None
