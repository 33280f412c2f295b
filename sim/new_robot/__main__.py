# SPDX-License-Identifier: Apache-2.0
"""Draft a robot's YAML from its model, MJCF or URDF, and list what the model does not tell.

    python -m smfp_sim.new_robot panda.xml -o config/robots/panda.yaml

Writes the YAML and, if the model lacked something (position servos, a floor, a tool site), a
completed MJCF with its meshes beside it. Limits that no model holds are left 'unknown', and nothing
loads the YAML until somebody who has read the data sheet puts numbers there, or gives them as
options.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smfp_core.atomic import write_atomically
from smfp_core.robot import RobotConfigError
from smfp_core.strict import ConfigError
from smfp_sim.new_robot import poses
from smfp_sim.new_robot.draft import Draft, draft
from smfp_sim.new_robot.model import Survey, save_model, survey


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m smfp_sim.new_robot``."""
    parser = argparse.ArgumentParser(
        prog="python -m smfp_sim.new_robot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="MJCF (.xml) or URDF (.urdf)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the YAML to write")
    parser.add_argument("--name", help="of the robot (default: as the YAML is called)")
    parser.add_argument("--tool", help="site or body at the tool (default: by its usual names)")
    parser.add_argument("--velocity-rad-s", type=_positive, help="of joints without a limit")
    parser.add_argument("--acceleration-rad-s2", type=_positive, help="of all joints")
    parser.add_argument("--effort-nm", type=_positive, help="of joints without a limit")
    parser.add_argument("--control-rate-hz", type=_positive, default=100.0, help="(default 100)")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args(args)
    try:
        found, result = _draft(options)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {', '.join(found.joints)} of '{found.base_frame}'")
    _list("added to the model", found.changes)
    _list("joints that are none of the arm's, and are not driven", found.others)
    _list("check", result.check)
    _list("unknown: look it up and put it into the YAML", result.unknown)
    return 0


def _draft(options: argparse.Namespace) -> tuple[Survey, Draft]:
    output: Path = options.output
    name = options.name or output.stem
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise RobotConfigError(f"--name: '{name}' must be letters, digits and underscores")
    if output.suffix not in (".yaml", ".yml"):
        raise RobotConfigError(f"-o: '{output}' must end with .yaml")
    if not options.model.is_file():
        raise RobotConfigError(f"{options.model}: no such file")
    found = survey(options.model, options.tool, options.effort_nm)
    poses.exclude_overlaps(found, np.random.default_rng(0))
    model = output.with_suffix(".xml") if found.changes else options.model
    for path in (output, *([model] if found.changes else [])):
        if path.exists() and not options.force:
            raise RobotConfigError(f"{path}: is there already; --force replaces it")
    if found.changes and model.resolve() == options.model.resolve():
        raise RobotConfigError(f"-o: the model beside it would replace {options.model}")
    # Nothing is written beside the YAML before it is known that there will be one.
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / model.name if found.changes else model
        if found.changes:
            save_model(found, tried)
        result = draft(
            found,
            tried,
            name,
            options.velocity_rad_s,
            options.acceleration_rad_s2,
            options.control_rate_hz,
        )
        if found.changes:
            save_model(found, model)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, result.text(os.path.relpath(model, output.parent)))
    return found, result


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}:")
        for line in lines:
            print(f"  - {line}")


if __name__ == "__main__":
    sys.exit(main())
