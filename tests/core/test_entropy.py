# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import pytest
import torch

from smfp_core.entropy import conditional_log_prob, gaussian_entropy, marginal_log_prob


def mixture(draws: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A policy in one dimension with closed form: mu(e) = e, so a ~ N(0, 1 + sigma^2)."""
    generator = torch.Generator().manual_seed(draws)
    means = torch.randn(count, draws, 1, generator=generator, dtype=torch.float64)
    log_std = torch.full((count, 1), math.log(0.2), dtype=torch.float64)
    noise = torch.randn(count, 1, 1, generator=generator, dtype=torch.float64)
    return means[:, :1] + 0.2 * noise, means, log_std


def test_one_draw_makes_the_marginal_the_conditional():
    action, means, log_std = mixture(1, 500)
    torch.testing.assert_close(
        marginal_log_prob(action, means, log_std),
        conditional_log_prob(action, means, log_std.unsqueeze(1)),
    )


def test_both_estimators_bound_the_entropy_from_below_and_the_marginal_tightens():
    truth = gaussian_entropy(math.sqrt(1 + 0.2**2), 1)
    estimates = []
    for draws in (1, 4, 16, 64):
        action, means, log_std = mixture(draws, 20_000)
        estimates.append(-marginal_log_prob(action, means, log_std).mean().item())
    margin = 3.0 / math.sqrt(20_000)  # three standard errors of a mean with unit spread
    assert all(estimate < truth + margin for estimate in estimates)
    assert estimates == sorted(estimates)
    assert truth - estimates[-1] < 0.1 < truth - estimates[0]


@pytest.mark.parametrize(("sharpness", "std"), [(8.0, 0.1), (1.0, 0.05), (2.0, 0.5)])
def test_estimates_bound_the_integrated_entropy_of_a_bent_map(sharpness: float, std: float):
    # mu(e) = 0.7 tanh(sharpness (e - 0.3)): two modes, a ramp, a blur. Truth by quadrature alone.
    e = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    mu = 0.7 * torch.tanh(sharpness * (e - 0.3))
    share = torch.softmax(-0.5 * e.square(), 0)
    a = torch.linspace(-0.7 - 8 * std, 0.7 + 8 * std, 1501, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((a[:, None] - mu) / std).square()) / (std * math.sqrt(2 * math.pi))
    density = kernel @ share
    truth = -torch.trapezoid(torch.xlogy(density, density), a).item()
    assert torch.trapezoid(density, a).item() == pytest.approx(1.0, abs=1e-6)

    count, estimates = 8_000, []
    generator = torch.Generator().manual_seed(0)
    log_std = torch.full((count, 1), math.log(std), dtype=torch.float64)
    for draws in (1, 4, 16, 64, 256):
        noise = torch.randn(count, draws, 1, generator=generator, dtype=torch.float64)
        means = 0.7 * torch.tanh(sharpness * (noise - 0.3))
        eps = torch.randn(count, 1, 1, generator=generator, dtype=torch.float64)
        sample = -marginal_log_prob(means[:, :1] + std * eps, means, log_std)
        margin = 3 * sample.std().item() / math.sqrt(count)
        estimates.append(sample.mean().item())
        assert estimates[-1] < truth + margin
    assert all(b > a - 0.02 for a, b in itertools.pairwise(estimates))
    assert estimates[0] == pytest.approx(gaussian_entropy(std, 1), abs=0.03)  # conditional
    assert truth - estimates[-1] < 0.04 < truth - estimates[0]


def test_gradients_of_both_densities_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    actions, means = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    log_std = 0.3 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (actions, means, log_std))
    assert torch.autograd.gradcheck(marginal_log_prob, inputs)
    assert torch.autograd.gradcheck(
        lambda a, m, s: conditional_log_prob(a, m, s.unsqueeze(1)), inputs
    )


def test_conditional_log_prob_is_the_gaussian_density():
    generator = torch.Generator().manual_seed(0)
    action, mean, log_std = torch.randn(3, 10, 4, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(conditional_log_prob(action, mean, log_std), expected)


@pytest.mark.parametrize("dimensions", [1, 6])
def test_gaussian_entropy_is_that_of_torch(dimensions: int):
    normal = torch.distributions.Normal(0.0, 0.03)
    assert gaussian_entropy(0.03, dimensions) == pytest.approx(
        dimensions * normal.entropy().item(), rel=1e-6
    )
