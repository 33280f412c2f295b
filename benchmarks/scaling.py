# SPDX-License-Identifier: Apache-2.0
"""What an update costs against the size of the buffer, of the batch, of K, and the seeds in it.

    python benchmarks/scaling.py --json results/scaling.json

One thread, on random transitions of HalfCheetah's sizes, and uncompiled: compiling each size would
take longer than measuring it. It saves most where an update is small, so that compiled ones grow
more: benchmarks/training.py measures K that way. Sizes take turns,
so that a slow moment of the machine meets all; medians of the rounds. Writes the JSON, and a
Markdown table and a figure beside it. About three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import matplotlib
import numpy as np
import torch

from smfp_core.agents import make_agent
from smfp_core.agents.base import in_place
from smfp_core.atomic import writable, write_atomically
from smfp_core.config import TrainConfig
from smfp_core.process import set_up_training_process
from smfp_core.provenance import here
from smfp_core.replay import Batch, ReplayBuffer
from smfp_core.seeds import stacked
from smfp_core.strict import ConfigError, to_mapping

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OBSERVATION, _ACTION = 17, 6
_TASK = "HalfCheetah-v4"
_BASE = TrainConfig(env_id=_TASK, warmup_steps=5000, loss_candidates=4, compile=False)
_SAC = replace(_BASE, agent="sac")
_PART_S = 0.25


class Timed(NamedTuple):
    """A call, and how many of what is measured one such call makes."""

    call: Callable[[], Any]
    repeats: int = 1


def batch_of(rows: int) -> Batch:
    """Random transitions."""
    return Batch(
        torch.randn(rows, _OBSERVATION),
        torch.rand(rows, _ACTION) * 2 - 1,
        torch.randn(rows),
        torch.randn(rows, _OBSERVATION),
        torch.full((rows,), 0.99),
    )


def update_of(config: TrainConfig) -> Timed:
    """Updates of an agent on a batch of its size, from one of its actor to the next."""
    agent, batch = make_agent(config, _OBSERVATION, _ACTION), batch_of(config.batch_size)

    def updates() -> None:
        for _ in range(agent.policy_delay):
            agent.update(batch)

    return Timed(updates, agent.policy_delay)


def seeds_of(config: TrainConfig, seeds: int) -> Timed:
    """The same of several agents batched into one, as several seeds in one process are."""
    agents = [make_agent(replace(config, seed=i), _OBSERVATION, _ACTION) for i in range(seeds)]
    state = {name: torch.stack([a.state[name] for a in agents]) for name in agents[0].state}
    batch = Batch(*(torch.stack([part] * seeds) for part in batch_of(config.batch_size)))
    step = in_place(torch.vmap(agents[0].learn, in_dims=(0, 0, 0, None)))

    def updates() -> None:
        for i in range(agents[0].policy_delay):
            noise = stacked([agent.draw(config.batch_size) for agent in agents])
            step(state, batch, noise, i == 0)

    return Timed(updates, agents[0].policy_delay)


def draw_of(capacity: int, dtype: type[np.floating]) -> Timed | None:
    """One draw of 256 rows from a full buffer; None where it does not fit into the memory."""
    try:
        buffer = ReplayBuffer(capacity, _OBSERVATION, _ACTION, dtype)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None
    buffer._rows[:], buffer._bootstraps[:] = 0.5, 0.5  # every page is there, as after a long run
    buffer.size = capacity
    rng = np.random.default_rng(0)
    return Timed(lambda: buffer.sample(256, rng))


def environments_of(count: int) -> Timed:
    """One step of so many environments in this process, random actions."""
    envs = gymnasium.make_vec(_TASK, count, vectorization_mode="sync")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (count, _ACTION)).astype(np.float32)
    return Timed(lambda: envs.step(actions))


def contenders(largest_buffer: int) -> dict[tuple[str, str, int], Timed]:
    """What is measured, by (study, what, size)."""
    found: dict[tuple[str, str, int], Timed | None] = {}
    for size in (64, 256, 1024, 4096):
        for config in (_SAC, _BASE):
            found["batch", config.agent, size] = update_of(replace(config, batch_size=size))
    for k in (1, 2, 4, 8, 16, 32):
        found["k", "smfp", k] = update_of(replace(_BASE, loss_candidates=k))
    for seeds in (1, 2, 4, 8):
        for config in (_SAC, _BASE):
            found["seeds", config.agent, seeds] = seeds_of(config, seeds)
    for count in (1, 4, 16):
        found["environments", _TASK, count] = environments_of(count)
    for capacity in (10**5, 10**6, 10**7):
        if capacity <= largest_buffer:
            found["buffer", "float32", capacity] = draw_of(capacity, np.float32)
            found["buffer", "float16", capacity] = draw_of(capacity, np.float16)
    return {key: timed for key, timed in found.items() if timed is not None}


def milliseconds(timed: Timed) -> float:
    """Of one of what is measured: median of calls for a while, at least three."""
    times: list[float] = []
    end = time.perf_counter() + _PART_S
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        timed.call()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times) / timed.repeats


_UNIT = {
    "batch": ("transitions an update", "transitions/s"),
    "k": ("candidates K", "updates/s"),
    "seeds": ("seeds in one update", "updates of one seed/s"),
    "environments": ("environments in one step", "environment steps/s"),
    "buffer": ("transitions kept", "draws of 256/s"),
}


def rate(row: dict[str, Any]) -> float:
    """What a study counts, per second."""
    many = row["study"] in ("batch", "seeds", "environments")
    return (row["size"] if many else 1) / row["ms"] * 1e3


def markdown(record: dict[str, Any]) -> str:
    """The tables as text."""
    origin = record["measured_by"]
    lines = [
        "# What an update costs against its sizes",
        "",
        f"`{origin['command']}` at revision `{origin['git_revision'][:12]}` on {origin['machine']};"
        f" load average before {record['load_before']}. One thread, uncompiled, random transitions "
        f"of {_TASK}'s sizes; batch 256, K = 4, one seed, but for what the table varies. Medians "
        "of interleaved rounds.",
        "",
    ]
    for study, (size, unit) in _UNIT.items():
        rows = [row for row in record["rows"] if row["study"] == study]
        lines += [f"| {size} | | ms | {unit} |", "|---|---|---|---|"]
        lines += [f"| {r['size']:,} | {r['what']} | {r['ms']:.3g} | {rate(r):,.0f} |" for r in rows]
        lines.append("")
    return "\n".join(lines)


def figure(record: dict[str, Any], path: Path) -> None:
    """Rates over sizes, one panel a study."""
    drawn, panels = plt.subplots(1, len(_UNIT), figsize=(3.0 * len(_UNIT), 2.8))
    for panel, (study, (size, unit)) in zip(panels, _UNIT.items(), strict=True):
        rows = [row for row in record["rows"] if row["study"] == study]
        for what in dict.fromkeys(row["what"] for row in rows):
            own = [row for row in rows if row["what"] == what]
            panel.loglog([r["size"] for r in own], [rate(r) for r in own], "o-", label=what)
        panel.set(xlabel=size, ylabel=unit)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    drawn.tight_layout()
    drawn.savefig(path, dpi=90)
    plt.close(drawn)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=writable(".json"), required=True, help="the file to write")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument(
        "--largest-buffer", type=int, default=10**7, help="transitions (default ten millions)"
    )
    given = parser.parse_args()
    set_up_training_process()
    load_before = round(os.getloadavg()[0], 2)
    measured = contenders(given.largest_buffer)
    for timed in measured.values():
        timed.call()
    times: dict[tuple[str, str, int], list[float]] = {key: [] for key in measured}
    for done in range(given.rounds):
        for key, timed in measured.items():
            times[key].append(milliseconds(timed))
        print(f"round {done + 1} of {given.rounds}", file=sys.stderr)
    record = {
        "measured_by": to_mapping(here("benchmarks.scaling")),
        "load_before": load_before,
        "rows": [
            {
                "study": study,
                "what": what,
                "size": size,
                "ms": round(statistics.median(values), 4),
                "spread": round((max(values) - min(values)) / statistics.median(values), 3),
            }
            for (study, what, size), values in times.items()
        ],
    }
    write_atomically(given.json, json.dumps(record, indent=1) + "\n")
    write_atomically(given.json.with_suffix(".md"), markdown(record))
    figure(record, given.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
