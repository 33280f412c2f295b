# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from smfp_core.critics import Critics


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
