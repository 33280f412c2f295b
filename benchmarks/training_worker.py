# SPDX-License-Identifier: Apache-2.0
"""One contender of benchmarks/training.py, in a process of its own.

Reads lines from standard input: ``steps N`` and ``updates N`` run that many and answer with
seconds, ``report`` answers with what the process costs, ``end`` ends it. Every answer is one JSON
line; the first, unasked, comes when the contender is warm.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WARMUP = 1000


class Ours:
    """An agent of this project, stepped by the training command's own loop."""

    def __init__(self, task: str, fields: dict[str, Any]) -> None:
        import torch

        from smfp_core.config import TrainConfig
        from smfp_core.process import set_up_training_process
        from smfp_core.progress import RunLog
        from smfp_core.trainer import Trainer

        set_up_training_process()
        self._torch = torch
        config = TrainConfig(
            env_id=task, steps=10**6, warmup_steps=_WARMUP, replay_capacity=100_000, **fields
        )
        self._folder = tempfile.TemporaryDirectory()  # as long as this process lives
        folder = Path(self._folder.name)
        self._trainer = Trainer(config, folder)
        self._log = RunLog(folder, config.steps, 0)
        self.steps(_WARMUP + 8)  # 8: past every policy delay, so that all graphs are compiled

    def steps(self, count: int) -> None:
        """Act, step the environment, update once."""
        for _ in range(count):
            self._trainer.advance(self._log)

    def updates(self, count: int) -> None:
        """Sample a batch and update."""
        trainer = self._trainer
        for _ in range(count):
            trainer.agent.update(trainer.draw_batch())

    def report(self) -> dict[str, Any]:
        """Milliseconds by stage, and floating-point operations of one update."""
        trainer, agent = self._trainer, self._trainer.agent
        config = trainer.config

        def without(**change: Any) -> Callable[[], Any]:
            from smfp_core.agents import make_agent

            other = make_agent(dataclasses.replace(config, **change), agent.n_obs, agent.n_act)
            for _ in range(4):
                other.update(fixed)
            return lambda: other.update(fixed)

        fixed = trainer.draw_batch()
        # The graph is fused: a stage's time is what the update takes less without it.
        updates = {"update": lambda: agent.update(fixed)}
        if config.agent == "smfp":
            updates["no mirror"] = without(mirror=False)
        if config.agent in ("smfp", "sac"):
            updates["critic and targets"] = without(policy_delay=10**6)
        # As many of each as there are from one update of the actor to the next.
        ms = _medians_ms(updates, group=self._cycle)
        stages = {
            **_medians_ms(
                {
                    "sample": trainer.draw_batch,
                    "noise": lambda: agent.draw(config.batch_size),
                    "acting": lambda: agent.act(trainer.collector.observation),
                    "stepping": lambda: trainer.collector.step(
                        trainer.rng.uniform(-1, 1, agent.n_act).astype("f4")
                    ),
                }
            ),
            "update": ms["update"],
        }
        if "no mirror" in ms:
            stages["mirror"] = ms["update"] - ms["no mirror"]
        if "critic and targets" in ms:
            critic = stages["critic and targets"] = ms["critic and targets"]
            stages["actor and temperature"] = ms["update"] - critic - stages.get("mirror", 0.0)
        return {"stages_ms": stages, "update_flop": self._flop(fixed)}

    def _flop(self, batch: Any) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        agent, total = self._trainer.agent, 0
        for i in range(self._cycle):
            with FlopCounterMode(display=False) as counter:
                agent.learn(agent.state, batch, agent.draw(len(batch.reward)), i == 0)
            total += counter.get_total_flops()
        return total // self._cycle

    @property
    def _cycle(self) -> int:
        return self._trainer.agent.policy_delay


class Peer:
    """An algorithm of Stable-Baselines3 or sbx with that library's own parameters."""

    def __init__(self, task: str, name: str) -> None:
        import gymnasium
        import torch

        torch.set_num_threads(1)
        env = gymnasium.make(task)
        # learn() trains after each step from `learning_starts` on.
        options: dict[str, Any] = {"learning_starts": _WARMUP, "device": "cpu", "seed": 0}
        options |= {"buffer_size": 100_000, "batch_size": 256}
        if name.startswith("sb3"):
            import stable_baselines3 as library
        else:
            import sbx as library  # type: ignore[no-redef]
        kind = {"sac": "SAC", "td3": "TD3", "crossq": "CrossQ"}[name.split("_")[1]]
        if kind == "CrossQ":
            options["policy_kwargs"] = {"net_arch": [256, 256]}
        self._model = getattr(library, kind)("MlpPolicy", env, **options)
        self._model.learn(_WARMUP + 8)

    def steps(self, count: int) -> None:
        """Act, step the environment, update once."""
        self._model.learn(count, reset_num_timesteps=False)

    def updates(self, count: int) -> None:
        """Sample a batch and update, one by one: sbx compiles anew for each number of them."""
        for _ in range(count):
            self._model.train(gradient_steps=1, batch_size=256)

    def report(self) -> dict[str, Any]:
        """Nothing beside what every process reports."""
        return {}


class Products:
    """Nothing but products like the update's: the limit of what a CPU can do of them."""

    def __init__(self, precision: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._multiply = torch.mm
        dtype = getattr(torch, precision)
        self._a, self._b = torch.randn(1024, 256).to(dtype), torch.randn(256, 256).to(dtype)
        self._out = torch.empty(1024, 256, dtype=dtype)
        self.updates(100)

    def updates(self, count: int) -> None:
        """As many products."""
        for _ in range(count):
            self._multiply(self._a, self._b, out=self._out)

    def report(self) -> dict[str, Any]:
        """Floating-point operations of one product."""
        return {"update_flop": 2 * 1024 * 256 * 256}


def _medians_ms(
    calls: dict[str, Callable[[], Any]], repeats: int = 21, group: int = 1
) -> dict[str, float]:
    """Of each call, the median over ``repeats`` of the mean of ``group`` calls.

    They take turns, so that a slow moment of the machine meets all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(group):
                call()
            times[name].append((time.perf_counter() - started) / group)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Serve one contender."""
    task, name, fields = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    def answer(value: Any) -> None:
        print(json.dumps(value), flush=True)

    started = time.perf_counter()
    contender: Ours | Peer | Products
    if name == "ours":
        contender = Ours(task, fields)
    else:
        contender = Products(**fields) if name == "products" else Peer(task, name)
    answer(time.perf_counter() - started)
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word == "end":
            return
        if word == "report":
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answer({"peak_mb": kilobytes / 1024, **contender.report()})
            continue
        started = time.perf_counter()
        getattr(contender, word)(int(count))
        answer(time.perf_counter() - started)


if __name__ == "__main__":
    main()
