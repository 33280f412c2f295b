# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from: the command, the revision and the machine that made it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from smfp_core.atomic import write_atomically
from smfp_core.strict import from_mapping, load_yaml, to_mapping

FILE = "provenance.json"
# From the top of the checkout: code, and the configuration that it reads.
_DECIDE = (":/smfp_core", ":/sim", ":/ros2_ws", ":/benchmarks", ":/config")


@dataclass(frozen=True)
class Provenance:
    """Recorded with every run and every measured result.

    ``resumed_by`` lists the commands that went on with a run, each with its revision.
    """

    command: str
    git_revision: str
    machine: str
    resumed_by: tuple[str, ...] = ()


def here(module: str) -> Provenance:
    """Provenance of the running command ``python -m module``."""
    cores = len(os.sched_getaffinity(0))
    return Provenance(
        command=" ".join(["python -m", module, *sys.argv[1:]]),
        git_revision=git_revision(),
        machine=f"{_processor()}, {cores} cores, Python {platform.python_version()}",
    )


def _processor() -> str:
    """Model of the processor, which decides rates and rounding; its architecture if not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def keep_provenance(folder: Path, module: str, anew: bool) -> None:
    """Write the provenance of a run into its folder, or add to that of a resumed one.

    ``anew``: the run begins, whatever is left there of one that was killed before it could be kept.
    """
    now = here(module)
    if not anew and (folder / FILE).exists():
        before = read_provenance(folder)
        entry = f"{now.command} ({now.git_revision})"
        now = dataclasses.replace(before, resumed_by=(*before.resumed_by, entry))
    write_atomically(folder / FILE, json.dumps(to_mapping(now), indent=1) + "\n")


def read_provenance(folder: Path) -> Provenance:
    """What ``keep_provenance`` wrote.

    Raises:
        ConfigError: it is missing or malformed.
    """
    return from_mapping(Provenance, load_yaml(folder / FILE))


def git_revision() -> str:
    """Revision of the checkout that this module is part of, '+' if what can decide a result there
    is changed; 'unknown' outside one.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Installed below another project's checkout, it is not of that one.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no", *_DECIDE)
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
