# SPDX-License-Identifier: Apache-2.0
"""A scripted policy for reach tasks: inverse kinematics, then a straight line in joint space.

It acts through the task's own actions and shows whether a robot's YAML (starts, goals, limits)
makes a task that can be done; a learned policy is measured against it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smfp_core.reference import ReferenceLimits
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel, Kinematics

_TOLERANCE_M = 1e-4
_ITERATIONS = 200
_DAMPING = 0.03  # m/rad: the least singular value that the solver inverts without restraint
_STEP_RAD = 0.2
_GUESSES = 40
_CHECK_RAD = 0.04  # spacing of the collision checks along a path
_GAIN_PER_S = 4.0


class ScriptedReach:
    """Plans once a goal, then follows the plan by feedback on the measured joints.

    Args:
        arm: the model.
        seed: of the guesses from which the inverse kinematics start.
    """

    def __init__(self, arm: ArmModel, seed: int = 0) -> None:
        self._arm = arm
        self._kinematics = Kinematics(arm)
        self._limits = ReferenceLimits.of(arm.robot.action_spec())
        self._rng = np.random.default_rng(seed)
        self._waypoints: list[FloatArray] = []

    def plan(self, q: FloatArray, goal: FloatArray) -> bool:
        """Plan from joint positions ``q`` [n] (rad) to ``goal`` [3] (m, base frame).

        Of the solutions found, the one nearest in joint space that a straight line reaches
        without contact is taken; failing that, one by way of the home pose. Without any, the
        plan is to stay, and the result is False.
        """
        home = self._arm.robot.home_rad
        solutions = sorted(
            (
                solution
                for guess in self._guesses(q)
                if (solution := self._solve(guess, goal)) is not None
            ),
            key=lambda solution: float(np.abs(solution - q).max()),
        )
        for path in [[s] for s in solutions] + [[home, s] for s in solutions]:
            if all(self._free(a, b) for a, b in zip([q, *path], path, strict=False)):
                self._waypoints = path
                return True
        self._waypoints = [q.copy()]
        return False

    def act(self, q: FloatArray) -> NDArray[np.float32]:
        """The action [n] in [-1, 1] at measured joint positions ``q`` [n] (rad)."""
        if len(self._waypoints) > 1 and np.abs(self._waypoints[0] - q).max() < 0.1:
            self._waypoints.pop(0)
        fraction = _GAIN_PER_S * (self._waypoints[0] - q) / self._limits.velocity
        return (fraction / max(1.0, float(np.abs(fraction).max()))).astype(np.float32)

    def _guesses(self, q: FloatArray) -> list[FloatArray]:
        low, high = np.array([joint.start_rad for joint in self._arm.robot.joints]).T
        drawn = self._rng.uniform(low, high, (_GUESSES, len(low)))
        return [q, self._arm.robot.home_rad, *drawn]

    def _solve(self, guess: FloatArray, goal: FloatArray) -> FloatArray | None:
        q = guess.copy()
        for _ in range(_ITERATIONS):
            error = goal - self._kinematics.tool_position(q)
            if np.linalg.norm(error) < _TOLERANCE_M:
                return q if not self._kinematics.contacts(q) else None
            jacobian = self._kinematics.tool_jacobian(q)
            damped = jacobian @ jacobian.T + _DAMPING**2 * np.eye(3)
            step = jacobian.T @ np.linalg.solve(damped, error)
            q += step * min(1.0, _STEP_RAD / float(np.abs(step).max()))
            q = np.minimum(np.maximum(q, self._limits.position_min), self._limits.position_max)
        return None

    def _free(self, start: FloatArray, end: FloatArray) -> bool:
        count = 2 + int(np.abs(end - start).max() / _CHECK_RAD)
        return not any(
            self._kinematics.contacts(start + fraction * (end - start))
            for fraction in np.linspace(0.0, 1.0, count)
        )
