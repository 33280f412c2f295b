# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smfp_core.critics import ActionValue
from smfp_core.meanflow import MeanFlowActor
from smfp_core.objective import (
    ActorNoise,
    ActorOptions,
    actor_objective,
    pathwise_log_prob,
    policy_log_prob,
    propose,
)

RICH = ActorOptions(
    candidates=4,
    density_draws=12,
    own_weight=0.5,
    actions=4,
    paths=3,
    mean_velocity=True,
    weight_power=0.0,
)


class AffinePolicy(nn.Module):
    """mu(s, e) = A [s, e] + b in double precision, without a flow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2).double()
        self.scale = nn.Parameter(torch.tensor([-1.2, -0.8], dtype=torch.float64))

    def mean(self, observation: Tensor, noise: Tensor) -> Tensor:
        state = observation.unsqueeze(1).expand(-1, noise.shape[1], -1)
        return self.linear(torch.cat([state, noise], -1))

    def log_std(self, observation: Tensor) -> Tensor:
        return self.scale.expand(len(observation), 2)


def value_of(observation: Tensor, actions: Tensor) -> Tensor:
    return 3.0 - (actions - 0.2).square().sum(-1) + actions[..., 0].sin()


def objective(
    actor: Any,
    previous: Any,
    observation: Tensor,
    q_of: ActionValue,
    alpha: float,
    q_scale: Tensor,
    noise: ActorNoise,
    options: ActorOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Both halves in the same states and with the same values."""
    proposals = propose(previous, observation, q_of, noise, options)
    return actor_objective(actor, proposals, observation, q_of, alpha, q_scale, noise, options)


def as_double(noise: ActorNoise) -> ActorNoise:
    return ActorNoise(*(part.double() for part in noise))


def test_gradient_of_the_soft_objective_equals_finite_differences():
    # With the conditional density; the marginal one has the same gradient in the mean only, below.
    torch.manual_seed(0)
    policy = AffinePolicy()
    observation = torch.randn(6, 3, dtype=torch.float64)
    options = ActorOptions(entropy="conditional", mirror=False, actions=2)
    noise = as_double(ActorNoise.draw(6, 2, options))
    scale = torch.tensor(2.0, dtype=torch.float64)

    def evaluate() -> tuple[Tensor, dict[str, Tensor]]:
        return objective(policy, policy, observation, value_of, 0.3, scale, noise, options)

    loss, metrics = evaluate()
    loss.backward()
    running = metrics["q_scale"]  # no gradient flows through the running mean of |Q|

    def loss_at(parameter: nn.Parameter, direction: Tensor, step: float) -> Tensor:
        with torch.no_grad():
            parameter.add_(step * direction)
            _, moved = evaluate()
            parameter.sub_(step * direction)
        return moved["sac_loss"] * moved["q_scale"] / running + moved["bound_loss"]

    for parameter in policy.parameters():
        direction = torch.randn_like(parameter)
        slope = loss_at(parameter, direction, 1e-6) - loss_at(parameter, direction, -1e-6)
        assert parameter.grad is not None
        torch.testing.assert_close(
            (parameter.grad * direction).sum(), slope / 2e-6, rtol=1e-6, atol=1e-8
        )


def test_the_mirror_step_regresses_onto_what_made_the_best_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    policy, observation = AffinePolicy(), torch.randn(64, 3, dtype=torch.float64)
    options = ActorOptions(candidates=3, mirror_step=1e-6)
    noise = as_double(ActorNoise.draw(64, 2, options))
    regressed: list[Tensor] = []

    def remember(actor: Any, observation: Tensor, target: Tensor, *rest: Any, **more: Any) -> Any:
        regressed.append(target)
        return torch.zeros((), dtype=torch.float64)

    monkeypatch.setattr("smfp_core.objective.meanflow_loss", remember)
    scale = torch.tensor(2.0, dtype=torch.float64)
    objective(policy, policy, observation, value_of, 1e-9, scale, noise, options)
    means = policy.mean(observation, noise.candidate_mean)
    actions = means + policy.log_std(observation).exp().unsqueeze(1) * noise.candidate
    best = value_of(observation, actions.clamp(-1, 1)).argmax(-1)
    expected = means[torch.arange(64), best].clamp(-1, 1)
    torch.testing.assert_close(regressed[0].squeeze(1), expected)


