# SPDX-License-Identifier: Apache-2.0
"""Train a policy: python -m smfp_core.train --config config/train/ur5e_reach.yaml [--seed 1]

Any field of the configuration can be given by name. ``--resume RUN`` goes on with a run that was
stopped, however it was stopped, and gives the numbers it would have given without the stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import tyro
import yaml

from smfp_core import checkpoint
from smfp_core.atomic import write_atomically
from smfp_core.config import TrainConfig, load_config
from smfp_core.contract import forget_contract
from smfp_core.process import set_up_training_process
from smfp_core.progress import RunLog
from smfp_core.provenance import keep_provenance
from smfp_core.seeds import SeedTrainer
from smfp_core.strict import ConfigError, to_mapping
from smfp_core.trainer import Trainer, TrainingError


def parse_arguments(arguments: list[str]) -> tuple[list[tuple[TrainConfig, Path]], bool]:
    """Configuration and folder of each seed's run, and whether to resume.

    Raises:
        ConfigError: names the file, field or folder that is wrong.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # --seed is a field
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seeds", type=_seeds)
    known, rest = parser.parse_known_args(arguments)
    first = f"seed_{known.seeds[0]}" if known.seeds else "."
    source = known.resume / first / "config.yaml" if known.resume else known.config
    if source is None and not {"-h", "--help"} & set(rest):
        raise ConfigError(
            "--config: missing; give a YAML, for example config/train/ur5e_reach.yaml"
        )
    default = load_config(source) if source else TrainConfig(env_id="smfp_sim.tasks:smfp/Reach-v0")
    description = (
        f"{__doc__}\n\n--config PATH: YAML with any of the fields below.\n"
        "--run-dir PATH: folder of the run (default runs/<config>_seed<seed>).\n"
        "--resume PATH: go on with the run in this folder.\n"
        "--seeds 1,2,3: several seeds in this process, in folders seed_1, ... below --run-dir "
        "or --resume."
    )
    config = tyro.cli(
        TrainConfig,
        args=rest,
        default=default,
        description=description,
        prog="python -m smfp_core.train",
    )
    for name in ("config", "run_dir"):
        if known.resume and getattr(known, name):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: has no meaning with --resume, which goes on with a run")
    if known.seeds and any(item.split("=")[0] == "--seed" for item in rest):
        raise ConfigError("--seed: has no meaning with --seeds, which names the seed of each run")
    if known.seeds:
        folder = known.resume or known.run_dir or Path("runs") / known.config.stem
        runs = [(dataclasses.replace(config, seed=n), folder / f"seed_{n}") for n in known.seeds]
    else:
        name = "" if known.resume else f"{known.config.stem}_seed{config.seed}"
        runs = [(config, known.resume or known.run_dir or Path("runs") / name)]
    if known.resume:
        for wanted, folder in runs:
            begun = load_config(folder / "config.yaml")
            if dataclasses.replace(wanted, steps=begun.steps) != begun:
                raise ConfigError(
                    f"--resume: {folder} was begun with another configuration; only --steps may be "
                    "changed, start a new run for the rest"
                )
    return runs, known.resume is not None


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed is named twice in {text}")
    return seeds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in ``folder``; the lock ends with this process.

    Raises:
        ConfigError: another one is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".training").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another process is training in it") from error
        yield


def prepare(config: TrainConfig, folder: Path, resume: bool) -> Trainer:
    """The trainer of a run, and its folder, which is ``locked``.

    Raises:
        ConfigError: the folder holds a run already, or the task cannot be made.
    """
    checkpoints = folder / "checkpoints"
    held = checkpoint.steps(checkpoints)
    if not resume and held:
        raise ConfigError(f"{folder}: holds a run already; --resume it, or give another --run-dir")
    checkpoint.tidy(checkpoints)
    if resume:
        reached = max(held, default=0)
        if config.steps < reached:
            raise ConfigError(f"steps: {config.steps}, but {folder} is at step {reached} already")
    else:
        forget_contract(folder)
        for name in ("deterministic_noise.json", "train.csv", "evaluations.csv"):
            (folder / name).unlink(missing_ok=True)
    return Trainer(config, folder)


def main() -> None:
    """Entry point of ``python -m smfp_core.train``."""
    set_up_training_process()
    locks = ExitStack()  # held until this process ends
    try:
        runs, resume = parse_arguments(sys.argv[1:])
        for _, folder in runs:
            locks.enter_context(locked(folder))
        trainers = [prepare(config, folder, resume) for config, folder in runs]
        whole = SeedTrainer(trainers) if len(trainers) > 1 else trainers[0]
        if resume:
            whole.restore()
        for config, folder in runs:
            text = yaml.safe_dump(to_mapping(config), sort_keys=False)
            write_atomically(folder / "config.yaml", text)
            keep_provenance(folder, "smfp_core.train", anew=not resume)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

    def request_stop(number: int, frame: FrameType | None) -> None:
        whole.stop_requested = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    with ExitStack() as stack:
        logs = [
            stack.enter_context(RunLog(t.folder, t.config.steps, t.step, bar=t is trainers[0]))
            for t in trainers
        ]
        try:
            finished = whole.run(logs) if isinstance(whole, SeedTrainer) else whole.run(logs[0])
        except TrainingError as error:
            sys.exit(f"error: {error}")
    folder = trainers[0].folder
    if not finished:
        again = f"--resume {folder}"
        if len(runs) > 1:
            seeds = ",".join(str(config.seed) for config, _ in runs)
            again = f"--resume {folder.parent} --seeds {seeds}"
        print(f"stopped at step {whole.step}; go on with: {again}", file=sys.stderr)
        sys.exit(130)
    shown = folder if len(runs) == 1 else folder.parent
    print(json.dumps({"run": str(shown), "wall_s": round(whole.wall_s, 1)}))


if __name__ == "__main__":
    main()
