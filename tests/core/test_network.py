# SPDX-License-Identifier: Apache-2.0
"""The optimiser step on a vector."""

from __future__ import annotations

import pytest
import torch

from smfp_core.network import adam, adam_slots


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_adam_is_that_of_torch(momentum: float) -> None:
    start = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64)
    gradients = torch.randn(300, 7, dtype=start.dtype, generator=torch.Generator().manual_seed(0))
    state = {"vector": start.clone(), **adam_slots("vector", start)}
    parameter = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([parameter], lr=0.01, betas=(momentum, 0.999))
    for gradient in gradients:
        parameter.grad = gradient
        optimiser.step()
        state |= adam(state, "vector", gradient, 0.01, momentum)
    assert torch.allclose(state["vector"], parameter.detach(), rtol=0, atol=1e-10)


def test_adam_on_several_vectors_is_that_on_each() -> None:
    several = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    def after(vectors: torch.Tensor) -> torch.Tensor:
        state = {"vector": vectors, **adam_slots("vector", vectors)}
        step = torch.func.vmap(lambda s: adam(s, "vector", s["vector"].square(), 0.01))
        for _ in range(3):
            state |= step(state)
        return state["vector"]

    together = after(several)
    assert torch.equal(together, torch.cat([after(one[None]) for one in several]))
