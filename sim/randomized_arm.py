# SPDX-License-Identifier: Apache-2.0
"""The simulated arm behind a plant that is drawn anew: for a training, an episode, in mid-motion.

What is drawn has a generator of its own, seeded with the plant's noise, so that a seed gives one
robot and one trajectory to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from smfp_core.resources import config_path
from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray
from smfp_core.strict import errors_in, load_dataclass
from smfp_sim.plant_arm import PlantArm
from smfp_sim.randomization import Randomization, Target, resolve
from smfp_sim.scene import Change

# Streams of draws, apart from that of noise and of each other.
_OF_TRAINING, _OF_EPISODE = 1, 2


class RandomizedArm(PlantArm):
    """A ``PlantArm`` whose plant and model are drawn as a ``Randomization`` says.

    Args:
        robot: which arm.
        randomization: what is drawn.
        timestep_s: of the physics; by default the MJCF's own.
        change: of the scene.

    Raises:
        ConfigError: names the entry that does not fit plants or the robot's model.
    """

    def __init__(
        self,
        robot: RobotConfig,
        randomization: Randomization,
        timestep_s: float | None = None,
        change: Change | None = None,
    ) -> None:
        self.randomization = randomization
        self._targets: tuple[Target, ...] = ()
        self._operands: list[FloatArray] = []
        self._due: dict[int, int] = {}
        self._share = 1.0
        self._draws = np.random.default_rng(0)
        loaded = any(draw.field == "payload.mass_kg" for draw in randomization.randomize)
        super().__init__(robot, randomization.plant, timestep_s, loaded, change)
        self._period = round(1.0 / (robot.control_rate_hz * self.arm.timestep_s))
        self._targets = resolve(randomization, self.model)
        self._operands = [np.zeros(0) for _ in self._targets]
        self.set_training(0)
        self.reset(robot.home_rad, 0)

    def set_training(self, seed: int, steps: int | None = None) -> None:
        """Serve training ``seed`` after ``steps`` of its environment steps, from the next reset on.

        None: after its curriculum.
        """
        rng = np.random.default_rng([seed, _OF_TRAINING])
        for i, target in enumerate(self._targets):
            if target.draw.when == "start":
                self._operands[i] = target.draw.operand(target.value, 1.0, rng)
        growing = self.randomization.curriculum_steps
        self._share = 1.0 if steps is None or steps >= growing else steps / growing

    def reset(self, q: ArrayLike, seed: int | None = None) -> None:
        """Stand still at ``q`` [n] (rad), as a new robot; a ``seed`` begins the randomness anew."""
        if seed is not None:
            self._draws = np.random.default_rng([seed, _OF_EPISODE])
        for i, target in enumerate(self._targets):
            if target.draw.when != "start":
                self._draw(i, 0)
        self._change()
        super().reset(q, seed)

    def step(self, dt_s: float | None = None) -> None:
        """Advance by ``dt_s``, as ``PlantArm.step`` does; the robot may have changed before."""
        due = [i for i, step in self._due.items() if step <= self._step]
        if due and self._step % self._period == 0:
            for i in due:
                self._draw(i, self._step)
            self._change()
            self._apply_tilt()
        super().step(dt_s)

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on to the bit."""
        drawn = {
            "rng": self._draws.bit_generator.state,
            "operands": [operand.tolist() for operand in self._operands],
            "due": list(self._due.items()),
            "share": self._share,
        }
        return {**super().snapshot(), "randomization": json.dumps(drawn)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a ``snapshot`` of an arm with the same MJCF and randomisation."""
        drawn = json.loads(str(snapshot["randomization"]))
        self._draws.bit_generator.state = drawn["rng"]
        self._operands = [np.array(operand) for operand in drawn["operands"]]
        self._due = dict(drawn["due"])
        self._share = drawn["share"]
        self._change()
        super().restore(snapshot)

    def _draw(self, i: int, now: int) -> None:
        """Draw entry ``i`` at step ``now``, and when it is due again."""
        target = self._targets[i]
        self._operands[i] = target.draw.operand(target.value, self._share, self._draws)
        if target.draw.every_s is not None:
            wait_s = self._draws.uniform(*target.draw.every_s)
            periods = max(round(wait_s / (self.arm.timestep_s * self._period)), 1)
            self._due[i] = now + periods * self._period

    def _change(self) -> None:
        """Become the robot that is drawn."""
        drawn = list(zip(self._targets, self._operands, strict=True))
        plant = self.randomization.plant
        for target, operand in drawn:
            plant = target.set_plant(plant, operand)

        def adjust(model: mujoco.MjModel) -> None:
            for target, operand in drawn:
                target.set_model(model, operand)

        self._take(plant, adjust)


def make_randomized_arm(
    robot: RobotConfig,
    name_or_path: str | Path,
    timestep_s: float | None = None,
    seed: int | None = None,
    change: Change | None = None,
) -> RandomizedArm:
    """The arm behind a randomisation, by its name in config/randomization or by its path.

    ``seed`` is that of what is drawn once; ``change`` is of the scene.

    Raises:
        ConfigError: names the file, the line, the entry and what was expected of it.
    """
    path = config_path("randomization", "randomization", name_or_path)
    randomization = load_dataclass(Randomization, path)
    with errors_in(path):
        arm = RandomizedArm(robot, randomization, timestep_s, change)
    if seed is not None:
        arm.set_training(seed)
    return arm
