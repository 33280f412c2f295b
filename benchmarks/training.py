# SPDX-License-Identifier: Apache-2.0
"""Speed of training, ours beside Stable-Baselines3's and sbx's.

    python benchmarks/training.py --json results/training.json

Every contender is a process of its own with one thread and one CPU; rounds are interleaved, one
contender at a time, so that a slow moment of the machine meets all. Writes the JSON, and a Markdown
table beside it. ``--quick`` takes fewer contenders and rounds and ends within five minutes. Peers
that are not installed (extra ``peers``) are left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smfp_core.atomic import writable, write_atomically
from smfp_core.process import multiplies_bfloat16
from smfp_core.provenance import here
from smfp_core.strict import to_mapping

_HERE = Path(__file__).resolve().parent
_ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
NO_BFLOAT16 = not multiplies_bfloat16()
"""Without hardware for it an update in it takes more than ten times as long."""


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    library: str
    agent: str
    k: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    """Measured with fewer steps a round."""

    @property
    def worker(self) -> str:
        """Name that the worker knows it by."""
        if self.library == "torch":
            return "products"
        prefix = {"stable_baselines3": "sb3_", "sbx": "sbx_"}.get(self.library)
        return "ours" if prefix is None else prefix + self.agent

    @property
    def precision(self) -> str:
        """Of the products that it does most of its arithmetic by."""
        return str(self.fields["precision"])


def ours(agent: str, k: int | None = None, slow: bool = False, **fields: Any) -> Contender:
    """One of this project's agents, in float32 if not said."""
    name = agent + "".join(f", {field} {value}" for field, value in fields.items())
    settings: dict[str, Any] = {"agent": agent, "precision": "float32", **fields}
    if k is not None:
        settings["loss_candidates"] = k
    return Contender("smfp_core", name, k, settings, slow)


# What the same CPU makes of products alone, in the same rounds.
PRODUCTS = {
    "float32": Contender("torch", "products", fields={"precision": "float32"}),
    "bfloat16": Contender("torch", "products", fields={"precision": "bfloat16"}, slow=NO_BFLOAT16),
}
PRODUCTS_A_ROUND = 2000
# K = 2 is the default.
QUICK = [
    Contender("stable_baselines3", "sac"),
    ours("sac"),
    ours("smfp", 2),
    ours("smfp", 4),
]
FULL = [
    *QUICK,
    Contender("sbx", "sac"),
    Contender("sbx", "crossq"),
    ours("crossq"),
    ours("smfp", 1),
    ours("smfp", 8),
    ours("smfp", 4, policy_delay=1),
    ours("flow", 4, slow=True),
    ours("sac", precision="bfloat16", slow=NO_BFLOAT16),
    ours("smfp", 2, precision="bfloat16", slow=NO_BFLOAT16),
    ours("smfp", 4, precision="bfloat16", slow=NO_BFLOAT16),
]


class WorkerError(RuntimeError):
    """A contender ended by itself; with the last line of what it said."""


class Worker:
    """A contender's process.

    Raises:
        WorkerError: it cannot start, or ends on the way.
    """

    def __init__(self, contender: Contender, task: str) -> None:
        self.contender = contender
        command = [sys.executable, str(_HERE / "training_worker.py"), task, contender.worker]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, json.dumps(contender.fields)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=_ONE_THREAD,
        )
        # XLA's own threads heed no setting: sbx took 1.6 to 1.9 CPUs before it was held to one.
        os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})
        self.start_s = self._answer()
        self.env_steps_per_s: list[float] = []
        self.updates_per_s: list[float] = []

    def ask(self, line: str) -> Any:
        """One line, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def measure(self, steps: int) -> None:
        """One round."""
        if self.contender.library == "torch":
            count = PRODUCTS_A_ROUND // (20 if self.contender.slow else 1)
        else:
            count = steps // 4 if self.contender.slow else steps
            self.env_steps_per_s.append(count / self.ask(f"steps {count}"))
        self.updates_per_s.append(count / self.ask(f"updates {count}"))

    def end(self) -> None:
        """End the process, so that it can tidy up if it still listens."""
        try:
            self._process.communicate("end\n", timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._said.seek(0)
            last = (self._said.read().strip().splitlines() or [""])[-1]
            raise WorkerError(f"{self.contender.worker} ended with {status}: {last}")
        return json.loads(line)


def spread(values: list[float]) -> float:
    """Greatest less least, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def row_of(worker: Worker, task: str, gflops: dict[str, float]) -> dict[str, Any]:
    """What a contender reached, against what products alone do in each precision."""
    contender, cost = worker.contender, worker.ask("report")
    row = {
        "library": contender.library,
        "agent": contender.agent,
        "k": contender.k,
        "task": task,
        "threads": 1,
        "env_steps_per_s": round(statistics.median(worker.env_steps_per_s), 2),
        "updates_per_s": round(statistics.median(worker.updates_per_s), 2),
        "spread": round(spread(worker.env_steps_per_s), 3),
        "start_s": round(worker.start_s, 1),
        "peak_mb": round(cost["peak_mb"], 1),
    }
    if "update_flop" in cost:
        limit = gflops[contender.precision] * 1e9 / cost["update_flop"]
        row |= {
            "update_gflop": round(cost["update_flop"] / 1e9, 3),
            "limit_updates_per_s": round(limit, 1),
            "share_of_limit": round(row["updates_per_s"] / limit, 3),
            "stages_ms": {name: round(ms, 3) for name, ms in cost["stages_ms"].items()},
        }
    return row


