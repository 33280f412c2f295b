# SPDX-License-Identifier: Apache-2.0
"""The actor's objective, as one pure function.

    L = (L_SAC + lambda (alpha + beta) L_Mirror) / |Q| + bound penalty

As ``E_pi[Q] + alpha H(pi) - beta KL(pi || pi_k)`` is ``-(alpha + beta) KL(pi || pi_k+1)`` plus a
constant, alpha + beta is the unit in which a step towards pi_k+1 weighs as much as L_SAC does.

All randomness comes in as ``ActorNoise`` and nothing depends on values in Python, so that the
function can be repeated, differentiated with ``torch.func``, vectorised and compiled as one graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smfp_core.critics import ActionValue
from smfp_core.entropy import conditional_log_prob, marginal_log_prob
from smfp_core.meanflow import FlowPolicy, mean_velocity, meanflow_loss
from smfp_core.mirror_descent import effective_sample_size, mirror_weights

Q_SCALE_RATE = 0.005


@dataclass(frozen=True)
class ActorOptions:
    """What the objective is made of."""

    entropy: Literal["marginal", "conditional"] = "marginal"
    """Density that stands for log pi; ``conditional`` lets separated modes collapse."""
    mirror: bool = True
    """Whether L_Mirror is part of it."""
    candidates: int = 4
    """K: noise draws in the entropy estimate and candidates of the mirror step."""
    density_draws: int = 0
    """Draws of pi_k that estimate the candidates' density, where more than ``candidates``: only
    their means are computed, without gradient."""
    own_weight: float = 1.0
    """Weight of an action's own draw in its density, see ``marginal_log_prob``."""
    actions: int = 1
    """Of the actor's K draws, how many L_SAC is taken at."""
    paths: int = 1
    """Paths of the regression in each state, their candidates drawn by stratified resampling."""
    mean_velocity: bool = False
    """Whether the regression takes the expected velocity, see ``meanflow.mean_velocity``."""
    weight_power: float = 0.2
    """Power of the regression's weight; 0 for the plain square."""
    mirror_weight: float = 3.0
    """lambda: weight of L_Mirror in the unit alpha + beta, as L_SAC is in that of Q."""
    mirror_step: float = 1.0
    """alpha + beta in units of the candidates' spread in Q - alpha log pi."""
    bound_penalty: float = 1.0
    """Weight of the penalty on mean actions outside the box."""


