# SPDX-License-Identifier: Apache-2.0
"""What one action costs by other ways of sampling the same network; run as a process of its own.

    python benchmarks/loop_peers.py POLICY

A flow of N steps is N evaluations in a row, each fed with the output of the one before. Weights do
not change the cost, so torch's are left at random.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from smfp_core.meanflow import MeanFlowActor
from smfp_core.policy_file import PolicyFile

_STEPS = (1, 10, 20)
_WARM_UP = 20


def chained(model: onnx.ModelProto, steps: int) -> bytes:
    """The graph of a policy file ``steps`` times in a row: each action is the next one's noise."""
    constants = {tensor.name for tensor in model.graph.initializer} | {"observation"}
    nodes = []
    for step in range(steps):

        def renamed(name: str, step: int = step) -> str:
            if name in constants:
                return name
            if name == "noise" and step > 0:
                return f"action.{step - 1}"
            return name if name == "noise" else f"{name}.{step}"

        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed(name) for name in node.input]
            copy.output[:] = [renamed(name) for name in node.output]
            nodes.append(copy)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.output[0].name = f"action.{steps - 1}"
    onnx.checker.check_model(result)
    return result.SerializeToString()


def onnx_sampler(model: onnx.ModelProto, policy: PolicyFile, steps: int) -> Callable[[], object]:
    """One action by ONNX Runtime on bound buffers, as the control node samples."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        chained(model, steps), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    arrays = {
        "observation": np.zeros((1, policy.observation.size), np.float32),
        "noise": np.zeros((1, policy.action.size), np.float32),
        f"action.{steps - 1}": np.zeros((1, policy.action.size), np.float32),
    }
    for name, array in arrays.items():
        bind = binding.bind_output if name.startswith("action") else binding.bind_input
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    new_observation, new_noise = arrays["observation"].copy(), arrays["noise"].copy()

    def sample() -> object:
        arrays["observation"][:] = new_observation
        arrays["noise"][:] = new_noise
        session.run_with_iobinding(binding)
        return arrays

    return sample


def torch_sampler(policy: PolicyFile, hidden: tuple[int, ...], steps: int) -> Callable[[], object]:
    """One action by torch in eager mode, normalisation included."""
    n_obs, n_act = policy.observation.size, policy.action.size
    actor = MeanFlowActor(n_obs, n_act, hidden)
    mean, scale = torch.zeros(n_obs), torch.ones(n_obs)
    observation = np.zeros(n_obs, np.float32)
    noise = torch.zeros(1, 1, n_act)
    times = torch.linspace(1.0, 1.0 / steps, steps).reshape(steps, 1, 1, 1)

    @torch.inference_mode()
    def sample() -> object:
        normal = ((torch.from_numpy(observation) - mean) / scale).clamp(-10.0, 10.0).unsqueeze(0)
        z = noise
        for step in range(steps):
            z = actor(normal, z, times[step])
        return z.clamp(-1.0, 1.0).numpy()

    return sample


def measure(policy_path: Path, rounds: int, calls: int) -> list[dict[str, Any]]:
    """Medians over interleaved rounds of the percentiles of a call, microseconds."""
    torch.set_num_threads(1)
    policy = PolicyFile.load(policy_path)
    model = onnx.load(policy_path)
    hidden = tuple(policy.metadata.training.config["actor_hidden"])
    samplers = {("ONNX Runtime", steps): onnx_sampler(model, policy, steps) for steps in _STEPS} | {
        ("torch eager", steps): torch_sampler(policy, hidden, steps) for steps in _STEPS
    }
    found: dict[tuple[str, int], list[Any]] = {key: [] for key in samplers}
    clock = time.perf_counter_ns
    costs = np.empty(calls)
    for _ in range(rounds):
        for key, sample in samplers.items():
            for _ in range(_WARM_UP):
                sample()
            for i in range(calls):
                start = clock()
                sample()
                costs[i] = clock() - start
            found[key].append(np.percentile(costs, (50, 99)) * 1e-3)
    rows = []
    for (runtime, steps), values in found.items():
        p50, p99 = np.median(values, axis=0)
        row = {"runtime": runtime, "steps": steps, "hidden": list(hidden)}
        rows.append(row | {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    print(json.dumps(measure(given.policy, given.rounds, given.calls)))


if __name__ == "__main__":
    main()
