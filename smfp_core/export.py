# SPDX-License-Identifier: Apache-2.0
"""Export a run as a policy file: python -m smfp_core.export RUN -o policy.onnx

The graph is written node by node from the trained weights, so that the file holds exactly the
one-step sample ``clip(g(s, e, 1))`` with the observation's normalisation in front, and nothing of
the tool that traced it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import onnx
import torch
import tyro
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from smfp_core import checkpoint
from smfp_core.agents.flow import FlowAgent
from smfp_core.agents.smfp import SmfpAgent
from smfp_core.atomic import check_writable, write_atomically
from smfp_core.collector import evaluation_env
from smfp_core.config import TrainConfig, load_config
from smfp_core.contract import PolicyContract, contract_of
from smfp_core.evaluate import deterministic_noise, load_agent
from smfp_core.meanflow import MeanFlowActor
from smfp_core.policy_file import (
    METADATA_KEY,
    SCHEMA,
    GoldenVectors,
    PolicyFile,
    PolicyMetadata,
    RobotBinding,
    TrainingRecord,
    seal,
)
from smfp_core.provenance import read_provenance
from smfp_core.specs import ControlAssumptions
from smfp_core.strict import ConfigError, to_mapping

GOLDEN_ROWS = 8
_OPSET, _IR_VERSION = 17, 8


def policy_graph(agent: SmfpAgent) -> onnx.ModelProto:
    """ONNX model of ``clip(g(normalise(o), e, 1), -1, 1)``, or without the normalisation.

    The clip is Min(Max(x, -1), 1), which passes NaN on: a broken network must not look like a
    bounded action.
    """
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, value: torch.Tensor | float) -> str:
        array = np.asarray(torch.as_tensor(value).detach().numpy(), np.float32)
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def silu(x: str) -> str:
        return node("Mul", [x, node("Sigmoid", [x], f"{x}.gate")], f"{x}.silu")

    def clip(x: str, bound: float, output: str) -> str:
        low = constant(f"{output}.low", -bound)
        high = constant(f"{output}.high", bound)
        return node("Min", [node("Max", [x, low], f"{output}.max"), high], output)

    def linear(x: str, name: str, weight: torch.Tensor, bias: torch.Tensor) -> str:
        inputs = [x, constant(f"{name}.weight", weight.T), constant(f"{name}.bias", bias)]
        return node("Gemm", inputs, name)

    actor, normalizer = agent.actor.module, agent.normalizer
    assert isinstance(actor, MeanFlowActor)
    # Subtraction and division exactly as in training, not folded into the first layer: folding
    # would round differently.
    normal = "observation"
    if agent.config.normalize_observations:
        centred = node("Sub", ["observation", constant("mean", normalizer.mean)], "centred")
        scaled = node("Div", [centred, constant("scale", normalizer.scale)], "scaled")
        normal = clip(scaled, normalizer.clip, "normal")
    # At t = 1 the time column of the flow's first layer is one more bias.
    flow = actor.flow_in.weight
    bias = actor.observation_in.bias + flow[:, -1]
    x = linear(normal, "observation_in", actor.observation_in.weight, bias)
    y = node("MatMul", ["noise", constant("flow_in.weight", flow[:, :-1].T)], "flow_in")
    x = node("Add", [x, y], "hidden_in")
    for i, layer in enumerate(actor.hidden):
        layer = cast(torch.nn.Linear, layer)
        x = linear(silu(x), f"hidden_{i}", layer.weight, layer.bias)
    x = linear(silu(x), "residual", actor.out.weight, actor.out.bias)
    clip(node("Add", ["noise", x], "sample"), 1.0, "action")

    def tensor(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size])

    n_obs, n_act = actor.observation_in.in_features, agent.n_act
    graph = helper.make_graph(
        nodes,
        "smfp_policy",
        [tensor("observation", n_obs), tensor("noise", n_act)],
        [tensor("action", n_act)],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="smfp_core"
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def write_policy_file(path: Path, model: onnx.ModelProto, metadata: PolicyMetadata) -> None:
    """Attach the metadata, seal the file with its digest, and write it atomically."""
    text = json.dumps(to_mapping(metadata) | {"sha256": "0" * 64}, allow_nan=False)
    helper.set_model_props(model, {METADATA_KEY: text})
    write_atomically(path, seal(model.SerializeToString()))


def golden_vectors(agent: SmfpAgent, observations: NDArray[np.float32], seed: int) -> GoldenVectors:
    """What torch answers to some collected observations and fresh noise."""
    noise = np.random.default_rng(seed).standard_normal((len(observations), agent.n_act))
    noise = noise.astype(np.float32)
    pairs = zip(observations, noise, strict=True)
    action = [agent.sample(observation, draw) for observation, draw in pairs]

    def rows(values: Any) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(x) for x in row) for row in values)

    return GoldenVectors(rows(observations), rows(noise), rows(action))


def policy_metadata(
    agent: SmfpAgent,
    config: TrainConfig,
    contract: PolicyContract,
    noise: NDArray[np.float32],
    golden: GoldenVectors,
    env_steps: int,
    git_revision: str,
) -> PolicyMetadata:
    """Everything that the file says of itself."""
    return PolicyMetadata(
        schema=SCHEMA,
        observation=contract.observation,
        action=contract.action,
        robot=RobotBinding(contract.robot_name, contract.mjcf_sha256, contract.tool_site),
        control=contract.control or ControlAssumptions(0.0, "none"),
        deterministic_noise=tuple(float(x) for x in noise),
        training=TrainingRecord(
            env_id=config.env_id,
            env_steps=env_steps,
            seed=config.seed,
            git_revision=git_revision,
            config=to_mapping(config),
        ),
        golden=golden,
        sha256="",
    )


def export_run(run: Path, output: Path) -> PolicyFile:
    """Write the newest checkpoint of ``run`` as a policy file and load it back.

    A small JSON beside it says which command and revision trained it, and how long that took.

    Raises:
        ConfigError, CheckpointError: the run is incomplete, its task has no policy contract, or
            ``output`` is no .onnx that can be written.
        PolicyFileError: the file does not pass its own checks.
    """
    check_writable("--output", output, ".onnx")
    agent = load_agent(run)
    config = load_config(run / "config.yaml")
    env = evaluation_env(config)
    contract = contract_of(env)
    if contract is None:
        raise ConfigError(f"env_id: '{config.env_id}' drives no robot: nothing to export for")
    if not isinstance(agent, SmfpAgent) or isinstance(agent, FlowAgent):
        raise ConfigError(f"agent: '{config.agent}' is a baseline; only smfp can be exported")
    env.close()
    _, arrays, values = checkpoint.load(checkpoint.latest(run / "checkpoints"))
    n_obs = contract.observation.size
    rows = arrays["replay.rows"]
    chosen = np.linspace(0, len(rows) - 1, GOLDEN_ROWS).astype(int)
    observations = np.ascontiguousarray(rows[chosen, :n_obs], np.float32)
    golden = golden_vectors(agent, observations, config.seed)
    noise = deterministic_noise(run, agent)
    origin = read_provenance(run)
    metadata = policy_metadata(
        agent, config, contract, noise, golden, values["step"], origin.git_revision
    )
    # Verified before it takes the place of another one that may be good.
    draft = output.with_name(f".{output.stem}.{os.getpid()}.onnx")
    try:
        write_policy_file(draft, policy_graph(agent), metadata)
        PolicyFile.load(draft)
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)
    policy = PolicyFile.load(output)
    record = {
        "trained_by": to_mapping(origin),
        "env_steps": values["step"],
        "wall_s": round(values["wall_s"], 1),
        "sha256": policy.sha256,
    }
    write_atomically(output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    return policy


@dataclass
class Arguments:
    """Export a run's newest checkpoint as a policy file that the control node loads."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the training run."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The .onnx to write."""


def main() -> None:
    """Entry point of ``python -m smfp_core.export``."""
    arguments = tyro.cli(Arguments, prog="python -m smfp_core.export")
    try:
        policy = export_run(arguments.run, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    Console(stderr=True).print(
        f"{arguments.output}: {policy.observation.size} observations, {policy.action.size} "
        f"joints of {policy.robot_name}, sha256 {policy.sha256[:16]}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
