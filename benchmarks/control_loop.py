# SPDX-License-Identifier: Apache-2.0
"""Cost, punctuality and latency of the control loop.

    python benchmarks/control_loop.py --json results/control_loop.json

Writes the JSON, and a Markdown table beside it. Each measurement runs in a process of its own;
what is compared is interleaved, and medians over the rounds are reported. Takes under 5 minutes on
two idle cores; ``--quick`` about one, for trying it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smfp_control.isolation import local_environment
from smfp_core.atomic import writable, write_atomically
from smfp_core.provenance import here
from smfp_core.resources import share_path

_HERE = Path(__file__).resolve().parent
_RATES_HZ = ("100", "250", "500", "1000")
_SCHEDULERS = ("normal", "SCHED_FIFO")
_LOADS = ("idle", "both cores loaded")
_CONFIGURED = "configured: "
_START_S = 30.0
_BUSY_NOTE = [
    '**The machine was busy with other work during this run**, so that "idle" below means only '
    "that the benchmark added none: take these figures as upper bounds and run it again in quiet.",
    "",
]
_WITH_TORCH = (
    "import sys, torch; from smfp_control.policy_node import main; sys.exit(main(sys.argv[1:]))"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int = 3
    period_s: float = 0.8
    ticks: int = 8_000
    memory_ticks: int = 1_000_000
    latency_s: float = 5.0
    starts: int = 3
    calls: int = 400


QUICK = Plan(1, 0.5, 1_000, 50_000, 1.5, 1, 50)


def run(script: str, *arguments: object) -> Any:
    """The JSON that one of the scripts beside this one prints."""
    command = [sys.executable, str(_HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{script} failed:\n{done.stderr}")
    return json.loads(done.stdout) if done.stdout else None


def _flags(scheduler: str, load: str) -> list[str]:
    fifo = ["--fifo"] if scheduler == "SCHED_FIFO" else []
    return fifo if load == "idle" else [*fifo, "--loaded"]


def medians(rows: list[dict[str, Any]], greatest: tuple[str, ...] = ("max_ms",)) -> dict[str, Any]:
    """One row of many: of each number the median, of ``greatest`` the greatest."""
    result = dict(rows[0])
    for key, value in rows[0].items():
        if isinstance(value, int | float):
            pick = max if key in greatest else statistics.median
            result[key] = round(pick(row[key] for row in rows), 4)
        elif isinstance(value, dict):
            result[key] = medians([row[key] for row in rows])
    return result


def measure_period(policy: Path, plan: Plan) -> list[dict[str, Any]]:
    """Period error for each rate, scheduler and load."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    refused = ""
    for _ in range(plan.rounds):
        for load in _LOADS:
            for scheduler in _SCHEDULERS:
                result = run(
                    "loop_rig.py", "period", policy, *_flags(scheduler, load),
                    "--seconds", plan.period_s, "--rates", *_RATES_HZ,
                )  # fmt: skip
                refused = result.get("refused", refused)
                for rate, row in zip(_RATES_HZ, result.get("rows", ()), strict=False):
                    found.setdefault((rate, scheduler, load), []).append(row)
    if refused:
        print(refused, file=sys.stderr)
    rows = []
    for (_, scheduler, load), values in sorted(found.items(), key=lambda item: float(item[0][0])):
        row = medians(values, ("max_ms", "misses", "bare_max_ms", "bare_misses"))
        rows.append({"rate_hz": row.pop("rate_hz"), "scheduler": scheduler, "load": load} | row)
    return rows


def measure_latency(plan: Plan) -> list[dict[str, Any]]:
    """Latency from state to command for each scheduler and load."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run("loop_marker.py", folder)
        for load in _LOADS:
            for scheduler in _SCHEDULERS:
                flags = _flags(scheduler, load)
                row = run("loop_latency.py", folder, "--seconds", plan.latency_s, *flags)
                rows.append({"rate_hz": 500.0, "scheduler": scheduler, "load": load} | row)
    return rows


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def _start_node(policy: Path, with_torch: bool) -> dict[str, float]:
    """Seconds until a fresh ``policy_node`` is configured, and its resident memory then."""
    arguments = ["--ros-args", "-p", f"policy_path:={policy}", "-p", "autostart:=true"]
    node = ["-c", _WITH_TORCH] if with_torch else ["-m", "smfp_control.policy_node"]
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *node, *arguments], stdout=output, stderr=output
        )
        try:
            said = ""
            while _CONFIGURED not in said:
                if process.poll() is not None or time.monotonic() - start > _START_S:
                    sys.exit(f"policy_node did not come up:\n{said}")
                time.sleep(0.005)
                said = os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")
            return {
                "cold_start_s": time.monotonic() - start,
                "resident_mb": _resident_mb(process.pid),
            }
        finally:
            process.terminate()
            process.wait(10.0)


def measure_start(policy: Path, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cold start and resident memory as it is, and with torch imported besides."""
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for _ in range(plan.starts):
        for with_torch in (False, True):
            rows[with_torch].append(_start_node(policy, with_torch))
    return medians(rows[False]), medians(rows[True])


