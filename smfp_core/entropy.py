# SPDX-License-Identifier: Apache-2.0
"""Log densities of a stochastic MeanFlow policy, from which its entropy is estimated.

The policy draws e ~ N(0, I) and then a ~ N(mu(s, e), sigma(s)^2): a semi-implicit mixture.
``E[-log p]`` over the policy's own draws is, for both densities below, a lower bound of the
policy's entropy; K = 1 makes the marginal one the conditional one, and it tightens with K.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def conditional_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; mu(s, e), sigma(s)) under the draw e that made the action.

    Args:
        action: [..., n_act].
        mean: [..., n_act].
        log_std: broadcastable to them.

    Returns:
        [...].
    """
    scaled = (action - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - _LOG_SQRT_2PI).sum(-1)


def marginal_log_prob(action: Tensor, means: Tensor, log_std: Tensor) -> Tensor:
    """log (1/K) sum_k N(a; mu(s, e_k), sigma(s)), the draw that made the action among the K.

    Args:
        action: [B, J, n_act].
        means: [B, K, n_act].
        log_std: [B, n_act].

    Returns:
        [B, J].
    """
    pairs = conditional_log_prob(
        action.unsqueeze(-2), means.unsqueeze(-3), log_std[:, None, None, :]
    )
    return torch.logsumexp(pairs, -1) - math.log(means.shape[-2])


def gaussian_entropy(std: float, dimensions: int) -> float:
    """Entropy (nats) of a Gaussian with this standard deviation in every dimension."""
    return dimensions * (math.log(std) + _LOG_SQRT_2PI + 0.5)
