# SPDX-License-Identifier: Apache-2.0
"""The control loop against the simulated arm, tick by tick, on a clock that the test turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from smfp_control.commands import VelocityFollower
from smfp_control.control_loop import ControlLoop
from smfp_control.faults import FaultLatch
from smfp_control.noise import NoiseSource
from smfp_control.policy_runner import Policy, PolicyRunner
from smfp_control.safety import SafetyFilter, StateMonitor
from smfp_control.sim_driver import SimulatedDriver
from smfp_control.supervision import LoopSettings
from smfp_core.reference import Reference
from smfp_core.robot import RobotConfig
from smfp_sim.arm import Kinematics


def joint_state(
    names: Any, position: Any, velocity: Any = (), stamp_ns: int = 0
) -> SimpleNamespace:
    """What the reader sees of a sensor_msgs/JointState."""
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp),
        name=list(names),
        position=list(map(float, position)),
        velocity=list(map(float, velocity)),
    )


class LockStep:
    """One robot, one loop, one clock. ``tamper`` sees each joint state before the loop does.

    Attributes:
        commands: positions commanded, one row a tick.
        measured: (position, velocity) of the simulated arm, one row a tick.
        velocities: sent, one row a tick, where ``velocity_gain_per_s`` is given.
        heard: whether commands reach the arm.
    """

    def __init__(
        self,
        robot: RobotConfig,
        policy: Policy,
        safety_filter: SafetyFilter | None = None,
        blend: tuple[float, float] = (1.0, 0.0),
        velocity_gain_per_s: float | None = None,
        **noise: Any,
    ) -> None:
        self.robot = robot
        self.period_s = 1.0 / robot.control_rate_hz
        self.driver = SimulatedDriver(robot, self.period_s)
        self.now_ns = 1_000_000_000
        self.misses = 0
        self.queue: deque[SimpleNamespace] = deque()
        self.tamper: Callable[[SimpleNamespace], SimpleNamespace | None] = lambda message: message
        self.commands: list[np.ndarray] = []
        self.measured: list[tuple[np.ndarray, np.ndarray]] = []
        self.velocities: list[np.ndarray] = []
        self.heard = True
        self.latch = FaultLatch()
        self.follower = None
        if velocity_gain_per_s is not None:
            self.follower = VelocityFollower(robot, velocity_gain_per_s)
        arguments = {"scale": 0.0, "seed": 0, "redraw": "goal"} | noise
        self.loop = ControlLoop(
            robot,
            PolicyRunner(policy, NoiseSource(policy.deterministic_noise, **arguments)),
            Kinematics(self.driver.arm.arm),
            LoopSettings(0.05, 50, 1.0, 0.2, *blend),
            StateMonitor(robot, velocity_tolerance=0.1, tracking_error_rad=0.3, jump_rad=0.05),
            self.latch,
            lambda: self.queue.popleft() if self.queue else None,
            self._send,
            lambda: self.misses,
            safety_filter,
            follower=self.follower,
        )
        self.publish()
        assert self.loop.observe(self.now_ns) is None
        self.loop.begin()

    def _send(self, reference: Reference) -> None:
        self.commands.append(reference.position.copy())
        if self.follower is not None:
            measured = self.loop.reader.position if self.loop.correctable else None
            self.velocities.append(self.follower.follow(reference, measured).copy())
        if self.heard and self.follower is not None:
            self.driver.take_velocity(self.velocities[-1])
        elif self.heard:
            self.driver.take_position(reference.position)

    def publish(self) -> None:
        """Queue the arm's present state, as ``tamper`` leaves it."""
        arm = self.driver.arm
        message = self.tamper(
            joint_state(self.robot.joint_names, arm.joint_position, arm.joint_velocity, self.now_ns)
        )
        if message is not None:
            self.queue.append(message)

    def run(self, seconds: float) -> bool:
        """Tick for ``seconds``; False as soon as a requested stop is complete."""
        for _ in range(round(seconds / self.period_s)):
            self.driver.advance()
            self.now_ns += round(self.period_s * 1e9)
            self.publish()
            arm = self.driver.arm
            self.measured.append((arm.joint_position, arm.joint_velocity))
            if not self.loop.tick(self.now_ns):
                return False
        return True

    def stall(self, seconds: float) -> None:
        """The arm goes on for ``seconds`` without a tick; the newest five of its states wait."""
        for _ in range(round(seconds / self.period_s)):
            self.driver.advance()
            self.now_ns += round(self.period_s * 1e9)
            self.publish()
            self.misses += 1
        while len(self.queue) > 5:
            self.queue.popleft()

    def reset(self) -> str | None:
        """Ask for a reset and tick once; why it was refused."""
        refusal = self.loop.reset()
        self.run(self.period_s)
        return refusal or self.loop.reset_answer(0.0)

    def tool(self) -> np.ndarray:
        """Tool position [3], m."""
        return Kinematics(self.driver.arm.arm).tool_position(self.driver.arm.joint_position)

    def assert_commands_within_limits(self) -> None:
        """Position, velocity and acceleration of everything commanded so far."""
        limits = self.robot.limits
        position = np.array(self.commands)
        velocity = np.diff(position, axis=0) / self.period_s
        acceleration = np.diff(velocity, axis=0) / self.period_s
        assert (position >= limits.position_min).all() and (position <= limits.position_max).all()
        assert (np.abs(velocity) <= limits.velocity + 1e-6).all()
        # The positions' rounding, 1e-16 rad, divided by the squared period.
        assert (np.abs(acceleration) <= limits.acceleration + 1e-6).all()
