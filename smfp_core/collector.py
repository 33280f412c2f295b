# SPDX-License-Identifier: Apache-2.0
"""Making environments, and collecting from one in a way that can be resumed exactly."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from smfp_core.config import EnvKwargs
from smfp_core.dm_control_env import PREFIX, make_dm_control
from smfp_core.strict import ConfigError

# Streams of episode seeds: evaluation and the choice of noise never see training's episodes.
TRAINING, EVALUATION, NOISE_CHOICE = 0, 1, 2
MOST_SIDE_BY_SIDE = 20
"""Episodes that are played at once; each takes an environment."""


class Transition(NamedTuple):
    """One step. ``next_observation`` is the one before any reset."""

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: float
    next_observation: NDArray[np.float32]
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def make_env(env_id: str, env_kwargs: EnvKwargs, **extra: Any) -> gymnasium.Env:
    """An environment with vector observations and actions in [-1, 1].

    Args:
        env_id: of gymnasium, ``module:id`` for one that the module registers, or
            ``dm_control/<domain>-<task>``.
        env_kwargs: keyword arguments of the environment.
        extra: more of them, such as ``render_mode``.

    Raises:
        ConfigError: the id is unknown, or its spaces are not bounded boxes of one dimension.
    """
    keywords: dict[str, Any] = {**env_kwargs, **extra}
    env: gymnasium.Env
    try:
        if env_id.startswith(PREFIX):
            env = make_dm_control(env_id, **keywords)
        else:
            # Version 4 is meant where it is asked for: published figures are of it.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*is out of date")
                env = gymnasium.make(env_id, disable_env_checker=True, **keywords)
    except ConfigError:
        raise
    except (
        *(gymnasium.error.Error, ModuleNotFoundError, TypeError),
        *(ValueError, ArithmeticError, OSError),  # of what the keyword arguments say
    ) as error:
        raise ConfigError(f"env_id: '{env_id}' cannot be made ({error})") from error
    action, observation = env.action_space, env.observation_space
    if not isinstance(action, spaces.Box) or not isinstance(observation, spaces.Box):
        raise ConfigError(f"env_id: '{env_id}' needs Box spaces, has {observation} and {action}")
    if len(observation.shape) != 1 or len(action.shape) != 1 or not action.is_bounded():
        raise ConfigError(
            f"env_id: '{env_id}' needs vector observations and bounded vector actions, "
            f"has {observation} and {action}"
        )
    if np.any(action.low != -1.0) or np.any(action.high != 1.0):
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return env


def sizes(env: gymnasium.Env) -> tuple[int, int]:
    """Numbers of observations and actions of an environment from ``make_env``."""
    assert env.observation_space.shape is not None and env.action_space.shape is not None
    (n_obs,), (n_act,) = env.observation_space.shape, env.action_space.shape
    return n_obs, n_act


def episode_seed(seed: int, stream: int, index: int) -> int:
    """Seed of episode ``index`` of a stream; distinct streams share no episode."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1)[0])


def set_training(env: gymnasium.Env, seed: int, steps: int | None = None) -> None:
    """Tell a task that randomises its robot which training it serves, from its next reset on.

    ``steps`` that the training has made; None: after its curriculum. Other tasks take no notice.
    """
    task: Any = env.unwrapped
    if hasattr(task, "set_training"):
        task.set_training(seed, steps)


class Task(Protocol):
    """What a configuration says of its environment."""

    @property
    def env_id(self) -> str: ...
    @property
    def env_kwargs(self) -> EnvKwargs: ...
    @property
    def seed(self) -> int: ...


def evaluation_env(config: Task, **extra: Any) -> gymnasium.Env:
    """An environment to judge in: the task as training leaves it, its curriculum done.

    Args:
        config: of the training.
        extra: more keyword arguments of the environment, such as ``render_mode``.

    Raises:
        ConfigError: see ``make_env``.
    """
    env = make_env(config.env_id, config.env_kwargs, **extra)
    set_training(env, config.seed)
    return env


def evaluation_envs(config: Task, episodes: int) -> list[gymnasium.Env]:
    """As many of ``evaluation_env`` as are worth having to play this number of episodes."""
    return [evaluation_env(config) for _ in range(min(episodes, MOST_SIDE_BY_SIDE))]


class Collector:
    """Steps one training environment, episode after episode.

    Each episode is reset with a seed of its own, so that its state is fully given by that seed,
    the steps of training before it and the actions since: resuming replays them. This holds for
    every deterministic environment and needs nothing of its internals.
    """

    def __init__(self, env: gymnasium.Env, seed: int) -> None:
        self.env, self._seed = env, seed
        self._episode = -1
        self._steps_before = 0
        self._actions: list[NDArray[np.float32]] = []
        self.episode_return = 0.0
        self.observation = self._reset()

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Apply ``action`` [n_act]; a new episode starts by itself after an end."""
        observation = self.observation
        self._actions.append(np.array(action, np.float32))
        raw, reward, terminated, truncated, info = self.env.step(action)
        self.episode_return += float(reward)
        following = np.asarray(raw, np.float32)
        if terminated or truncated:
            info = info | {"episode_return": self.episode_return}
            self.observation = self._reset()
        else:
            self.observation = following
        return Transition(
            observation, action, float(reward), following, terminated, truncated, info
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that ``restore`` takes back."""
        n_act = int(np.prod(self.env.action_space.shape or ()))
        return {
            "episode": np.array([self._episode]),
            "steps_before": np.array([self._steps_before]),
            "actions": np.array(self._actions, np.float32).reshape(-1, n_act),
            "observation": np.array(self.observation),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Replay the saved episode up to where it was.

        Raises:
            ConfigError: the environment does not come out where it was: it is not deterministic,
                or not the same (version, robot) as when the checkpoint was written.
        """
        self._episode = int(state["episode"][0]) - 1
        self._actions = []
        if "steps_before" in state:  # a curriculum's; older checkpoints are of none
            self._steps_before = int(state["steps_before"][0])
        self.observation = self._reset()
        for action in state["actions"].astype(np.float32):
            self.step(action)
        if not np.array_equal(self.observation, state["observation"]):
            raise ConfigError(
                "resume: replaying the saved episode gave another observation; the environment "
                "is not deterministic or not the one of the checkpoint"
            )

    def _reset(self) -> NDArray[np.float32]:
        self._episode += 1
        self._steps_before += len(self._actions)
        self._actions = []
        self.episode_return = 0.0
        set_training(self.env, self._seed, self._steps_before)
        seed = episode_seed(self._seed, TRAINING, self._episode)
        return np.asarray(self.env.reset(seed=seed)[0], np.float32)
