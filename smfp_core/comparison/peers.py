# SPDX-License-Identifier: Apache-2.0
"""Other libraries' algorithms under our protocol: python -m smfp_core.comparison.peers --help

Stable-Baselines3's SAC and TD3 and sbx's CrossQ with the hyperparameters of those libraries, in the
same environments and evaluated on the same episodes as our agents; and the uniformly random policy.
Installed by the extra ``peers``. A run that was stopped begins anew, to the same numbers.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from smfp_core.collector import (
    EVALUATION,
    episode_seed,
    evaluation_envs,
    make_env,
    set_training,
    sizes,
)
from smfp_core.comparison.plan import PeerConfig
from smfp_core.episodes import Episode, Policy, play
from smfp_core.evaluate import Mode, draw, summed_up
from smfp_core.provenance import keep_provenance
from smfp_core.strict import ConfigError, load_dataclass

Distribution = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Mean and standard deviation, before tanh, of the actions at observations [N, n_obs]."""


def make_model(config: PeerConfig, env: gymnasium.Env) -> Any:
    """The library's model, untrained.

    Raises:
        ConfigError: the library is not installed, or does not know a parameter.
    """
    parameters = dict(config.parameters)
    library = "sbx" if config.peer == "sbx_crossq" else "stable_baselines3"
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"peer: {config.peer} needs {library} ({error}): pip install -e '.[peers]'"
        ) from error
    name = {"sb3_sac": "SAC", "sb3_td3": "TD3", "sbx_crossq": "CrossQ"}[config.peer]
    if config.peer == "sb3_td3":
        noise = importlib.import_module("stable_baselines3.common.noise")
        std = parameters.pop("action_noise_std", 0.1)
        zero = np.zeros(env.action_space.shape or (), np.float32)
        parameters["action_noise"] = noise.NormalActionNoise(zero, zero + np.float32(std))
    try:
        return getattr(module, name)("MlpPolicy", env, seed=config.seed, device="cpu", **parameters)
    except TypeError as error:
        raise ConfigError(f"parameters: {error}") from error


def distribution_of(model: Any) -> Distribution | None:
    """The Gaussian that a model squashes into actions; None of a deterministic policy."""
    if hasattr(model.policy, "actor_state"):
        jax = importlib.import_module("jax")

        @jax.jit
        def jitted(state: Any, observation: Any) -> tuple[Any, Any]:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            squashed = state.apply_fn(variables, observation[None], train=False)
            gaussian = squashed.distribution
            return gaussian.mean()[0], gaussian.stddev()[0]

        def of_jax(observation: NDArray[np.float32]) -> tuple[Any, Any]:
            # Row by row: every other number of rows would be compiled anew.
            pairs = [jitted(model.policy.actor_state, row) for row in observation]
            return np.stack([mean for mean, _ in pairs]), np.stack([std for _, std in pairs])

        return of_jax
    if not hasattr(model.actor, "get_action_dist_params"):
        return None
    torch = importlib.import_module("torch")

    def of_torch(observation: NDArray[np.float32]) -> tuple[Any, Any]:
        with torch.no_grad():
            mean, log_std, _ = model.actor.get_action_dist_params(torch.as_tensor(observation))
        return mean.numpy(), log_std.exp().numpy()

    return of_torch


def modes_of(model: Any) -> dict[Mode, Policy]:
    """The evaluation modes that a model has.

    Sampled noise comes from the episode's generator and not from the library's, which training
    goes on with: how often a run is evaluated does not change what it learns.
    """

    distribution = distribution_of(model)

    def deterministic(
        observation: NDArray[np.float32], episodes: Sequence[Episode]
    ) -> NDArray[np.float32]:
        if hasattr(model.policy, "actor_state"):  # jax, as above
            rows = [model.predict(row, deterministic=True)[0] for row in observation]
            return np.stack(rows).astype(np.float32)
        return np.asarray(model.predict(observation, deterministic=True)[0], np.float32)

    if distribution is None:
        return {"deterministic": deterministic}

    def sampled(
        observation: NDArray[np.float32], episodes: Sequence[Episode]
    ) -> NDArray[np.float32]:
        mean, std = distribution(observation)
        return np.tanh(mean + std * draw(episodes, mean.shape[1:]))

    return {"deterministic": deterministic, "sampled": sampled}


def uniform(episodes: Sequence[Episode], n_act: int) -> NDArray[np.float32]:
    """An action [n_act] for each episode, uniform in the box, from its own generator."""
    return np.stack([e.rng.uniform(-1, 1, n_act) for e in episodes]).astype(np.float32)


def run(config: PeerConfig, folder: Path) -> None:
    """Train and evaluate; writes ``evaluations.csv`` as training does.

    Raises:
        ConfigError: see ``make_model``.
    """
    env = make_env(config.env_id, config.env_kwargs)
    # A task that randomises its robot does so from the beginning: a library knows no curriculum.
    set_training(env, config.seed)
    eval_envs = evaluation_envs(config, config.eval_episodes)
    n_act = sizes(env)[1]
    seeds = [episode_seed(config.seed, EVALUATION, i) for i in range(config.eval_episodes)]
    started = time.monotonic()
    with (folder / "evaluations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "wall_s", "mode", "episodes", "return_mean", "return_std"])

        def evaluate(step: int, modes: dict[Mode, Policy]) -> None:
            wall_s = round(time.monotonic() - started, 2)  # before it, as in our training
            for mode, policy in modes.items():
                r = summed_up(mode, play(eval_envs, policy, seeds))
                writer.writerow([step, wall_s, mode, r.episodes, r.return_mean, r.return_std])
                print(f"step {step} ({wall_s:.0f} s) {mode}: return {r.return_mean:.1f}")
            file.flush()

        if config.peer == "random":
            evaluate(0, {"sampled": lambda o, episodes: uniform(episodes, n_act)})
            return
        model, step = make_model(config, env), 0
        while step < config.steps:
            more = min(config.eval_every, config.steps - step)
            model.learn(more, reset_num_timesteps=False)
            step += more
            evaluate(step, modes_of(model))


def main() -> None:
    """Entry point of ``python -m smfp_core.comparison.peers``."""
    parser = argparse.ArgumentParser(
        prog="python -m smfp_core.comparison.peers", description=__doc__
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML of a PeerConfig")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run")
    arguments = parser.parse_args()
    try:
        config = load_dataclass(PeerConfig, arguments.config)
        arguments.run_dir.mkdir(parents=True, exist_ok=True)
        if config.peer.startswith("sb3"):
            importlib.import_module("torch").set_num_threads(1)
        keep_provenance(arguments.run_dir, "smfp_core.comparison.peers", anew=True)
        run(config, arguments.run_dir)
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
