# SPDX-License-Identifier: Apache-2.0
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
