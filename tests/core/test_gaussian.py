# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from smfp_core.gaussian import TanhGaussianActor


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_density_is_that_of_a_gaussian_through_tanh(scale: float) -> None:
    torch.manual_seed(0)
    actor = TanhGaussianActor(3, 2, (16,)).double()
    observation = torch.randn(5, 3, dtype=torch.float64)
    noise = scale * torch.randn(5, 4, 2, dtype=torch.float64)
    action, log_prob = actor(observation, noise)
    mean, log_std = actor.out(actor.trunk(observation)).unsqueeze(1).chunk(2, -1)
    density = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    raw = mean + log_std.exp() * noise
    torch.testing.assert_close(action, raw.tanh())
    torch.testing.assert_close(log_prob, density.log_prob(density.transforms[0](raw)).sum(-1))


def test_density_is_finite_where_tanh_rounds_to_one() -> None:
    torch.manual_seed(0)
    actor = TanhGaussianActor(3, 2, (16,))
    action, log_prob = actor(torch.randn(5, 3), torch.full((5, 1, 2), 50.0))
    assert (action == 1.0).all()
    assert log_prob.isfinite().all()
