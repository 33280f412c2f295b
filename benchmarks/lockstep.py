# SPDX-License-Identifier: Apache-2.0
"""Repeat one seeded episode over ROS 2 in lock-step: is it one trajectory, and how fast is it?

python benchmarks/lockstep.py --repeats 1000 --plant bad --json results/lockstep.json

The policy node is a process of its own; every state and command goes over DDS, and the node is
activated anew for each repeat. Exit status 1 if any two trajectories differ in a bit.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import argparse
import json
import os
import sys
import time

import numpy as np

from smfp_control.isolation import local_environment
from smfp_control.process import interruptible
from smfp_control.transfer import Rig
from smfp_core.atomic import writable, write_atomically
from smfp_core.provenance import here
from smfp_core.resources import share_path
from smfp_core.strict import to_mapping

GOAL_M = np.array([0.45, 0.25, 0.50])


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default=str(share_path("config/policies/ur5e_reach.onnx")))
    parser.add_argument("--plant", default="bad", help="name or path (default bad)")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50, help="policy steps of the episode")
    parser.add_argument("--seed", type=int, default=0, help="of the plant")
    parser.add_argument("--json", type=writable(), help="also write the result to this file")
    options = parser.parse_args()
    sys.setswitchinterval(5e-5)
    os.environ.update(local_environment())
    digests: set[str] = set()
    factors: list[float] = []
    faults = ticks = 0
    started = time.monotonic()
    rig = Rig(options.policy, plant=options.plant)
    try:
        with interruptible():
            robot = rig.simulation.driver.robot
            for i in range(options.repeats):
                result = rig.run(robot.home_rad, GOAL_M, options.seed, options.steps)
                digests.add(result.sha256)
                faults += bool(result.fault)
                factors.append(result.ticks / robot.control_rate_hz / result.wall_s)
                if (i + 1) % 50 == 0:
                    print(
                        f"{i + 1} repeats, {len(digests)} trajectories", file=sys.stderr, flush=True
                    )
                ticks = result.ticks
    finally:
        rig.close()
    slowest, median, fastest = np.percentile(factors, (0, 50, 100)).round(3).tolist()
    record = {
        "measured_by": {
            **to_mapping(here("benchmarks.lockstep")),
            "command": " ".join(["python", "benchmarks/lockstep.py", *sys.argv[1:]]),
        },
        "plant": options.plant,
        "repeats": options.repeats,
        "ticks_per_episode": ticks,
        "faults": faults,
        "distinct_trajectories": len(digests),
        "sha256": sorted(digests),
        "real_time_factor": {"least": slowest, "median": median, "greatest": fastest},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "wall_s": round(time.monotonic() - started, 1),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.json is not None:
        write_atomically(options.json, text + "\n")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