def measure(policy: Path, plan: Plan, with_latency: bool) -> dict[str, Any]:
    """Everything, as the JSON has it."""
    begun = time.monotonic()
    load_before = os.getloadavg()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr)

    say("cold start")
    start, start_with_torch = measure_start(policy, plan)
    say("tick")
    ticks = medians(
        [run("loop_rig.py", "ticks", policy, "--ticks", plan.ticks) for _ in range(plan.rounds)]
    )
    say("period")
    period = measure_period(policy, plan)
    say("latency")
    latency = measure_latency(plan) if with_latency else []
    say("peers")
    peers = run("loop_peers.py", policy, "--rounds", max(plan.rounds, 2), "--calls", plan.calls)
    say(f"memory over {plan.memory_ticks:,} ticks")
    memory = run("loop_rig.py", "memory", policy, "--ticks", plan.memory_ticks)["rows"]
    say("done")
    provenance = dataclasses.asdict(here("benchmarks/control_loop.py"))
    # Where the policy lay does not belong into a record; its name does.
    given = [policy.name if Path(text) == policy else text for text in sys.argv[1:]]
    provenance["command"] = " ".join(["python", "benchmarks/control_loop.py", *given])
    return {
        "policy_step_us": ticks["policy_step_us"],
        "tick_us": ticks["tick_us"] | {"stages": ticks["stages"]},
        "cold_start_s": round(start["cold_start_s"], 2),
        "resident_mb": round(start["resident_mb"], 1),
        "period": period,
        "latency": latency,
        "peers": [
            *peers,
            {
                "runtime": "this node with torch imported besides",
                "cold_start_s": round(start_with_torch["cold_start_s"], 2),
                "resident_mb": round(start_with_torch["resident_mb"], 1),
            },
        ],
        "memory": memory,
        "provenance": provenance
        | {
            "processor": _processor(),
            "policy": policy.name,
            "load_average_before": [round(x, 2) for x in load_before],
            "wall_s": round(time.monotonic() - begun),
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(columns.values())} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell(row.get(key, '')) for key in columns)} |" for row in rows]
    return [*lines, ""]


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    origin, tick = result["provenance"], result["tick_us"]
    quantiles = {"p50": "p50", "p99": "p99"}
    errors = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "max_ms": "max ms"}
    where = {"rate_hz": "Hz", "scheduler": "Scheduler", "load": "Load"}
    costs = [
        {"what": "policy step, back to back"} | result["policy_step_us"],
        *({"what": f"tick: {stage}"} | values for stage, values in tick["stages"].items()),
        {"what": "whole tick without publish"} | tick,
    ]
    starts = [
        {"runtime": "policy_node"} | {k: result[k] for k in ("cold_start_s", "resident_mb")},
        *(row for row in result["peers"] if "cold_start_s" in row),
    ]
    samplers = [row for row in result["peers"] if "steps" in row]
    node = [{k: row[k] for k in ("scheduler", "load")} | row["node"] for row in result["latency"]]
    # Stages in the order of the tick; the last keys differ from the rest in no way.
    seen = {
        key: key.replace("_p50", " p50").replace("_p99", " p99")
        for key in (node[0] if node else ())
    }
    answers = [
        "## From joint state to command, two processes over DDS",
        "",
        "From before publishing a state to having the first command that answers it: two hops of "
        "DDS, the wait for the next tick (0 to 2 ms, as the two clocks are not in step), the tick.",
        "",
        *_table(
            result["latency"],
            where | errors | {"samples": "samples", "stopped_by": "stopped by a fault"},
        ),
        "What the node says of itself on `/diagnostics` meanwhile, sampling at every tick:",
        "",
        *_table(node, seen),
    ]
    lines = [
        "# The control loop, measured",
        "",
        f"`{origin['command']}` at revision `{origin['git_revision'][:12]}` on {origin['machine']} "
        f"({origin['processor']}), policy `{origin['policy']}`, {origin['wall_s']} s. "
        f"Load average of the machine before: {origin['load_average_before'][0]}. Medians over "
        "interleaved rounds; maxima are over all rounds.",
        "",
        *(_BUSY_NOTE if origin["load_average_before"][0] > 1.0 else []),
        "## Cost, microseconds",
        "",
        "With MuJoCo's arm stepped between ticks, so that caches are as cold as beside other work.",
        "",
        *_table(costs, {"what": ""} | quantiles),
        "## Start to configured, resident memory",
        "",
        *_table(starts, {"runtime": "", "cold_start_s": "s", "resident_mb": "MB"}),
        *_table(result["memory"], {"ticks": "after ticks", "resident_mb": "resident MB"}),
        "## Period error of the control thread",
        "",
        "The whole loop without DDS. Other load: a process of matrix products on each processor, "
        "at normal priority. SCHED_FIFO with memory locked. Empty: the same thread with nothing to "
        "do, right after; what it shows is the machine's.",
        "",
        *_table(
            result["period"],
            where
            | errors
            | {"misses": "missed", "ticks": "of"}
            | {f"bare_{key}": f"empty: {name}" for key, name in errors.items()},
        ),
        *(answers if node else []),
        "## The same network sampled otherwise",
        "",
        *_table(
            samplers,
            {"runtime": "", "steps": "network evaluations", "p50_us": "p50 us", "p99_us": "p99 us"},
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=writable(".json"), required=True, help="the file to write")
    parser.add_argument("--policy", type=Path, help="default: the shipped ur5e_reach")
    parser.add_argument("--no-latency", action="store_true", help="leave out what needs DDS")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    given = parser.parse_args()
    policy = given.policy or share_path("config/policies/ur5e_reach.onnx")
    os.environ.update(local_environment())
    result = measure(policy.resolve(), QUICK if given.quick else Plan(), not given.no_latency)
    write_atomically(given.json, json.dumps(result, indent=1) + "\n")
    write_atomically(given.json.with_suffix(".md"), markdown(result))


if __name__ == "__main__":
    main()
