# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from smfp_core.critics import Critics, RenormCritics


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("actions", [1, 4])
def test_least_of_several_actions_is_that_of_each_alone(layer_norm: bool, actions: int) -> None:
    torch.manual_seed(0)
    critics = Critics(5, 2, (32, 16), layer_norm)
    observation = torch.randn(7, 5)
    action = torch.rand(actions, 7, 2).transpose(0, 1)  # of any layout
    found = critics.least(observation, action)
    alone = [critics(observation, action[:, j]).amin(0) for j in range(actions)]
    torch.testing.assert_close(found, torch.stack(alone, 1))


def test_both_parts_of_the_first_layer_learn() -> None:
    torch.manual_seed(0)
    critics = Critics(5, 2, (32, 16))
    critics.least(torch.randn(99, 5), torch.rand(99, 4, 2)).sum().backward()
    gradient = critics.layers[0].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert gradient.ne(0).any(-1).all()


def test_renormed_values_follow_the_running_statistics_up_to_a_bound() -> None:
    # arXiv 1702.03275: normalised by the batch, times r, plus d; r and d bounded, without gradient.
    torch.manual_seed(0)
    critics = RenormCritics(3, 1, ())  # BatchRenorm of the inputs, then one linear layer
    observation, action = 2.0 * torch.randn(64, 3) + 1.0, torch.rand(64, 1)
    x = torch.cat([observation, action], 1)
    mean, std = x.mean(0), (x.var(0, unbiased=False) + critics.EPSILON).sqrt()
    statistics = critics.initial_statistics()
    statistics[0, :, 0] = 100.0  # so far off that d is at its bound
    statistics[1, :, 1] = 1e4  # so wide that r is
    running_std = (statistics[1, 0] + critics.EPSILON).sqrt()
    r = (std / running_std).clamp(1 / 3, 3.0)
    d = ((mean - statistics[0, 0]) / running_std).clamp(-5.0, 5.0)
    assert d[0] == -5.0 and r[1] == pytest.approx(1 / 3)
    layer = critics.layers[0]
    expected = torch.bmm(((x - mean) / std * r + d).expand(2, -1, -1), layer.weight) + layer.bias
    values, moved = critics.train_values(observation, action, statistics)
    torch.testing.assert_close(values, expected.squeeze(-1))
    torch.testing.assert_close(moved[0, 1], 0.99 * statistics[0, 1] + 0.01 * mean)
    torch.testing.assert_close(moved[1, 1], 0.99 * statistics[1, 1] + 0.01 * x.var(0, correction=0))


def test_renormed_values_become_those_of_acting_once_the_statistics_are_known() -> None:
    torch.manual_seed(0)
    critics = RenormCritics(3, 1, (16, 16))
    observation, action = 2.0 * torch.randn(256, 3) + 1.0, torch.rand(256, 1)
    statistics = critics.initial_statistics()
    before = (critics.train_values(observation, action, statistics)[0]).detach()
    assert (before - critics(observation, action, statistics)).abs().max() > 0.1
    for _ in range(1500):
        values, statistics = critics.train_values(observation, action, statistics)
    torch.testing.assert_close(values, critics(observation, action, statistics))
