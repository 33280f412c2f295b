# SPDX-License-Identifier: Apache-2.0
"""The entropic mirror-descent step, by weighted candidates.

``max_pi E[Q] + alpha H(pi) - beta KL(pi || pi_k)`` has the solution
``pi_{k+1} ~ pi_k^(beta/(alpha+beta)) exp(Q/(alpha+beta))``. Candidates x_j ~ pi_k therefore get
the weights ``softmax_j((Q(s, x_j) - alpha log pi_k(x_j|s)) / (alpha + beta))``: importance
weights of pi_{k+1} against pi_k. For every beta the fixed point is ``exp(Q/alpha)``; without the
log pi_k term it would be the greedy action, and all modes but one would die.

What made a candidate, its mean before the noise, is what the next policy takes over: it adds noise
of its own. At the fixed point all weights are equal, and the means' distribution stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirror_weights(
    q: Tensor, log_prob: Tensor, alpha: Tensor | float, step: float
) -> tuple[Tensor, Tensor]:
    """Weights of the candidates of each state.

    alpha + beta is ``step`` times the batch's mean spread of the exponent among a state's
    candidates, and at least alpha (beta >= 0): one step size serves any scale of Q, and as beta
    is common to all states the fixed point stays as it is.

    Args:
        q: Q(s, x_j), [B, J].
        log_prob: log pi_k(x_j|s), [B, J].
        alpha: temperature.
        step: size of alpha + beta in units of the spread; smaller is greedier.

    Returns:
        weights [B, J] that sum to 1 over J, and beta (scalar).
    """
    exponent = q - alpha * log_prob
    spread = exponent.std(-1, unbiased=False).mean()
    total = torch.maximum(step * spread, torch.as_tensor(alpha, dtype=q.dtype, device=q.device))
    total = total.clamp_min(1e-8)
    return torch.softmax(exponent / total, -1), total - alpha


def effective_sample_size(weights: Tensor) -> Tensor:
    """1 / sum_j w_j^2 of each state, [B]: between 1 (one candidate takes all) and J."""
    return 1.0 / weights.square().sum(-1)
