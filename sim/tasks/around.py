# SPDX-License-Identifier: Apache-2.0
"""PointAround: a point goes round a disc to a goal behind it; both ways are equally good.

The smallest control task with several good actions. The plane's mirror image in the x axis is the
same task: in front of the disc a policy that holds both ways takes each in half of the episodes,
and one that blends them drives into the disc. A disc of radius 0.35 m lies at the origin, the goal
near (1, 0). The start is some 1 m from the disc's centre, up to 1 rad to either side of (-1, 0):
each way is the better one from some of the starts, so that what it pays stays known, whichever of
them a policy prefers in front of the disc.

Action: velocity as a fraction of 1 m/s, held for 400 ms by a velocity servo. So long that one
action decides: at a tenth of it the way is a matter of many small steps, each of which the next
one can undo, and the actions of a state have one optimum almost everywhere. Horizon 4.8 s, ended by
truncation; touching the disc terminates. Success: within 0.1 m of the goal at the end. Reward of a
step, with d the distance to the goal in metres: ``5 (d0 - d)``, 0.5 within 0.1 m, and -2 for
touching the disc.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

DISC_RADIUS_M, POINT_RADIUS_M = 0.35, 0.05
GOAL_DISTANCE_M = 0.1
START_M, SPREAD_M, SPREAD_RAD = 1.0, 0.1, 1.0
# From such a start the ways differ by less than 4 cm in length.
EQUAL_WAYS_RAD = 0.05
_SUBSTEPS = 40

_MJCF = f"""
<mujoco model="point_around">
  <option timestep="0.01" gravity="0 0 0" integrator="implicitfast"/>
  <worldbody>
    <geom name="disc" type="cylinder" size="{DISC_RADIUS_M} 0.1" rgba="0.6 0.3 0.2 1"/>
    <body name="point">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom name="point" type="sphere" size="{POINT_RADIUS_M}" mass="1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="x" kv="20" forcerange="-20 20"/>
    <velocity joint="y" kv="20" forcerange="-20 20"/>
  </actuator>
</mujoco>
"""


class PointAroundEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The task as a gymnasium environment.

    Observation [6]: position (m), velocity (m/s), goal (m). ``info`` holds ``way``: ``left``
    or ``right``, as the disc was passed at y > 0 or y < 0, empty before that; ``equal_ways``,
    whether the episode began where both are equally good; ``distance_m``; ``is_success``.
    """

    # gymnasium.Env declares it so, as an attribute of instances.
    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 10}  # noqa: RUF012

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_string(_MJCF)
        self._data = mujoco.MjData(self._model)
        self._goal = np.zeros(2)
        self._way, self._equal_ways = "", True
        self._at_goal = False
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        start_m, goal_m = START_M + self.np_random.uniform(-SPREAD_M, SPREAD_M, 2)
        angle = self.np_random.uniform(-SPREAD_RAD, SPREAD_RAD)
        self._data.qpos[:] = -start_m * np.cos(angle), start_m * np.sin(angle)
        self._goal = np.array([goal_m, 0.0])
        self._equal_ways = bool(abs(angle) < EQUAL_WAYS_RAD)
        self._way, self._at_goal = "", False
        mujoco.mj_forward(self._model, self._data)
        return self._observe(), self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply ``action`` [2] in [-1, 1] for 400 ms."""
        before, x_before = self._distance(), self._data.qpos[0]
        self._data.ctrl[:] = np.clip(action, -1.0, 1.0)
        touched = False
        for _ in range(_SUBSTEPS):
            mujoco.mj_step(self._model, self._data)
            touched = touched or self._data.ncon > 0
        x, y = self._data.qpos
        if not self._way and x_before < 0.0 <= x:
            self._way = "left" if y > 0.0 else "right"
        distance = self._distance()
        self._at_goal = distance < GOAL_DISTANCE_M and not touched
        reward = 5.0 * (before - distance) + 0.5 * self._at_goal - 2.0 * touched
        return self._observe(), float(reward), touched, False, self._info()

    def _observe(self) -> NDArray[np.float32]:
        parts = (self._data.qpos, self._data.qvel, self._goal)
        return np.concatenate(parts).astype(np.float32)

    def _distance(self) -> float:
        return float(np.linalg.norm(self._goal - self._data.qpos))

    def _info(self) -> dict[str, Any]:
        return {
            "way": self._way,
            "equal_ways": self._equal_ways,
            "distance_m": self._distance(),
            "is_success": self._at_goal,
        }
