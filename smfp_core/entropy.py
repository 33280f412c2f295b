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


def marginal_log_prob(
    action: Tensor, means: Tensor, log_std: Tensor, own_weight: float = 1.0
) -> Tensor:
    """log (1/K) sum_k N(a; mu(s, e_k), sigma(s)), the draw that made the action among the K.

    An action lies close to the draw that made it, so that few draws overrate the density, most of
    all where the policy seldom goes. An ``own_weight`` c below 1 takes that back: the own draw
    counts c among K - 1 + c. It is no bound any more.

    Args:
        action: [B, J, n_act].
        means: [B, K, n_act]; where ``own_weight`` is not 1, the first J made the J actions.
        log_std: [B, n_act].
        own_weight: in (0, 1]; 1 gives a lower bound of the entropy.

    Returns:
        [B, J].
    """
    pairs = conditional_log_prob(
        action.unsqueeze(-2), means.unsqueeze(-3), log_std[:, None, None, :]
    )
    j, k = pairs.shape[-2:]
    if own_weight != 1.0:
        pairs = pairs + math.log(own_weight) * torch.eye(
            j, k, dtype=pairs.dtype, device=pairs.device
        )
    return torch.logsumexp(pairs, -1) - math.log(k - 1 + own_weight)


def gaussian_entropy(std: float, dimensions: int) -> float:
    """Entropy (nats) of a Gaussian with this standard deviation in every dimension."""
    return dimensions * (math.log(std) + _LOG_SQRT_2PI + 0.5)
