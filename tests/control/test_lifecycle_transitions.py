# SPDX-License-Identifier: Apache-2.0
"""Five hundred random transitions of a node in this process, with goals and stops in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench import FakeDriver, open_bench
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from smfp_control import policy_node
from smfp_core.robot import RobotConfig

pytestmark = pytest.mark.process

TRANSITIONS = 500
# What a transition needs, and what becomes of the state when it succeeds.
ALLOWED = {
    "configure": ("unconfigured", "inactive"),
    "activate": ("inactive", "active"),
    "deactivate": ("active", "inactive"),
    "cleanup": ("inactive", "unconfigured"),
}


@pytest.fixture
def load() -> Iterator[None]:
    """Something else wants the interpreter all the time."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            np.linalg.svd(np.ones((60, 60)))
            time.sleep(0.002)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join()


class Arm:
    """Bench and joint states, spun by a thread: an arm that stands still."""

    def __init__(self, robot: RobotConfig) -> None:
        self._open = open_bench(robot)
        self.bench = self._open.__enter__()
        FakeDriver(self.bench)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            self.bench.spin(0.02)

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._open.__exit__(None, None, None)


@pytest.fixture
def arm(robot: RobotConfig, local_ros: None) -> Iterator[Arm]:
    arm = Arm(robot)
    yield arm
    arm.close()


def control_threads() -> int:
    return sum(thread.name == "control" for thread in threading.enumerate())


def test_500_random_transitions_leave_no_thread_and_no_motion(
    arm: Arm,
    load: None,
    robot: RobotConfig,
    policy_path: Path,
    near_goal: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = Context()
    context.init(
        args=[
            *("--ros-args", "-p", f"policy_path:={policy_path}", "-p", "state_timeout_s:=1.0"),
            *("-p", "deadline_miss_limit:=100000", "-p", "tracking_error_rad:=3.0"),
            *("-p", "state_delay_limit_s:=0.0", "-p", "activation_timeout_s:=10.0"),
        ],
        domain_id=arm.bench.domain_id,
    )
    real_init = policy_node.LifecycleNode.__init__
    monkeypatch.setattr(
        policy_node.LifecycleNode,
        "__init__",
        lambda self, name: real_init(self, name, context=context),
    )
    node = policy_node.PolicyNode(threading.Event())
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    assert node.get_parameter("state_timeout_s").type_ is Parameter.Type.DOUBLE
    threads = threading.active_count()
    rng = np.random.default_rng(20)
    state, count, moved = "unconfigured", {name: 0 for name in ALLOWED}, 0
    refused = 0
    goal = PoseStamped()
    goal.header.frame_id = robot.base_frame
    goal.pose.position.x, goal.pose.position.y, goal.pose.position.z = map(float, near_goal)
    transitions = 0
    while transitions < TRANSITIONS:
        act = rng.choice(["transition"] * 5 + ["goal", "estop", "spin"])
        if act == "goal" and state != "unconfigured":
            node._on_goal(goal)
        elif act == "estop" and state != "unconfigured" and rng.random() < 0.3:
            node._on_estop(SetBool.Request(data=True), SetBool.Response())
        elif act == "spin":
            executor.spin_once(0.01)
            time.sleep(rng.uniform(0.0, 0.05))
        if act != "transition":
            continue
        transitions += 1
        likely = [name for name, (needs, _) in ALLOWED.items() if needs == state]
        name = str(rng.choice(likely if rng.random() < 0.8 else list(ALLOWED)))
        needs, then = ALLOWED[name]
        if name == "activate" and state == "inactive" and rng.random() < 0.9:
            node._on_estop(SetBool.Request(data=False), SetBool.Response())
            node._on_reset(Trigger.Request(), Trigger.Response())
        latched = node._latch.fault is not None
        if needs != state:
            # rcl names what the state does not allow; nothing is called, nothing changes.
            with pytest.raises(RuntimeError):
                getattr(node, f"trigger_{name}")()
            refused += 1
        else:
            answer = getattr(node, f"trigger_{name}")()
            if name == "activate" and latched:
                assert answer is TransitionCallbackReturn.FAILURE
            else:
                assert answer is TransitionCallbackReturn.SUCCESS, (name, node._refusal)
                state = then
                count[name] += 1
        assert node._lifecycle == state
        assert control_threads() == (1 if state == "active" else 0)
        if name == "deactivate" and needs == "active" and state == "inactive":
            assert node._configured is not None
            loop = node._configured.loop
            moved += bool((loop.command.position != robot.home_rad).any())
            assert loop.at_rest, "ended in motion"
            ticks = loop.statistics.ticks
            time.sleep(0.005)
            assert loop.statistics.ticks == ticks, "commands after deactivation"
    assert min(count.values()) > 30 and refused > 20, (count, refused)
    assert moved > 5, "the arm was hardly ever in motion"
    node.close()
    assert control_threads() == 0 and threading.active_count() <= threads
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()
