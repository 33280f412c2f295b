# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import pytest
import torch

from smfp_core.meanflow import LOG_STD_MAX, LOG_STD_MIN, MeanFlowActor, mean_velocity, meanflow_loss


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
    # Actions in the box: short of where the loss clips its own targets.
    observation, target, noise = draw(6, 5), draw(6, 1, 3).clamp(-1, 1), draw(6, 1, 3)
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
    assert log_std.min() >= LOG_STD_MIN - 1e-6
    assert log_std.max() <= LOG_STD_MAX + 1e-6


@dataclass
class ClosedFormFlow:
    """The exact residual map of a flow from N(0, 1) to a target on the line.

    On the line the flow keeps quantiles: the action a_0 that a point z at time t comes from has
    the same cumulative probability. g = z - (z - a_0) / t; its derivative along the path is a
    central difference of that map alone, so the identity is not used to build it.
    """

    weights: torch.Tensor
    means: torch.Tensor
    std: float

    def scale(self, t: torch.Tensor) -> torch.Tensor:
        return ((1 - t).square() * self.std**2 + t.square()).sqrt()

    def cdf(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        scaled = (z - (1 - t) * self.means) / self.scale(t)
        return (self.weights * torch.special.ndtr(scaled)).sum(-1, keepdim=True)

    def origin(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = self.cdf(z, t)
        low, high = torch.full_like(z, -20.0), torch.full_like(z, 20.0)
        for _ in range(60):  # bisection to the last bit
            middle = 0.5 * (low + high)
            below = self.cdf(middle, torch.zeros_like(t)) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def posterior(self, z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """E[x | a_t = z] and E[e | a_t = z]: their difference is the flow's velocity."""
        rest = z - (1 - t) * self.means
        share = torch.softmax(self.weights.log() - 0.5 * (rest / self.scale(t)).square(), -1)
        gain = rest / self.scale(t).square()
        action = self.means + (1 - t) * self.std**2 * gain
        return (share * action).sum(-1, keepdim=True), (share * t * gain).sum(-1, keepdim=True)

    def mean(self, observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.origin(noise, torch.ones_like(noise))

    def log_std(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.full((len(observation), 1), -5.0)

    def with_tangent(
        self,
        observation: torch.Tensor,
        z: torch.Tensor,
        t: torch.Tensor,
        z_tangent: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def g(step: float) -> torch.Tensor:
            moved, later = z + step * z_tangent, t + step
            return moved - (moved - self.origin(moved, later)) / later

        return g(0.0), (g(1e-5) - g(-1e-5)) / 2e-5


GAUSSIAN = ClosedFormFlow(torch.tensor([1.0]).double(), torch.tensor([0.4]).double(), 0.3)
MIXTURE = ClosedFormFlow(
    torch.tensor([0.3, 0.7]).double(), torch.tensor([-0.6, 0.6]).double(), 0.15
)


@pytest.mark.parametrize("flow", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_exact_flow_has_no_loss(flow: ClosedFormFlow):
    # Along the marginal velocity, reached by posterior means, the identity holds to the last digit.
    torch.manual_seed(0)
    t = 0.05 + 0.95 * torch.rand(300, 1, 1, dtype=torch.float64)
    z = (1 - t) * flow.mean(torch.zeros(300, 1), draw(300, 1, 1)) + t * draw(300, 1, 1)
    target, noise = flow.posterior(z, t)
    observation = torch.zeros(300, 1)
    assert meanflow_loss(flow, observation, target, noise, t) < 1e-8
    # It does not hold for another flow's velocity.
    other = ClosedFormFlow(flow.weights, flow.means + 0.1, flow.std)
    target, noise = other.posterior(z, t)
    assert meanflow_loss(flow, observation, target, noise, t) > 1e-3


def test_exact_flow_takes_noise_to_the_target():
    samples = MIXTURE.mean(torch.zeros(1, 1), draw(1, 20_000, 1)).flatten()
    assert abs((samples > 0).double().mean() - 0.7) < 0.01


def test_mean_velocity_is_the_expectation_over_the_candidates():
    torch.manual_seed(0)
    t = 0.3 + 0.7 * torch.rand(40, 1, 1, dtype=torch.float64)
    path = (1 - t) * MIXTURE.mean(torch.zeros(40, 1), draw(40, 1, 1)) + t * draw(40, 1, 1)
    # One candidate leaves no choice: v = e - x with the noise that leads through the point.
    x = draw(40, 1, 1)
    only = mean_velocity(path, t, x, torch.ones(40, 1, dtype=torch.float64))
    torch.testing.assert_close(only, (path - (1 - t) * x) / t - x)
    # Many candidates of the mixture: the closed form of the flow's velocity.
    candidates = MIXTURE.mean(torch.zeros(1, 1), draw(1, 20_000, 1)).expand(40, -1, -1)
    weights = torch.full((40, 20_000), 1 / 20_000, dtype=torch.float64)
    action, noise = MIXTURE.posterior(path, t)
    velocity = mean_velocity(path, t, candidates, weights)
    torch.testing.assert_close(velocity, noise - action, rtol=0, atol=0.1)
    assert (velocity - noise + action).abs().mean() < 0.02


def sliced_wasserstein(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest Wasserstein-1 distance of two samples [N, n] over directions in the plane."""
    angles = torch.linspace(0, torch.pi, 17)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()])[: a.shape[1]]
    if a.shape[1] == 1:
        directions = torch.ones(1, 1)
    first, second = (a @ directions).sort(0).values, (b @ directions).sort(0).values
    return (first - second).abs().mean(0).max().item()


@pytest.mark.parametrize(
    ("weights", "means", "std", "bound"),
    [
        ([1.0], [[0.4]], 0.3, 0.06),
        ([0.3, 0.7], [[-0.6], [0.6]], 0.1, 0.12),
        ([1.0], [[0.4, -0.2]], 0.3, 0.06),
        ([0.4, 0.6], [[-0.5, -0.5], [0.5, 0.5]], 0.15, 0.15),
    ],
    ids=["gaussian-1d", "mixture-1d", "gaussian-2d", "mixture-2d"],
)
def test_one_step_samples_of_a_trained_map_match_their_target(
    weights: list[float], means: list[list[float]], std: float, bound: float
):
    # For scale: mass 0.1 too much in one of the modes of the last is a distance of 0.14 alone.
    torch.manual_seed(0)
    centres = torch.tensor(means)
    n = centres.shape[1]

    def of_target(count: int) -> torch.Tensor:
        chosen = torch.multinomial(torch.tensor(weights), count, replacement=True)
        return centres[chosen] + std * torch.randn(count, n)

    actor = MeanFlowActor(1, n, (32, 32))
    optimizer = torch.optim.Adam(actor.parameters(), lr=4e-3, fused=True)
    observation = torch.zeros(128, 1)
    for _ in range(1000):
        loss = meanflow_loss(
            actor,
            observation,
            of_target(128).unsqueeze(1),
            torch.randn(128, 1, n),
            torch.rand(128, 1, 1),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples = actor.mean(torch.zeros(1, 1), torch.randn(1, 4000, n))[0]
    assert sliced_wasserstein(samples, of_target(4000)) < bound
