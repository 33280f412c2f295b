# SPDX-License-Identifier: Apache-2.0
"""A policy with everything that it needs to be sampled, made ahead of its first tick."""

from __future__ import annotations

import math
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smfp_control.noise import NoiseSource
from smfp_core.reference import ReferenceLimits, VelocityBounds
from smfp_core.specs import (
    ActionSpec,
    FloatArray,
    ObservationSpec,
    RobotState,
    build_observation,
)


class Policy(Protocol):
    """What is needed of a policy; ``smfp_core.policy_file.PolicyFile`` is one."""

    observation: ObservationSpec
    action: ActionSpec
    deterministic_noise: NDArray[np.float32]

    def sample(
        self, observation: NDArray[np.floating], noise: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Action [n_act] in [-1, 1] for an observation [n_obs] and noise [n_act]."""
        ...


class PolicyRunner:
    """Samples one policy. Made and warmed up by any thread, then used by the control thread.

    Args:
        policy: verified for the robot.
        noise: its noise.
        velocity_filter_s: time constant of the low-pass that velocities went through in training;
            0: none.

    Attributes:
        needs_orientation: whether a goal must say how the tool is to be turned.
        observed_ns: when the last observation was complete, by ``time.perf_counter_ns``.
        heading: velocity [n] (rad/s) that the present action asks for; a new list each time.
    """

    def __init__(self, policy: Policy, noise: NoiseSource, velocity_filter_s: float = 0.0) -> None:
        self.policy = policy
        self.noise = noise
        self.velocity_filter_s = velocity_filter_s
        self.needs_orientation = policy.observation.needs_orientation
        self.ticks_per_action = policy.action.ticks_per_action
        limits = ReferenceLimits.of(policy.action)
        self._bounds = VelocityBounds(limits, policy.action.control_period_s)
        self._speed: list[float] = limits.velocity.tolist()
        self._observation = np.zeros(policy.observation.size, np.float32)
        self.heading = [0.0] * policy.action.size
        self.observed_ns = 0
        # The first evaluation allocates; it shall not be the control thread's.
        policy.sample(self._observation, noise.value)

    def sample(self, state: RobotState, goal: FloatArray) -> bool:
        """Take a new action for ``state`` and ``goal``: [3] (m, base frame), or [7] with a
        quaternion x, y, z, w where ``needs_orientation``.

        Returns:
            False if the action is not finite; the one before is kept then.
        """
        build_observation(self.policy.observation, state, goal, self._observation)
        self.observed_ns = time.perf_counter_ns()
        self.noise.on_policy_tick()
        action = self.policy.sample(self._observation, self.noise.value)
        values = action.tolist()
        if not math.isfinite(sum(values)):
            return False
        self.heading = [
            min(max(share, -1.0), 1.0) * speed
            for share, speed in zip(values, self._speed, strict=True)
        ]
        return True

    def next_velocity(
        self, position: list[float], velocity: list[float], most: float = math.inf
    ) -> list[float]:
        """Velocity [n] (rad/s) of the next tick under the present action.

        As ``action_to_command`` advances a reference at ``position`` (rad) and ``velocity``, [n],
        but with the fastest joint at ``most`` (rad/s), in the direction of the action.
        """
        heading, fastest = self.heading, max(map(abs, self.heading))
        if fastest > most:
            heading = [most / fastest * v for v in heading]
        return self._bounds.towards(position, velocity, heading)
