# SPDX-License-Identifier: Apache-2.0
import torch

from smfp_core.meanflow import LOG_STD_MAX, LOG_STD_MIN, MeanFlowActor, meanflow_loss


def make_actor(seed: int = 0) -> MeanFlowActor:
    """Double precision, with an output layer as large as the others."""
    torch.manual_seed(seed)
    actor = MeanFlowActor(5, 3, (24, 16)).double()
    torch.nn.init.normal_(actor.out.weight, std=0.5)
    return actor


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_hand_carried_tangent_equals_forward_mode_autodiff():
    actor = make_actor()
    observation, z, tangent = draw(7, 5), draw(7, 2, 3), draw(7, 2, 3)
    t = torch.rand(7, 2, 1, dtype=torch.float64)
    value, derivative = actor.with_tangent(observation, z, t, tangent)
    expected, expected_derivative = torch.func.jvp(
        lambda z, t: actor(observation, z, t), (z, t), (tangent, torch.ones_like(t))
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(derivative, expected_derivative, rtol=0, atol=1e-12)


def test_loss_is_the_meanflow_identity_in_its_general_form():
    # u = v - t du/dt with u = a_t - g, differentiated by autodiff along the path itself.
    actor = make_actor()
    observation, target, noise = draw(6, 5), draw(6, 1, 3), draw(6, 1, 3)
    time = torch.rand(6, 1, 1, dtype=torch.float64)

    def average_velocity(t: torch.Tensor) -> torch.Tensor:
        path = (1 - t) * target + t * noise
        return path - actor(observation, path, t)

    u, du_dt = torch.func.jvp(average_velocity, (time,), (torch.ones_like(time),))
    residual = u - ((noise - target) - time * du_dt)
    d2 = residual.square().sum(-1)
    expected = (d2 * (d2 + 1e-4).pow(-0.2)).mean()
    torch.testing.assert_close(
        meanflow_loss(actor, observation, target, noise, time), expected, rtol=0, atol=1e-10
    )


def test_loss_gradient_holds_target_and_weight_constant():
    actor = make_actor()
    observation, target, noise = draw(6, 5), draw(6, 1, 3), draw(6, 1, 3)
    time = torch.rand(6, 1, 1, dtype=torch.float64)
    meanflow_loss(actor, observation, target, noise, time).backward()
    gradient = actor.hidden[0].weight.grad.clone()

    path, velocity = (1 - time) * target + time * noise, noise - target
    g, dg_dt = actor.with_tangent(observation, path, time, velocity)
    wanted = (path + (time - 1) * velocity - time * dg_dt).detach().clamp(-5, 5)
    weight = ((g - wanted).square().sum(-1) + 1e-4).pow(-0.2).detach()

    # Finite difference of the loss with target and weight frozen, along one direction.
    direction = torch.randn_like(actor.hidden[0].weight)

    def loss_at(step: float) -> torch.Tensor:
        with torch.no_grad():
            actor.hidden[0].weight.add_(step * direction)
            value = actor(observation, path, time)
            actor.hidden[0].weight.sub_(step * direction)
        return (weight * (value - wanted).square().sum(-1)).mean()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_policy_starts_as_its_noise():
    actor = MeanFlowActor(5, 3, (64, 64))
    noise = torch.randn(100, 4, 3)
    mean = actor.mean(torch.randn(100, 5), noise)
    assert (mean - noise).abs().max() < 0.2


def test_log_std_stays_within_its_bounds():
    actor = make_actor()
    log_std = actor.log_std(1e6 * draw(50, 5))
    assert log_std.min() >= LOG_STD_MIN
    assert log_std.max() <= LOG_STD_MAX


def test_one_step_samples_reproduce_a_two_mode_target():
    # Regression alone: targets -1 (weight 0.3) and +1 (weight 0.7), no observation to speak of.
    torch.manual_seed(0)
    actor = MeanFlowActor(1, 1, (64, 64))
    optimizer = torch.optim.Adam(actor.parameters(), lr=2e-3)
    observation = torch.zeros(512, 1)
    for _ in range(1500):
        target = torch.where(torch.rand(512, 1, 1) < 0.7, 1.0, -1.0)
        target = target + 0.05 * torch.randn_like(target)
        loss = meanflow_loss(
            actor, observation, target, torch.randn(512, 1, 1), torch.rand(512, 1, 1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples = actor.mean(torch.zeros(4000, 1), torch.randn(4000, 1, 1)).flatten()
    # The loss weight and the clipped target favour the larger mode: 0.10 measured, not a tie.
    assert abs((samples > 0).float().mean() - 0.7) < 0.15
    near = torch.minimum((samples - 1).abs(), (samples + 1).abs())
    assert (near < 0.4).float().mean() > 0.85
