# SPDX-License-Identifier: Apache-2.0
"""A command that is interrupted ends as interrupted, wherever the signal met it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from smfp_control.process import interruptible


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Pytest's own, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def convert(number: int | None) -> None:
    """As rclpy's extension does: whatever is raised while it makes a message is a RuntimeError."""
    try:
        if number is not None:
            signal.raise_signal(number)
    except BaseException:
        pass
    raise RuntimeError("Unable to convert call argument '0' to Python object")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_rclpy_disguised_is_one_again(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        convert(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)


def test_an_error_without_an_interrupt_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="Unable to convert"), interruptible():
        convert(None)
