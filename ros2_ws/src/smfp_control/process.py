# SPDX-License-Identifier: Apache-2.0
"""How a node's process starts, spins and ends; the same for both nodes."""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import contextlib
import ctypes
import gc
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import rclpy
from rclpy.exceptions import InvalidNamespaceException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from smfp_core.strict import ConfigError

# Python hands the interpreter lock over after 5 ms unless told otherwise: more than two periods.
_SWITCH_INTERVAL_S = 5e-5
_SPIN_S = 0.1
# A terminal that is closed, or a connection that is lost, hangs up on what was started there.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Of glibc's malloc.h. Left to itself every thread of the middleware gets a heap of its own.
_M_ARENA_MAX, _HEAPS = -8, 2


class RunnableNode(Node, ABC):
    """A node that ``run_node`` can bring to an orderly end.

    Attributes:
        exit_status: set by the node to end the process with that status.
    """

    exit_status: int | None = None

    @abstractmethod
    def close(self) -> None:
        """Bring the robot to rest and release everything; called once, with a valid context."""


def node_beside_arm(name: str, namespace: str) -> Node:
    """A node in the namespace of one arm's nodes; empty: that of the ROS arguments, or the root.

    Raises:
        ConfigError: it is no namespace, or the ROS arguments name another one.
    """
    try:
        node = Node(name, namespace=namespace)
    except InvalidNamespaceException as error:
        raise ConfigError(f"namespace: {str(error).splitlines()[0]} '{namespace}'") from error
    # A remap overrules the constructor. Of two names neither may win: each has an arm.
    remapped = node.get_namespace()
    if namespace and remapped != f"/{namespace.removeprefix('/')}":
        node.destroy_node()
        raise ConfigError(
            f"namespace: '{namespace}' was asked for, and the ROS arguments say '{remapped}': "
            "give one of them"
        )
    return node


def init_ros(args: Sequence[str]) -> None:
    """``rclpy.init`` with these arguments, and without its signal handlers.

    Raises:
        ConfigError: the ROS arguments cannot be used (a file that is not there), or ROS does not
            start.
    """
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # what rclpy's errors derive from
        raise ConfigError(str(error)) from error


def own_arguments(args: Sequence[str]) -> list[str]:
    """``args`` without those for ROS.

    Raises:
        ConfigError: those cannot be used.
    """
    try:
        return remove_ros_args(["", *args])[1:]
    except RuntimeError as error:
        raise ConfigError(str(error)) from error


def freeze_garbage() -> None:
    """Exempt all objects made so far from collections, which would delay ticks by milliseconds.

    What was freed before goes back to the system, where the C library offers that.
    """
    gc.collect()
    gc.freeze()
    _call_allocator("malloc_trim", 0)


def _call_allocator(name: str, *values: int) -> None:
    """Call a function of glibc's allocator; other C libraries have none of the kind."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*values)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the block SIGINT and SIGTERM raise KeyboardInterrupt, in the main thread of a command.

    SIGINT too: a shell that starts a command in the background leaves it ignored. An interrupt that
    comes while rclpy makes a message of what it received leaves rclpy as a RuntimeError, which is
    turned back here.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        yield
    except RuntimeError as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise


def stop_on_signals() -> threading.Event:
    """The event that SIGINT, SIGTERM and SIGHUP set; nothing is interrupted where it stands.

    Under nohup SIGHUP stays ignored: then the node is to outlive its terminal.
    """
    stop = threading.Event()
    for number in _ENDING:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    return stop


def run_node(make_node: Callable[[threading.Event], RunnableNode], args: Sequence[str]) -> int:
    """Make a node, spin it until it is told to stop, close it.

    SIGINT, SIGTERM and SIGHUP set the event that ``make_node`` gets; the context stays valid until
    the node is closed, so that it can still command while it brings the robot to rest.

    Returns:
        The exit status of the process: 0 after a signal or an orderly end, 1 if it cannot begin.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _call_allocator("mallopt", _M_ARENA_MAX, _HEAPS)
    stop = stop_on_signals()
    try:
        init_ros(args)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    executor = SingleThreadedExecutor()
    node = make_node(stop)
    status: int | None = None
    try:
        executor.add_node(node)
        while rclpy.ok() and not stop.is_set() and status is None:
            try:
                executor.spin_once(_SPIN_S)
            except ExternalShutdownException:
                break
            except Exception as error:
                # For one, rclpy raises here when a client asks for a transition that the present
                # state does not have. A client's mistake must not take the node down in motion.
                node.get_logger().error(f"request failed: {type(error).__name__}: {error}")
            status = node.exit_status
    except KeyboardInterrupt:
        pass
    finally:
        node.close()
        # A launch system and a terminal may both interrupt: the arm rests, so the rest is brief,
        # and an interrupt that met the interpreter's own end would make it look like a failure.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return status or 0