def markdown(record: dict[str, Any]) -> str:
    """The tables as text."""
    rows = record["rows"]
    base: dict[str, Any] = next(
        (r for r in rows if (r["library"], r["agent"]) == ("stable_baselines3", "sac")), {}
    )
    origin = record["measured_by"]
    rates = " and ".join(
        f"{rate:.0f} GFLOP/s in {precision}" for precision, rate in record["matrix_gflops"].items()
    )
    lines = [
        "# Speed of training, measured",
        "",
        f"`{origin['command']}` at revision `{origin['git_revision'][:12]}` on {origin['machine']};"
        f" load average before {record['load_before']}, matrix products at"
        f" {rates}. One thread each, {record['task']}, batch 256,"
        " twin critics and actor of 256 x 256, one update a step; medians of interleaved rounds."
        " Where the actor learns less often than the critics, an update is the mean of both kinds.",
        "",
        "| library | agent | K | steps/s | to SB3's SAC | updates/s | spread | GFLOP an update |"
        " of the limit | start s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio = f"{r['env_steps_per_s'] / base['env_steps_per_s']:.2f}" if base else "-"
        share = f"{r['share_of_limit']:.0%}" if "share_of_limit" in r else "-"
        lines.append(
            f"| {r['library']} | {r['agent']} | {r['k'] or '-'} | {r['env_steps_per_s']:.1f} "
            f"| {ratio} | {r['updates_per_s']:.1f} | {r['spread']:.0%} "
            f"| {r.get('update_gflop', '-')} | {share} | {r['start_s']} | {r['peak_mb']:.0f} |"
        )
    if record["missing"]:
        lines += ["", f"Not installed and left out: {', '.join(record['missing'])}."]
    lines += ["", "## Stages of an update, ms", ""]
    lines += [
        "The update is one fused graph: mirror, critic and actor are what it takes less without",
        "them.",
        "",
    ]
    for r in rows:
        if "stages_ms" in r:
            stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in r["stages_ms"].items())
            name = f"{r['agent']}, K = {r['k']}" if r["k"] else r["agent"]
            lines.append(f"- {name}: {stages}")
    return "\n".join(lines) + "\n"


def _gflops(products: Worker) -> float:
    flop = products.ask("report")["update_flop"]
    return flop * statistics.median(products.updates_per_s) / 1e9


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--json", type=writable(".json"), help="write the result here, and a .md beside it"
    )
    parser.add_argument("--task", default="HalfCheetah-v4", help="gymnasium id")
    parser.add_argument("--quick", action="store_true", help="fewer contenders, within 5 minutes")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (3, or 5 whole)")
    parser.add_argument("--steps", type=int, default=0, help="steps a round (60, or 200 whole)")
    arguments = parser.parse_args()
    load_before = round(os.getloadavg()[0], 2)
    contenders = QUICK if arguments.quick else FULL
    libraries = {c.library for c in contenders}
    missing = sorted(name for name in libraries if importlib.util.find_spec(name) is None)
    workers: list[Worker] = []
    try:
        for contender in [*PRODUCTS.values(), *contenders]:
            if contender.library in missing:
                continue
            print(f"starting {contender.library} {contender.agent} ...", file=sys.stderr)
            workers.append(Worker(contender, arguments.task))
        for _ in range(arguments.rounds or (3 if arguments.quick else 5)):
            for worker in workers:
                worker.measure(arguments.steps or (60 if arguments.quick else 200))
        products, others = workers[: len(PRODUCTS)], workers[len(PRODUCTS) :]
        gflops = {worker.contender.precision: _gflops(worker) for worker in products}
        rows = [row_of(worker, arguments.task, gflops) for worker in others]
    except WorkerError as error:
        sys.exit(f"error: {error}")
    finally:
        for worker in workers:
            worker.end()
    record = {
        "measured_by": to_mapping(here("benchmarks.training")),
        "measured_at": time.strftime("%Y-%m-%d"),
        "task": arguments.task,
        "load_before": load_before,
        "matrix_gflops": {precision: round(rate, 1) for precision, rate in gflops.items()},
        "missing": missing,
        "rows": rows,
    }
    text = markdown(record)
    print(text)
    if arguments.json:
        write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")
        write_atomically(arguments.json.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
