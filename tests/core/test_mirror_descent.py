# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from smfp_core.entropy import marginal_log_prob
from smfp_core.mirror_descent import effective_sample_size, mirror_weights


def test_boltzmann_policy_is_the_fixed_point():
    # log pi = Q / alpha - log Z: every candidate weighs the same, whatever the step.
    q = torch.randn(50, 8, dtype=torch.float64)
    log_prob = q / 0.3 - 1.7
    weights, _ = mirror_weights(q, log_prob, alpha=0.3, step=0.5)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 8))


def test_weights_move_a_policy_to_the_closed_form_step():
    # pi_{k+1} ~ pi_k^(beta/(alpha+beta)) exp(Q/(alpha+beta)) on a finite set of actions.
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    log_prob = torch.log_softmax(torch.randn(1, 6, generator=generator, dtype=torch.float64), -1)
    alpha = 0.2
    weights, beta = mirror_weights(q, log_prob, alpha, step=1.0)
    stepped = weights * log_prob.exp()
    expected = (beta * log_prob + q) / (alpha + beta)
    torch.testing.assert_close(stepped / stepped.sum(), torch.softmax(expected, -1))


def test_repeated_steps_converge_to_the_boltzmann_policy_and_keep_every_mode():
    q = torch.tensor([[1.0, 0.9, -1.0, 0.5]], dtype=torch.float64)
    log_prob = torch.full_like(q, 0.25).log()
    for _ in range(300):
        weights, _ = mirror_weights(q, log_prob, alpha=0.4, step=2.0)
        log_prob = torch.log_softmax(weights.log() + log_prob, -1)
    torch.testing.assert_close(log_prob.exp(), torch.softmax(q / 0.4, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("step", [1.0, 10.0])
def test_means_of_the_chosen_candidates_lead_to_the_boltzmann_policy(step: float):
    # Q = alpha log N(0, 1), and actions are means with noise of variance 1/2 about them.
    torch.manual_seed(0)
    noise_variance, alpha = torch.tensor(0.5, dtype=torch.float64), 0.3
    variance = {}
    for onto in ("means", "candidates"):
        means = 2.0 * torch.randn(600, 1, dtype=torch.float64)
        for _ in range(60 if step == 1.0 else 300):
            candidates = means + noise_variance.sqrt() * torch.randn_like(means)
            log_std = (0.5 * noise_variance.log()).expand(1, 1)
            log_prob = marginal_log_prob(candidates[None], means[None], log_std)
            q = -0.5 * alpha * candidates.square().T
            exponent = q - alpha * log_prob
            weights, _ = mirror_weights(q, log_prob, alpha, step * alpha / exponent.std().item())
            chosen = torch.multinomial(weights[0], len(means), replacement=True)
            means = (means if onto == "means" else candidates)[chosen]
        variance[onto] = (means.var() + noise_variance).item()
    assert variance["means"] == pytest.approx(1.0, abs=0.15)
    assert variance["candidates"] > 1.2


def test_step_size_does_not_depend_on_the_scale_of_q():
    q = torch.randn(20, 8, dtype=torch.float64)
    log_prob = torch.zeros_like(q)
    small, _ = mirror_weights(q, log_prob, alpha=1e-6, step=1.0)
    large, _ = mirror_weights(1000 * q, log_prob, alpha=1e-6, step=1.0)
    torch.testing.assert_close(small, large)


def test_beta_is_never_negative():
    q = torch.zeros(4, 8)
    _, beta = mirror_weights(q, torch.zeros_like(q), alpha=0.5, step=1.0)
    assert beta >= 0


@pytest.mark.parametrize(("weights", "size"), [([1.0, 0, 0, 0], 1.0), ([0.25] * 4, 4.0)])
def test_effective_sample_size(weights: list[float], size: float):
    assert effective_sample_size(torch.tensor([weights])).item() == pytest.approx(size)


ACTIONS = torch.linspace(-1, 1, 401, dtype=torch.float64)
VALUE = torch.logaddexp(-((ACTIONS + 0.5) / 0.2).square(), 0.4 - ((ACTIONS - 0.4) / 0.1).square())


@pytest.mark.parametrize("step", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_density_on_the_line_converges_to_the_boltzmann_density(alpha: float, step: float):
    # Two peaks of unequal height and width, from a start that leans to the wrong one.
    log_prob = torch.log_softmax(-2 * ACTIONS, 0).unsqueeze(0)
    for _ in range(400):
        weights, beta = mirror_weights(VALUE.unsqueeze(0), log_prob, alpha, step)
        assert beta >= 0
        log_prob = torch.log_softmax(weights.log() + log_prob, -1)
    truth = torch.softmax(VALUE / alpha, 0)
    assert 0.5 * (log_prob[0].exp() - truth).abs().sum() < 1e-3  # total variation


@pytest.mark.parametrize("step", [1.0, 3.0])
def test_resampled_candidates_converge_to_the_boltzmann_policy(step: float):
    q = torch.tensor([0.5, 0.2, 0.0, -0.3, -1.0], dtype=torch.float64)
    alpha, generator = 0.5, torch.Generator().manual_seed(0)
    prob = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6], dtype=torch.float64)
    greedy, average = prob.clone(), torch.zeros_like(prob)
    for i in range(150):
        chosen = torch.multinomial(prob, 4000 * 16, replacement=True, generator=generator)
        chosen = chosen.view(4000, 16)
        weights, _ = mirror_weights(q[chosen], prob.log()[chosen], alpha, step)
        prob = torch.zeros_like(prob).index_add_(0, chosen.flatten(), weights.flatten() / 4000)
        average += prob / 50 * (i >= 100)
        greedy = torch.softmax(greedy.log() + q / (alpha * step), 0)
    truth = torch.softmax(q / alpha, 0)
    torch.testing.assert_close(average, truth, rtol=0, atol=0.02)
    assert greedy.max() > 0.99  # the same steps without log pi_k: one action is left


def settled_mass(candidates: int, draws: int, own_weight: float) -> float:
    """Mass of the larger of two optima, 0.6 and 0.4 by Q, at which repeated steps settle.

    A policy that sits at two points: only how often each occurs among its draws tells the mass.
    """
    generator = torch.Generator().manual_seed(0)
    mass, average, alpha, count = 0.6, 0.0, 0.2, 4000
    log_std = torch.full((count, 1), -3.0, dtype=torch.float64)
    for i in range(60):
        larger = torch.rand(count, draws, 1, generator=generator, dtype=torch.float64) < mass
        means = larger.double()
        actions = means[:, :candidates]
        log_prob = marginal_log_prob(actions, means, log_std, own_weight)
        q = alpha * torch.where(larger[:, :candidates, 0], 0.6, 0.4).double().log()
        weights, _ = mirror_weights(q, log_prob, alpha, step=1e-3)  # beta 0: the whole step
        mass += 0.3 * ((weights * actions[..., 0]).sum(-1).mean().item() - mass)
        average += mass / 20 * (i >= 40)
    return average


def test_few_draws_overrate_rare_modes_and_more_draws_cure_it():
    # The own draw keeps the density of a rare mode above 1/K, so that the rare mode fades.
    assert settled_mass(4, 4, own_weight=1.0) > 0.66
    assert settled_mass(4, 4, own_weight=0.5) == pytest.approx(0.615, abs=0.02)
    assert settled_mass(8, 32, own_weight=0.5) == pytest.approx(0.6, abs=0.02)
