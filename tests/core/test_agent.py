# SPDX-License-Identifier: Apache-2.0
import dataclasses
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch

from smfp_core.agents import AGENTS, Agent, make_agent
from smfp_core.agents.base import learns_in_bfloat16
from smfp_core.agents.smfp import SmfpAgent
from smfp_core.config import TrainConfig
from smfp_core.objective import Proposals, propose
from smfp_core.replay import Batch

needs_compiler = pytest.mark.skipif(
    not (which("g++") or which("clang++")), reason="needs a C++ compiler"
)
CONFIG = TrainConfig(
    env_id="none",
    batch_size=64,
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    target_rate=0.1,
    initial_temperature=1e-4,
    compile=False,
)


def make_batch(rng: np.random.Generator, reward: np.ndarray | float, bootstrap: float) -> Batch:
    """64 random states and actions of two dimensions."""
    observation, following = rng.standard_normal((2, 64, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    tensors = (observation, action, np.broadcast_to(np.float32(reward), 64).copy(), following)
    return Batch(*map(torch.from_numpy, tensors), torch.full((64,), bootstrap))


def make(agent: str, **change: Any) -> Agent:
    return make_agent(dataclasses.replace(CONFIG, agent=agent, **change), 2, 2)


def values(agent: Agent, rng: np.random.Generator) -> torch.Tensor:
    batch = make_batch(rng, 0.0, 0.0)
    with torch.no_grad():
        return agent.value(agent.normalizer(batch.observation), batch.action.unsqueeze(1))


KINDS = [(name, "twin") for name in AGENTS] + [("smfp", "crossq")]


@pytest.mark.parametrize(("agent", "critic"), KINDS)
@pytest.mark.parametrize(("bootstrap", "expected"), [(0.0, 1.0), (0.5, 2.0)])
def test_termination_ends_the_return_and_truncation_does_not(
    agent: str, critic: str, bootstrap: float, expected: float
):
    # Reward 1 for ever: the value is 1 / (1 - bootstrap); a terminated step is worth its reward.
    agent = make(agent, critic=critic, flow_steps=2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        agent.update(make_batch(rng, 1.0, bootstrap))
    assert values(agent, rng).mean().item() == pytest.approx(expected, rel=0.05)


CHANGES = [{"agent": name, "flow_steps": 3} for name in AGENTS] + [
    {"agent": "smfp", "entropy": "conditional"},
    {"agent": "smfp", "critic": "crossq"},
    {"agent": "smfp", "mirror": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: "-".join(map(str, c.values())))
def test_policy_moves_to_the_better_actions(change: dict[str, Any]):
    agent = make(**change)
    rng = np.random.default_rng(0)
    best = np.array([0.5, -0.3], np.float32)
    for _ in range(500):
        batch = make_batch(rng, 0.0, 0.0)
        reward = -(batch.action - torch.from_numpy(best)).square().sum(-1)
        metrics = agent.update(batch._replace(reward=reward))
    noise = rng.standard_normal((200, 2)).astype(np.float32)
    actions = np.array([agent.sample(rng.standard_normal(2).astype(np.float32), e) for e in noise])
    assert np.abs(actions.mean(0) - best).max() < 0.2
    assert np.abs(actions - best).mean() < 0.25
    assert all(torch.isfinite(value) for value in metrics.values())


def test_temperature_follows_the_entropy_to_its_target():
    # The first policy is wide: above a low target alpha falls, below a high one it rises.
    for target_std, rises in ((1e-3, False), (10.0, True)):
        config = dataclasses.replace(CONFIG, target_std=target_std, temperature_learning_rate=1e-2)
        agent = SmfpAgent(config, 2, 2)
        rng = np.random.default_rng(0)
        before = agent.state["log_alpha"].item()
        for _ in range(20):
            agent.update(make_batch(rng, 0.0, 0.0))
        assert (agent.state["log_alpha"].item() > before) == rises


def test_previous_actor_follows_slowly():
    agent = SmfpAgent(CONFIG, 2, 2)
    start = agent.state["actor"].clone()
    agent.update(make_batch(np.random.default_rng(0), 1.0, 0.5))
    moved = agent.state["actor"] - start
    followed = agent.state["previous_actor"] - start
    torch.testing.assert_close(followed, CONFIG.previous_rate * moved, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("kind", "rate"), [("smfp", 1.0), ("sac", 1.0), ("td3", 0.5)])
def test_target_critics_follow_slowly(kind: str, rate: float):
    # TD3's follow at every update, half as fast: its paper's do at every second one.
    config = dataclasses.replace(CONFIG, agent=kind)
    agent = make_agent(config, 2, 2)
    start = agent.state["critics"].clone()
    torch.testing.assert_close(agent.state["target_critics"], start)
    agent.update(make_batch(np.random.default_rng(0), 1.0, 0.5))
    moved = agent.state["critics"] - start
    followed = agent.state["target_critics"] - start
    assert moved.abs().max() > 0.0
    expected = rate * config.target_rate * moved
    torch.testing.assert_close(followed, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("act_candidates", "looked_at"), [(1, 1), (2, 1), (4, 2), (8, 4), (99, 4)])
def test_targets_take_the_best_of_half_as_many_candidates_as_are_drawn_to_act(
    act_candidates: int, looked_at: int, monkeypatch: pytest.MonkeyPatch
):
    config = dataclasses.replace(CONFIG, act_candidates=act_candidates, loss_candidates=4)
    agent = SmfpAgent(config, 2, 2)
    seen: dict[str, torch.Tensor] = {}

    def remember(*args: Any, **kwargs: Any) -> Proposals:
        seen["q"] = (proposals := propose(*args, **kwargs)).q
        return proposals

    def learn(*args: Any, next_q: torch.Tensor, **kwargs: Any) -> Any:
        seen["next_q"] = next_q
        return original(*args, next_q=next_q, **kwargs)

    original = agent.td.learn
    monkeypatch.setattr("smfp_core.agents.smfp.propose", remember)
    monkeypatch.setattr(agent.td, "learn", learn)
    agent.update(make_batch(np.random.default_rng(0), 1.0, 0.9))
    torch.testing.assert_close(seen["next_q"], seen["q"][:, :looked_at].amax(-1))


def test_td3_smooths_the_target_policy_within_a_bound(monkeypatch: pytest.MonkeyPatch):
    agent = make("td3")
    batch = make_batch(np.random.default_rng(0), 1.0, 0.9)
    noise = agent.draw(64)
    noise.next_action[:2] = torch.tensor([[1.0, -1.0], [9.0, -9.0]])
    seen: list[torch.Tensor] = []

    def learn(state: Any, batch: Batch, next_action: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(next_action)
        return original(state, batch, next_action, *rest, **more)

    original = agent.td.learn
    monkeypatch.setattr(agent.td, "learn", learn)
    agent.learn(agent.state, batch, noise, True)
    policy = agent.actor.at(agent.state["target_actor"])(batch.next_observation)
    # 0.2 half-ranges of standard deviation, at most 0.5 (arXiv 1802.09477, section 6.1).
    moved = torch.tensor([[0.2, -0.2], [0.5, -0.5]])
    torch.testing.assert_close(seen[0][:2], (policy[:2] + moved).clamp(-1, 1))
    assert (seen[0].abs() <= 1.0).all()


@pytest.mark.parametrize("name", sorted({*AGENTS} - {"crossq"}))  # BatchRenorm sees all states
def test_what_follows_an_episode_s_end_teaches_nothing(name: str):
    first, second = make(name), make(name)
    batch = make_batch(np.random.default_rng(0), 1.0, 0.0)
    first.update(batch)
    second.update(batch._replace(next_observation=batch.next_observation + 1e3))
    for key, value in first.state.items():
        assert value.equal(second.state[key]), key


@pytest.mark.parametrize(("agent", "critic"), KINDS)
def test_restored_agent_goes_on_with_the_same_numbers(agent: str, critic: str):
    first, second = make(agent, critic=critic), make(agent, critic=critic, seed=9)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 1.0, 0.9) for _ in range(6)]
    for batch in batches[:3]:
        first.update(batch)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for batch in batches[3:]:
        first.update(batch)
        second.update(batch)
    observation = np.ones(2, np.float32)
    np.testing.assert_array_equal(first.act(observation), second.act(observation))
    for name, tensor in first.tensors().items():
        assert tensor.equal(second.tensors()[name]), name


@pytest.mark.parametrize("name", AGENTS)
def test_collected_actions_lie_in_the_box_and_vary(name: str):
    agent = make(name)
    actions = np.array([agent.act(np.zeros(2, np.float32)) for _ in range(50)])
    assert np.abs(actions).max() <= 1.0
    assert actions.std() > 0.05


@needs_compiler
@pytest.mark.filterwarnings("error:compile")  # the announcement that it goes on uncompiled
@pytest.mark.parametrize("name", ["smfp", "sac"])  # each takes a compiler half a minute
def test_compiled_update_gives_the_losses_of_the_plain_one(name: str):
    rates = {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "target_rate": 0.005}
    plain, compiled = make(name, **rates), make(name, compile=True, **rates)
    rng = np.random.default_rng(0)
    for _ in range(100):
        batch = make_batch(rng, rng.standard_normal(64), 0.9)
        expected, got = plain.update(batch), compiled.update(batch)
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4, msg=name)


@needs_compiler
@pytest.mark.filterwarnings("error:compile")
def test_compiled_acting_gives_the_actions_of_the_plain_one():
    plain, compiled = make("smfp"), make("smfp", compile=True)
    rng = np.random.default_rng(0)
    for _ in range(3):  # acts with the networks as they are, not as they were
        observation = rng.standard_normal(2).astype(np.float32)
        np.testing.assert_allclose(compiled.act(observation), plain.act(observation), atol=1e-5)
        for agent in (plain, compiled):
            agent.state["actor"].mul_(1.1)


@pytest.mark.parametrize("name", AGENTS)
def test_bfloat16_products_stay_near_float32_and_what_is_learned_in_float32(name: str):
    plain, mixed = make(name), make(name, precision="bfloat16")
    rng = np.random.default_rng(0)
    for _ in range(20):
        batch = make_batch(rng, rng.standard_normal(64), 0.9)
        expected, got = plain.update(batch), mixed.update(batch)
    # bfloat16 has 8 bits of precision: equal to float32 would mean that nothing was rounded.
    assert got["critic_loss"] != expected["critic_loss"]
    torch.testing.assert_close(got["critic_loss"], expected["critic_loss"], rtol=0.1, atol=0.0)
    learned, _ = mixed.learn_in_precision(mixed.state, mixed.prepared(batch), mixed.draw(64), True)
    assert {value.dtype for value in learned.values()} == {torch.float32}


@pytest.mark.parametrize("able", [{}, {"amx_bf16": True}, {"avx512_bf16": True}, {"bf16": True}])
def test_auto_is_bfloat16_where_the_cpu_multiplies_it(
    able: dict[str, bool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert make("smfp", precision="auto").bfloat16 == bool(able)
    assert not make("smfp").bfloat16
    on_gpu = dataclasses.replace(CONFIG, precision="auto", device="cuda")
    assert not learns_in_bfloat16(on_gpu)


def test_bfloat16_without_hardware_for_it_is_announced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="precision: this CPU multiplies bfloat16 in software"):
        assert make("smfp", precision="bfloat16").bfloat16


def test_missing_compiler_is_announced_and_training_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        agent = make("sac", compile=True)
    assert torch.isfinite(agent.update(make_batch(np.random.default_rng(0), 1.0, 0.9))["q_mean"])