class ActorNoise(NamedTuple):
    """All random numbers of one evaluation, for a batch of B states; normal unless said."""

    mean: Tensor
    """e of the actor's K draws, [B, K, n_act]."""
    action: Tensor
    """eps of the actions that L_SAC is taken at, [B, actions, n_act]."""
    candidate_mean: Tensor
    """e of the previous actor's draws, the K candidates first, [B, density draws, n_act]."""
    candidate: Tensor
    """eps of the candidates, [B, K, n_act]."""
    choice: Tensor
    """Which candidates are regressed on, uniform in [0, 1), [B, 1]."""
    flow: Tensor
    """e at the far end of the regression's paths, [B, paths, n_act]."""
    time: Tensor
    """t on those paths, uniform in [0, 1), [B, paths, 1]."""

    @classmethod
    def draw(
        cls,
        batch: int,
        n_act: int,
        options: ActorOptions,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> ActorNoise:
        """Fresh numbers for one evaluation, always in the same order."""

        def normal(draws: int) -> Tensor:
            return torch.randn(batch, draws, n_act, generator=generator, device=device)

        k, paths = options.candidates, options.paths
        return cls(
            mean=normal(k),
            action=normal(options.actions),
            candidate_mean=normal(max(k, options.density_draws)),
            candidate=normal(k),
            choice=torch.rand(batch, 1, generator=generator, device=device),
            flow=normal(paths),
            time=torch.rand(batch, paths, 1, generator=generator, device=device),
        )


class Proposals(NamedTuple):
    """K candidates of pi_k in each of B states and how they are rated; nothing has a gradient."""

    observation: Tensor
    """The states, [B, n_obs], normalised."""
    actions: Tensor
    """x_j in the box, [B, K, n_act]."""
    log_prob: Tensor
    """log pi_k(x_j|s), [B, K]."""
    q: Tensor
    """Q(s, x_j), [B, K]."""
    means: Tensor
    """mu_j in the box, of which x_j = mu_j + sigma eps was made, [B, K, n_act]."""


@torch.no_grad()
def propose(
    previous: FlowPolicy,
    observation: Tensor,
    q_of: ActionValue,
    noise: ActorNoise,
    options: ActorOptions,
) -> Proposals:
    """Candidates of pi_k = ``previous`` at observations [B, n_obs], rated by ``q_of``."""
    means = previous.mean(observation, noise.candidate_mean)
    log_std = previous.log_std(observation)
    actions = means[:, : options.candidates] + log_std.exp().unsqueeze(1) * noise.candidate
    log_prob = policy_log_prob(actions, means, log_std, options)
    actions = actions.clamp(-1, 1)
    made_of = means[:, : options.candidates].clamp(-1, 1)
    return Proposals(observation, actions, log_prob, q_of(observation, actions), made_of)


def policy_log_prob(
    actions: Tensor, means: Tensor, log_std: Tensor, options: ActorOptions
) -> Tensor:
    """log pi of actions [B, J, n_act], [B, J]; the first J of the K means made them.

    Args:
        actions: [B, J, n_act].
        means: [B, K, n_act], K >= J.
        log_std: [B, n_act].
        options: which density stands for log pi, and the own draw's weight in it.
    """
    if options.entropy == "marginal":
        return marginal_log_prob(actions, means, log_std, options.own_weight)
    return conditional_log_prob(actions, means[:, : actions.shape[1]], log_std.unsqueeze(1))


def pathwise_log_prob(
    actions: Tensor, means: Tensor, log_std: Tensor, options: ActorOptions
) -> Tensor:
    """``policy_log_prob`` with an expected gradient that needs only the means of these actions.

    A gradient of log pi(a) has a part along a, and the score: that of the parameters with a held
    fixed, whose mean over draws of the density is 0. Given the K means, a is a draw of their
    mixture; given its own mean, of that Gaussian. So the mixture's score, which would run through
    all K means, is left out, and the own Gaussian's is put in, as it cancels most of what the part
    along a varies by. Compare "Sticking the Landing", arXiv 1703.09194. For the conditional density
    this is the whole gradient.

    Args and returns as of ``policy_log_prob``.
    """
    along = policy_log_prob(actions, means.detach(), log_std.detach(), options)
    own = means[:, : actions.shape[1]]
    score = conditional_log_prob(actions.detach(), own, log_std.unsqueeze(1))
    return along + score - score.detach()


def actor_objective(
    actor: FlowPolicy,
    proposals: Proposals,
    observation: Tensor,
    q_of: ActionValue,
    alpha: Tensor | float,
    q_scale: Tensor,
    noise: ActorNoise,
    options: ActorOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the actor's parameters, and what to watch.

    Args:
        actor: the policy in training.
        proposals: ``propose`` of pi_k, a moving average of the actor: what L_Mirror regresses on,
            in states of their own.
        observation: [B, n_obs], normalised: the states of L_SAC.
        q_of: Q, differentiable in the actions.
        alpha: temperature.
        q_scale: running mean of |Q|, scalar; 0 before the first evaluation.
        noise: ``ActorNoise.draw`` of this batch.
        options: what the loss is made of.

    Returns:
        The loss (scalar) and detached scalars by name; ``log_prob`` is what the temperature
        needs, ``q_scale`` the running mean to hand in next time.
    """
    # L_SAC = alpha log pi(a|s) - Q(s, a), pathwise, in units of the running |Q|.
    own = means = actor.mean(observation, noise.mean[:, : options.actions])
    if options.actions < options.candidates:  # the draws that only tell the density
        with torch.no_grad():
            others = actor.mean(observation, noise.mean[:, options.actions :])
        means = torch.cat([own, others], 1)
    log_std = actor.log_std(observation)
    action = own + log_std.exp().unsqueeze(1) * noise.action
    log_prob = pathwise_log_prob(action, means, log_std, options)
    value = q_of(observation, action.clamp(-1, 1))
    with torch.no_grad():
        size = value.abs().mean()
        scale = torch.where(q_scale > 0, torch.lerp(q_scale, size, Q_SCALE_RATE), size)
        divisor = scale.clamp_min(1e-3)
    sac_loss = (alpha * log_prob - value).mean() / divisor

    outside = (own.abs() - 1.0).clamp_min(0.0)
    bound_loss = outside.square().sum(-1).mean()
    loss = sac_loss + options.bound_penalty * bound_loss
    metrics = {
        "sac_loss": sac_loss,
        "bound_loss": bound_loss,
        "q_mean": value.mean(),
        "q_scale": scale,
        "log_prob": log_prob.mean(),
        "log_std": log_std.mean(),
        # Unbiased, as two draws lie as far apart as eight.
        "mean_spread": means.var(1, unbiased=means.shape[1] > 1).mean().sqrt(),
        "clipped_share": (action.abs() > 1).to(action.dtype).mean(),
    }

    if options.mirror:
        mirror_loss, watched = _mirror(actor, proposals, alpha, noise, options)
        unit = (alpha + watched["beta"]) / divisor
        loss = loss + options.mirror_weight * unit * mirror_loss
        metrics |= watched
    return loss, {name: value.detach() for name, value in metrics.items()}


def _mirror(
    actor: FlowPolicy,
    proposals: Proposals,
    alpha: Tensor | float,
    noise: ActorNoise,
    options: ActorOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_Mirror: MeanFlow regression onto candidates of pi_k, resampled by their weights.

    Onto their means: acting adds sigma's noise, and what is learned with it would have it twice.
    """
    observation, _, log_prob, q, means = proposals
    with torch.no_grad():
        weights, beta = mirror_weights(q, log_prob, alpha, options.mirror_step)
        # Inverse of the cumulative weights at evenly spaced levels; the last weight may fall
        # short of 1 by rounding.
        steps = torch.arange(options.paths, device=weights.device)
        levels = (steps + noise.choice) / options.paths
        chosen = (weights.cumsum(-1).unsqueeze(-2) < levels.unsqueeze(-1)).sum(-1)
        chosen = chosen.clamp_max(weights.shape[-1] - 1)
        target = torch.take_along_dim(means, chosen.unsqueeze(-1), 1)
        velocity = noise.flow - target
        if options.mean_velocity:
            path = (1 - noise.time) * target + noise.time * noise.flow
            velocity = mean_velocity(path, noise.time, means, weights)
    loss = meanflow_loss(
        actor,
        observation,
        target,
        noise.flow,
        noise.time,
        velocity=velocity,
        weight_power=options.weight_power,
    )
    return loss, {
        "mirror_loss": loss,
        "beta": beta,
        "effective_samples": effective_sample_size(weights).mean(),
    }
