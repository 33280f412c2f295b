# SPDX-License-Identifier: Apache-2.0
"""Cost of the safety filter per control tick, by what there is to do. Prints a Markdown table.

OMP_NUM_THREADS=1 python benchmarks/safety_filter.py --json results/safety_filter.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable

import numpy as np

from smfp_control.path_guard import PathGuard
from smfp_control.safety import SafetyFilter
from smfp_core.atomic import writable, write_atomically
from smfp_core.provenance import here
from smfp_core.reference import Reference, ReferenceLimits, action_to_command
from smfp_core.robot import load_robot
from smfp_core.strict import to_mapping
from smfp_sim.clearance import ClearanceModel

ROBOT = load_robot("ur5e")
DT = 1.0 / ROBOT.control_rate_hz
SPEC = ROBOT.action_spec()
LIMITS = ReferenceLimits.of(SPEC)
MARGIN_M = 0.01

Action = Callable[[int], np.ndarray]


def sweep(tick: int) -> np.ndarray:
    """All joints about home, at up to 0.9 of a policy's greatest speed, clear of everything."""
    phase = tick * DT * np.array([1.1, 1.7, 1.3, 2.3, 1.9, 2.9])
    return 0.9 * np.cos(phase) * np.array([1.0, 0.4, 0.4, 1.0, 1.0, 1.0])


def press(tick: int) -> np.ndarray:
    """Down to the floor for two seconds, up for one."""
    return np.array([0.0, 1.0 if tick % 1500 < 1000 else -1.0, 0.0, 0.0, 0.0, 0.0])


def rest(tick: int) -> np.ndarray:
    """Stand still."""
    return np.zeros(6)


def measure(action: Action, ticks: int, guarded: bool, tool_speed_m_s: float) -> np.ndarray:
    """Duration [ticks] of each call of the filter, us."""
    limits = ROBOT.limits
    guard = PathGuard(ClearanceModel(ROBOT), limits.acceleration, DT, MARGIN_M, tool_speed_m_s)
    safety = SafetyFilter(limits, DT, guard if guarded else None)
    command = Reference.at_rest(ROBOT.home_rad)
    desired = Reference.at_rest(ROBOT.home_rad)
    safety.begin(command.position)
    durations = np.zeros(ticks)
    for tick in range(ticks):
        wanted = action(tick)
        desired.position[:] = command.position
        desired.velocity[:] = command.velocity
        action_to_command(SPEC, LIMITS, wanted, desired)
        start = time.perf_counter_ns()
        safety.apply(command, desired.velocity, wanted)
        durations[tick] = (time.perf_counter_ns() - start) / 1e3
    return durations


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=20000, help="of each filter (default 20000)")
    parser.add_argument("--json", type=writable(), help="also write the result to this file")
    options = parser.parse_args()
    if options.ticks < 1:
        parser.error(f"--ticks: must be at least 1, got {options.ticks}")
    load_before = round(os.getloadavg()[0], 2)
    gc.collect()
    gc.freeze()
    cases: list[tuple[str, Action, bool, float]] = [
        ("joint limits alone, free motion", sweep, False, 0.0),
        ("guarded, at rest", rest, True, 0.0),
        ("guarded, free motion", sweep, True, 0.0),
        ("guarded, pressing on the floor and leaving it", press, True, 0.0),
        ("guarded, free motion held to 0.25 m/s", sweep, True, 0.25),
    ]
    print("| filter | p50 us | p90 us | p99 us |\n|---|---|---|---|")
    rows = []
    for name, action, guarded, speed in cases:
        durations = measure(action, options.ticks, guarded, speed)
        p50, p90, p99 = np.percentile(durations, [50, 90, 99]).round(1).tolist()
        print(f"| {name} | {p50:.0f} | {p90:.0f} | {p99:.0f} |", flush=True)
        rows.append({"filter": name, "p50_us": p50, "p90_us": p90, "p99_us": p99})
    if options.json is not None:
        record = {
            "measured_by": to_mapping(here("benchmarks.safety_filter")),
            "load_before": load_before,
            "ticks": options.ticks,
            "rows": rows,
        }
        write_atomically(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
