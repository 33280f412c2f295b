# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from smfp_core.mirror_descent import effective_sample_size, mirror_weights


def test_boltzmann_policy_is_the_fixed_point():
    # log pi = Q / alpha - log Z: every candidate weighs the same, whatever the step.
    q = torch.randn(50, 8, dtype=torch.float64)
    log_prob = q / 0.3 - 1.7
    weights, _ = mirror_weights(q, log_prob, alpha=0.3, step=0.5)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 8))


def test_weights_move_a_policy_to_the_closed_form_step():
    # pi_{k+1} ~ pi_k^(beta/(alpha+beta)) exp(Q/(alpha+beta)) on a finite set of actions.
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    log_prob = torch.log_softmax(torch.randn(1, 6, generator=generator, dtype=torch.float64), -1)
    alpha = 0.2
    weights, beta = mirror_weights(q, log_prob, alpha, step=1.0)
    stepped = weights * log_prob.exp()
    expected = (beta * log_prob + q) / (alpha + beta)
    torch.testing.assert_close(stepped / stepped.sum(), torch.softmax(expected, -1))


def test_repeated_steps_converge_to_the_boltzmann_policy_and_keep_every_mode():
    q = torch.tensor([[1.0, 0.9, -1.0, 0.5]], dtype=torch.float64)
    log_prob = torch.full_like(q, 0.25).log()
    for _ in range(300):
        weights, _ = mirror_weights(q, log_prob, alpha=0.4, step=2.0)
        log_prob = torch.log_softmax(weights.log() + log_prob, -1)
    torch.testing.assert_close(log_prob.exp(), torch.softmax(q / 0.4, -1), rtol=0, atol=1e-3)


def test_step_size_does_not_depend_on_the_scale_of_q():
    q = torch.randn(20, 8, dtype=torch.float64)
    log_prob = torch.zeros_like(q)
    small, _ = mirror_weights(q, log_prob, alpha=1e-6, step=1.0)
    large, _ = mirror_weights(1000 * q, log_prob, alpha=1e-6, step=1.0)
    torch.testing.assert_close(small, large)


def test_beta_is_never_negative():
    q = torch.zeros(4, 8)
    _, beta = mirror_weights(q, torch.zeros_like(q), alpha=0.5, step=1.0)
    assert beta >= 0


@pytest.mark.parametrize(("weights", "size"), [([1.0, 0, 0, 0], 1.0), ([0.25] * 4, 4.0)])
def test_effective_sample_size(weights: list[float], size: float):
    assert effective_sample_size(torch.tensor([weights])).item() == pytest.approx(size)
