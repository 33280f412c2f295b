# SPDX-License-Identifier: Apache-2.0
"""Shared pieces: one torch thread, a small agent for the UR5e and its policy file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smfp_core.agents.smfp import SmfpAgent
from smfp_core.collector import make_env
from smfp_core.config import TrainConfig
from smfp_core.contract import contract_of
from smfp_core.export import golden_vectors, policy_graph, policy_metadata, write_policy_file

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    return TrainConfig(
        env_id="smfp_sim.tasks:smfp/Reach-v0",
        env_kwargs={"robot": "ur5e"},
        actor_hidden=(32, 32),
        critic_hidden=(32, 32),
        compile=False,
    )


@pytest.fixture(scope="session")
def reach_agent(small_config: TrainConfig) -> SmfpAgent:
    """Untrained, with random weights everywhere and a normaliser that has seen data."""
    env = make_env(small_config.env_id, small_config.env_kwargs)
    agent = SmfpAgent(small_config, env.observation_space.shape[0], env.action_space.shape[0])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in agent.actor.module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    for i in range(50):
        observation, _ = env.reset(seed=i)
        agent.normalizer.update(observation)
    return agent


@pytest.fixture(scope="session")
def policy_path(
    small_config: TrainConfig, reach_agent: SmfpAgent, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    contract = contract_of(make_env(small_config.env_id, small_config.env_kwargs))
    assert contract is not None
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((4, contract.observation.size)).astype(np.float32)
    golden = golden_vectors(reach_agent, observations, seed=0)
    noise = rng.standard_normal(contract.action.size).astype(np.float32)
    metadata = policy_metadata(reach_agent, small_config, contract, noise, golden, 0, "test")
    write_policy_file(path, policy_graph(reach_agent), metadata)
    return path
