# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import pytest
import torch
from torch import Tensor

from smfp_core.agents.flow import FlowActor
from smfp_core.meanflow import meanflow_loss


class GaussianVelocity(FlowActor):
    """E[e - x | a_t] of x ~ N(MEAN, STD^2): where the exact flow leads, in closed form."""

    MEAN, STD = 0.3, 0.5

    def forward(self, observation: Tensor, z: Tensor, t: Tensor) -> Tensor:
        variance = ((1 - t) * self.STD).square() + t.square()
        slope = (t - (1 - t) * self.STD**2) / variance  # of e - x on a_t
        velocity = -self.MEAN + slope * (z - (1 - t) * self.MEAN)
        return z - velocity


def test_integration_takes_noise_to_the_target_at_first_order() -> None:
    observation, noise = torch.zeros(1, 1), torch.linspace(-2, 2, 9).view(1, 9, 1)
    exact = GaussianVelocity.MEAN + GaussianVelocity.STD * noise
    errors = []
    for steps in (10, 40, 160):
        found = GaussianVelocity(1, 1, (4,), steps).mean(observation, noise)
        errors.append((found - exact).abs().max().item())
    assert errors[0] < 0.2
    # Euler's method: a quarter of the step, a quarter of the error.
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4.0, rel=0.15)


def test_one_step_is_the_skip_connection_and_the_velocity_at_the_noise() -> None:
    torch.manual_seed(0)
    actor = FlowActor(3, 2, (8,), steps=1)
    observation, noise = torch.randn(4, 3), torch.randn(4, 5, 2)
    found = actor.mean(observation, noise)
    torch.testing.assert_close(found, actor(observation, noise, torch.ones(4, 5, 1)))


def test_regression_is_flow_matching() -> None:
    # |v_theta - (e - x)|^2 on the path, whatever the network says of its derivative.
    torch.manual_seed(0)
    actor = FlowActor(3, 2, (8,), steps=10)
    observation = torch.randn(6, 3)
    target, noise = torch.rand(6, 1, 2), torch.randn(6, 1, 2)
    time = torch.rand(6, 1, 1)
    loss = meanflow_loss(actor, observation, target, noise, time, weight_power=0.0)
    path = (1 - time) * target + time * noise
    velocity = path - actor(observation, path, time)
    expected = (velocity - (noise - target)).square().sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not math.isclose(loss.item(), 0.0)
