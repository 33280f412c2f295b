# SPDX-License-Identifier: Apache-2.0
"""Tasks of the DeepMind Control Suite as gymnasium environments, by ``dm_control/<domain>-<task>``.

Tassa et al., "dm_control: Software and tasks for continuous control", Software Impacts 6, 2020.
An adapter of our own rather than shimmy's: that one makes the observation a dictionary, and leaves
it to the caller to have dm_control draw on a machine without a display.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from smfp_core.strict import ConfigError

PREFIX = "dm_control/"
# Its actions go to 1e10, which stands for "no bound" and gives them no scale.
_UNBOUNDED = {"lqr"}
_WIDTH_PX, _HEIGHT_PX = 480, 480


class DmControlEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One task of the suite.

    The observation is one float32 vector: the suite's arrays, raveled and joined in its order.
    The episode ends as the suite says: with discount 0 it is terminated, else truncated at the
    time limit of the domain (1000 steps in nearly all).

    Args:
        domain: such as ``cheetah``.
        task: such as ``run``.
        render_mode: ``rgb_array`` or None.

    Raises:
        ConfigError: dm-control is not installed, has no such task, or the task has no bounds on
            its actions.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, domain: str, task: str, render_mode: str | None = None) -> None:
        suite = _import_suite()
        if (domain, task) not in suite.ALL_TASKS:
            names = sorted(t for d, t in suite.ALL_TASKS if d == domain)
            known = f"tasks of {domain}: {', '.join(names)}"
            if not names:
                known = f"domains: {', '.join(sorted({d for d, _ in suite.ALL_TASKS}))}"
            raise ConfigError(f"env_id: '{PREFIX}{domain}-{task}' is not in the suite; {known}")
        if domain in _UNBOUNDED:
            raise ConfigError(
                f"env_id: '{PREFIX}{domain}-{task}' does not bound its actions, so that there is "
                "no range to scale them to"
            )
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode: must be rgb_array or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._env = suite.load(domain, task)
        bounds = self._env.action_spec()
        low, high = (np.float32(side) for side in (bounds.minimum, bounds.maximum))
        size = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.action_space = spaces.Box(low, high, bounds.shape, np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.metadata = self.metadata | {"render_fps": round(1.0 / self._env.control_timestep())}

    @property
    def physics(self) -> Any:
        """The simulation, as dm_control wraps it."""
        return self._env.physics

    @property
    def task(self) -> Any:
        """The suite's task."""
        return self._env.task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; the same seed gives the same one, whatever came before."""
        super().reset(seed=seed)
        if seed is not None:
            self.task.random.seed(seed)
        return _flat(self._env.reset().observation), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply one action in the task's own range."""
        now = self._env.step(np.asarray(action, np.float64))
        terminated = now.last() and now.discount == 0.0
        return (
            _flat(now.observation),
            float(now.reward),
            terminated,
            now.last() and not terminated,
            {},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """A picture from the task's first camera; None without a render mode."""
        if self.render_mode is None:
            return None
        return np.asarray(self.physics.render(_HEIGHT_PX, _WIDTH_PX, camera_id=0), np.uint8)

    def close(self) -> None:
        """Free the simulation and its renderer."""
        self._env.close()


def make_dm_control(env_id: str, render_mode: str | None = None) -> DmControlEnv:
    """The task named by ``dm_control/<domain>-<task>``.

    Raises:
        ConfigError: see ``DmControlEnv``; also if the id has another form.
    """
    domain, dash, task = env_id.removeprefix(PREFIX).partition("-")
    if not dash:
        raise ConfigError(f"env_id: '{env_id}' must have the form {PREFIX}<domain>-<task>")
    return DmControlEnv(domain, task, render_mode)


def suite_tasks() -> tuple[str, ...]:
    """Every ``<domain>-<task>`` that has bounded actions; none without dm-control."""
    try:
        suite = _import_suite()
    except ConfigError:
        return ()
    return tuple(f"{d}-{t}" for d, t in sorted(suite.ALL_TASKS) if d not in _UNBOUNDED)


def _import_suite() -> Any:
    """The suite, whose import settles how its tasks draw.

    By itself dm_control takes GLFW wherever that can be imported, and fails on the first picture
    (or on ``quadruped-escape``, which uploads its terrain) where there is no display.
    """
    headless = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
    if not headless or "MUJOCO_GL" in os.environ:
        return _import_suite_as_set()
    try:
        os.environ["MUJOCO_GL"] = "egl"
        return importlib.import_module("dm_control.suite")
    except ImportError:  # no EGL: train without pictures
        os.environ["MUJOCO_GL"] = "off"
        return _import_suite_as_set()
    finally:
        del os.environ["MUJOCO_GL"]


def _import_suite_as_set() -> Any:
    try:
        return importlib.import_module("dm_control.suite")
    except ImportError as error:
        raise ConfigError(
            f"env_id: {PREFIX} tasks need dm-control ({error}); it is part of the extra 'train', "
            "except on Python 3.13, for which its dependency labmaze has no wheel"
        ) from error


def _flat(observation: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)
