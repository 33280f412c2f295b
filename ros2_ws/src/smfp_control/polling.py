# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that a control thread reads itself, past the executor.

At 500 Hz an executor that wakes for every message takes more time from the control thread (it
holds the interpreter lock) than the control itself, and a slow service call would delay states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription


class _NeverExecuted(CallbackGroup):
    """Keeps its subscriptions out of every executor's wait set."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return None


def create_polled_subscription(
    node: Node,
    message_type: type,
    topic: str,
    qos: QoSProfile,
    number: Callable[[int | None], None] | None = None,
) -> tuple[Subscription, Callable[[], Any]]:
    """A subscription without callback, and the function that takes its next waiting message.

    The function returns None when no message waits. It may be called from any one thread, while
    the subscription exists. ``number``, if given, is told before that the number which the
    message's publisher gave it; None where the middleware knows none.
    """
    subscription = node.create_subscription(
        message_type, topic, lambda message: None, qos, callback_group=_NeverExecuted()
    )
    handle = subscription.handle

    def take() -> Any:
        taken = handle.take_message(message_type, False)
        if taken is None:
            return None
        if number is not None:
            number(taken[1]["publication_sequence_number"])
        return taken[0]

    return subscription, take