@pytest.mark.parametrize("spread", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("actions", [1, 4])
def test_pathwise_gradient_has_the_mean_of_the_whole_one_and_its_variance(
    spread: float, actions: int
) -> None:
    # Four draws whose means lie within sigma = 0.1 of each other, or apart.
    torch.manual_seed(0)
    matrix = (spread * torch.randn(2, 2, dtype=torch.float64)).requires_grad_()
    scale = torch.full((2,), math.log(0.1), dtype=torch.float64).requires_grad_()

    def gradients(log_prob_of: Callable[..., Tensor]) -> Tensor:
        repeats = []
        for _ in range(150):
            means = torch.randn(512, 4, 2, dtype=torch.float64) @ matrix
            noise = torch.randn(512, actions, 2, dtype=torch.float64)
            made = means[:, :actions] + scale.exp() * noise
            log_prob = log_prob_of(made, means, scale.expand(512, 2), ActorOptions())
            parts = torch.autograd.grad(log_prob.mean(), [matrix, scale])
            repeats.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(repeats)

    whole, pathwise = gradients(policy_log_prob), gradients(pathwise_log_prob)
    error = ((whole.var(0) + pathwise.var(0)) / len(whole)).sqrt()
    assert ((whole.mean(0) - pathwise.mean(0)).abs() < 4 * error).all()
    assert pathwise.var(0).sum() < 1.5 * whole.var(0).sum()  # without the own score up to 11


@pytest.mark.parametrize("draws", [2, 8])
def test_the_spread_that_is_watched_is_the_policy_s_however_many_its_draws(draws: int):
    torch.manual_seed(0)
    actor, observation = AffinePolicy(), torch.randn(4000, 3, dtype=torch.float64)
    options = ActorOptions(candidates=draws, mirror=False)
    noise = as_double(ActorNoise.draw(4000, 2, options))
    zero = torch.zeros((), dtype=torch.float64)
    _, watched = objective(actor, actor, observation, value_of, 0.1, zero, noise, options)
    exact = actor.linear.weight[:, 3:].square().sum(1).mean().sqrt()  # e is of unit variance
    assert watched["mean_spread"].item() == pytest.approx(exact.item(), rel=0.03)


def test_only_the_draws_that_made_actions_carry_gradient():
    torch.manual_seed(4)
    means = torch.randn(8, 4, 2, requires_grad=True)
    log_std, options = torch.full((8, 2), -1.0), ActorOptions()
    actions = means[:, :2] + 0.3 * torch.randn(8, 2, 2)
    log_prob = pathwise_log_prob(actions, means, log_std, options)
    torch.testing.assert_close(log_prob, policy_log_prob(actions, means, log_std, options))
    log_prob.sum().backward()
    assert means.grad is not None
    assert means.grad[:, :2].ne(0).all()
    assert means.grad[:, 2:].eq(0).all()


def test_options_of_the_first_version_give_the_equations_written_out():
    torch.manual_seed(1)
    actor = MeanFlowActor(3, 2, (16, 16))
    previous = copy.deepcopy(actor)
    observation, options = torch.randn(32, 3), ActorOptions(mirror_weight=2.0)
    noise = ActorNoise.draw(32, 2, options)
    loss, metrics = objective(
        actor, previous, observation, value_of, 0.3, torch.zeros(()), noise, options
    )
    means = actor.mean(observation, noise.mean)
    action = means[:, :1] + actor.log_std(observation).exp().unsqueeze(1) * noise.action
    log_prob = policy_log_prob(action, means, actor.log_std(observation), options)
    value = value_of(observation, action.clamp(-1, 1))
    soft = (0.3 * log_prob - value).mean()
    mirror = 2.0 * (0.3 + metrics["beta"]) * metrics["mirror_loss"]
    bound = (means[:, :1].abs() - 1).clamp_min(0).square().sum(-1).mean()
    torch.testing.assert_close(loss, (soft + mirror) / value.abs().mean() + bound)
    torch.testing.assert_close(metrics["q_scale"], value.abs().mean())


@pytest.mark.parametrize(("gain", "offset"), [(10.0, 0.0), (1.0, 50.0)])
def test_the_balance_of_both_terms_is_that_of_any_scale_and_offset_of_q(
    gain: float, offset: float
) -> None:
    actor = MeanFlowActor(3, 2, (16, 16))
    observation, options = torch.randn(32, 3), ActorOptions(bound_penalty=0.0)
    noise = ActorNoise.draw(32, 2, options)

    def direction(gain: float, offset: float) -> Tensor:
        loss, _ = objective(
            actor,
            copy.deepcopy(actor),
            observation,
            lambda states, actions: gain * value_of(states, actions) + offset,
            0.3 * gain,
            torch.zeros(()),
            noise,
            options,
        )
        gradient = torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(actor.parameters()))]
        )
        return gradient / gradient.norm()

    torch.testing.assert_close(direction(gain, offset), direction(1.0, 0.0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [ActorOptions(), RICH], ids=["first", "rich"])
def test_previous_policy_gets_no_gradient_and_equal_noise_gives_equal_losses(
    options: ActorOptions,
):
    torch.manual_seed(2)
    actor, previous = MeanFlowActor(3, 2, (16, 16)), MeanFlowActor(3, 2, (16, 16))
    observation = torch.randn(8, 3)
    generator = torch.Generator()
    losses = []
    for _ in range(2):
        noise = ActorNoise.draw(8, 2, options, generator.manual_seed(5))
        loss, metrics = objective(
            actor, previous, observation, value_of, 0.1, torch.ones(()), noise, options
        )
        losses.append(loss)
    assert losses[0].equal(losses[1])
    losses[0].backward()
    assert all(parameter.grad is None for parameter in previous.parameters())
    assert all(parameter.grad is not None for parameter in actor.parameters())
    assert all(not value.requires_grad and value.ndim == 0 for value in metrics.values())


def test_regression_moves_the_policy_to_the_better_candidates():
    # L_Mirror alone, on a value that grows along the first axis.
    torch.manual_seed(3)
    actor = MeanFlowActor(1, 2, (32, 32))
    previous = copy.deepcopy(actor)
    options = dataclasses.replace(RICH, mirror_weight=1e3, mirror_step=0.3)
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
    observation, noise = torch.zeros(64, 1), torch.randn(1, 500, 2)
    before = actor.mean(observation[:1], noise)[..., 0].clamp(-1, 1).mean().item()
    for _ in range(150):
        drawn = ActorNoise.draw(64, 2, options)
        loss, metrics = objective(
            actor,
            previous,
            observation,
            lambda _, actions: actions[..., 0],
            0.01,
            torch.ones(()),
            drawn,
            options,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = actor.mean(observation[:1], noise)[..., 0].clamp(-1, 1).mean().item()
    assert after > before + 0.3
    assert 1.0 <= metrics["effective_samples"] <= options.candidates
