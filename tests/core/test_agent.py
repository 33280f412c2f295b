# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
import torch

from smfp_core.agents.smfp import SmfpAgent
from smfp_core.config import TrainConfig
from smfp_core.replay import Batch

CONFIG = TrainConfig(
    env_id="none",
    batch_size=64,
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    actor_learning_rate=2e-3,
    critic_learning_rate=2e-3,
    target_rate=0.05,
    initial_temperature=1e-4,
)


def make_batch(rng: np.random.Generator, reward: np.ndarray | float, bootstrap: float) -> Batch:
    """64 random states and actions of two dimensions."""
    observation, following = rng.standard_normal((2, 64, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    tensors = (observation, action, np.broadcast_to(np.float32(reward), 64).copy(), following)
    return Batch(*map(torch.from_numpy, tensors), torch.full((64,), bootstrap))


def values(agent: SmfpAgent, rng: np.random.Generator) -> torch.Tensor:
    batch = make_batch(rng, 0.0, 0.0)
    with torch.no_grad():
        return agent.critics(agent.normalizer(batch.observation), batch.action)


@pytest.mark.parametrize(("bootstrap", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 4.0)])
def test_termination_ends_the_return_and_truncation_does_not(bootstrap: float, expected: float):
    # Reward 1 for ever: the value is 1 / (1 - bootstrap); a terminated step is worth its reward.
    agent = SmfpAgent(CONFIG, 2, 2)
    rng = np.random.default_rng(0)
    for _ in range(400):
        agent.update(make_batch(rng, 1.0, bootstrap))
    assert values(agent, rng).mean().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("entropy", ["marginal", "conditional"])
def test_policy_moves_to_the_better_actions(entropy: str):
    config = dataclasses.replace(CONFIG, entropy=entropy)  # type: ignore[arg-type]
    agent = SmfpAgent(config, 2, 2)
    rng = np.random.default_rng(0)
    best = np.array([0.5, -0.3], np.float32)
    for _ in range(500):
        batch = make_batch(rng, 0.0, 0.0)
        reward = -(batch.action - torch.from_numpy(best)).square().sum(-1)
        metrics = agent.update(batch._replace(reward=reward))
    noise = rng.standard_normal((200, 2)).astype(np.float32)
    actions = np.array([agent.sample(rng.standard_normal(2).astype(np.float32), e) for e in noise])
    assert np.abs(actions.mean(0) - best).max() < 0.15
    assert np.abs(actions - best).mean() < 0.25
    assert all(torch.isfinite(value) for value in metrics.values())


def test_temperature_follows_the_entropy_to_its_target():
    # The first policy is wide: above a low target alpha falls, below a high one it rises.
    for target_std, rises in ((1e-3, False), (10.0, True)):
        config = dataclasses.replace(CONFIG, target_std=target_std, temperature_learning_rate=1e-2)
        agent = SmfpAgent(config, 2, 2)
        rng = np.random.default_rng(0)
        before = agent.log_alpha.item()
        for _ in range(20):
            agent.update(make_batch(rng, 0.0, 0.0))
        assert (agent.log_alpha.item() > before) == rises


def test_previous_actor_and_target_critics_follow_slowly():
    agent = SmfpAgent(CONFIG, 2, 2)
    start = agent.actor.out.weight.detach().clone()
    agent.update(make_batch(np.random.default_rng(0), 1.0, 0.5))
    moved = agent.actor.out.weight.detach() - start
    followed = agent.previous_actor.out.weight - start
    torch.testing.assert_close(followed, CONFIG.previous_rate * moved, rtol=1e-3, atol=1e-8)


def test_restored_agent_goes_on_with_the_same_numbers():
    first, second = SmfpAgent(CONFIG, 2, 2), SmfpAgent(dataclasses.replace(CONFIG, seed=9), 2, 2)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 1.0, 0.9) for _ in range(6)]
    for batch in batches[:3]:
        first.update(batch)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for batch in batches[3:]:
        first.update(batch)
        second.update(batch)
    observation = np.ones(2, np.float32)
    np.testing.assert_array_equal(first.act(observation), second.act(observation))
    for name, tensor in first.state().items():
        assert tensor.equal(second.state()[name]), name


def test_collected_actions_lie_in_the_box():
    agent = SmfpAgent(CONFIG, 2, 2)
    actions = np.array([agent.act(np.zeros(2, np.float32)) for _ in range(50)])
    assert np.abs(actions).max() <= 1.0
    assert actions.std() > 0.1
