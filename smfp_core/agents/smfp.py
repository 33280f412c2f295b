# SPDX-License-Identifier: Apache-2.0
"""Stochastic MeanFlow Policies, trained off-policy by entropic mirror descent.

One update, top to bottom in ``SmfpAgent.update``:

    critics      y = R + bootstrap (min_i Q'_i(s', a') - alpha log pi(a'|s'))
    actor        L = L_SAC + lambda L_Mirror + bound penalty
    temperature  alpha moves the policy's entropy to its target

R is the discounted reward over the transition's steps; bootstrap the discount to their number, and
0 after a termination. Truncation by a time limit is bootstrapped.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smfp_core.checkpoint import under
from smfp_core.config import TrainConfig
from smfp_core.critics import Critics
from smfp_core.entropy import conditional_log_prob, gaussian_entropy, marginal_log_prob
from smfp_core.meanflow import MeanFlowActor, meanflow_loss
from smfp_core.mirror_descent import effective_sample_size, mirror_weights
from smfp_core.normalizer import ObservationNormalizer
from smfp_core.replay import Batch


class SmfpAgent:
    """Actor, previous actor, critics, temperature and their optimisers.

    Not thread safe. All randomness comes from ``generator``, so that a restored agent goes on
    with the same numbers.
    """

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int) -> None:
        self.config, self.n_act = config, n_act
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.actor = MeanFlowActor(n_obs, n_act, config.actor_hidden)
            self.critics = Critics(n_obs, n_act, config.critic_hidden)
        self.previous_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.normalizer = ObservationNormalizer(n_obs)
        self.log_alpha = nn.Parameter(torch.tensor(config.initial_temperature).log())
        self.q_scale = torch.zeros(())  # running mean of |Q|; 0 until the first update
        self.target_entropy = gaussian_entropy(config.target_std, n_act)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.actor_optimizer = torch.optim.Adam(
            self.actor.parameters(), lr=config.actor_learning_rate, fused=True
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critics.parameters(), lr=config.critic_learning_rate, fused=True
        )
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_alpha], lr=config.temperature_learning_rate, fused=True
        )

    # --- acting -----------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Action [n_act] for collecting: of ``act_candidates`` draws the best by Q."""
        normal = self.normalizer(torch.from_numpy(observation)).unsqueeze(0)
        actions, _, _ = self._draw(self.actor, normal, self.config.act_candidates)
        actions = actions.clamp(-1.0, 1.0)
        best = self.critics.least(normal, actions).argmax(-1)
        return actions[0, int(best)].numpy()

    @torch.no_grad()
    def sample(
        self, observation: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The deployed one-step sample: clip(g(s, e, 1)) [n_act] for given noise e [n_act]."""
        normal = self.normalizer(torch.from_numpy(observation)).unsqueeze(0)
        mean = self.actor.mean(normal, torch.from_numpy(noise)[None, None])
        return mean[0, 0].clamp(-1.0, 1.0).numpy()

    # --- learning ---------------------------------------------------------------------------

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of critics, actor and temperature; returns scalars to log."""
        config, alpha = self.config, self.log_alpha.detach().exp()
        observation = self.normalizer(batch.observation)
        next_observation = self.normalizer(batch.next_observation)

        # Critics: the next action is the best of K_t = act_candidates / 2 draws.
        with torch.no_grad():
            next_actions, next_means, next_log_std = self._draw(
                self.actor, next_observation, config.act_candidates // 2
            )
            next_log_prob = self._log_prob(next_actions, next_means, next_log_std)
            next_q = self.target_critics.least(next_observation, next_actions.clamp(-1, 1))
            best = next_q.argmax(-1, keepdim=True)
            soft_value = (next_q - alpha * next_log_prob).gather(-1, best).squeeze(-1)
            td_target = batch.reward + batch.bootstrap * soft_value
        q = self.critics(observation, batch.action)
        critic_loss = (q - td_target).square().mean(-1).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimizer.step()
        _move_towards(self.target_critics, self.critics, config.target_rate)

        # L_SAC = alpha log pi(a|s) - Q(s, a), pathwise, in units of the running |Q|.
        self.critics.requires_grad_(False)
        means = self.actor.mean(observation, self._normal(len(observation), config.loss_candidates))
        log_std = self.actor.log_std(observation)
        action = means[:, :1] + log_std.exp().unsqueeze(1) * self._normal(len(observation), 1)
        log_prob = self._log_prob(action, means, log_std)
        value = self.critics.least(observation, action.clamp(-1, 1))
        mean_abs_q = value.detach().abs().mean()
        self.q_scale = (
            mean_abs_q if self.q_scale == 0 else torch.lerp(self.q_scale, mean_abs_q, 0.005)
        )
        sac_loss = (alpha * log_prob - value).mean() / self.q_scale.clamp_min(1e-3)

        # L_Mirror: MeanFlow regression onto candidates of pi_k, resampled by their weights.
        with torch.no_grad():
            candidates, previous_means, previous_log_std = self._draw(
                self.previous_actor, observation, config.loss_candidates
            )
            previous_log_prob = self._log_prob(candidates, previous_means, previous_log_std)
            candidates = candidates.clamp(-1, 1)
            weights, beta = mirror_weights(
                self.critics.least(observation, candidates),
                previous_log_prob,
                alpha,
                config.mirror_step,
            )
            chosen = torch.multinomial(weights, 1, generator=self.generator)
            target = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.n_act))
        time = torch.rand(len(observation), 1, 1, generator=self.generator)
        mirror_loss = meanflow_loss(
            self.actor, observation, target, self._normal(len(observation), 1), time
        )

        outside = (means.abs() - 1.0).clamp_min(0.0)
        bound_loss = outside.square().sum(-1).mean()
        actor_loss = (
            sac_loss + config.mirror_weight * mirror_loss + config.bound_penalty * bound_loss
        )
        self.actor_optimizer.zero_grad(set_to_none=True)
        actor_loss.backward()
        self.actor_optimizer.step()
        self.critics.requires_grad_(True)
        _move_towards(self.previous_actor, self.actor, config.previous_rate)

        # Temperature: alpha rises while the entropy is below its target.
        entropy = -log_prob.detach().mean()
        temperature_loss = self.log_alpha.exp() * (entropy - self.target_entropy)
        self.temperature_optimizer.zero_grad(set_to_none=True)
        temperature_loss.backward()
        self.temperature_optimizer.step()

        return {
            "critic_loss": critic_loss.detach(),
            "sac_loss": sac_loss.detach(),
            "mirror_loss": mirror_loss.detach(),
            "bound_loss": bound_loss.detach(),
            "q_mean": value.detach().mean(),
            "q_scale": self.q_scale,
            "alpha": alpha,
            "beta": beta,
            "entropy": entropy,
            "log_std": log_std.detach().mean(),
            "mean_spread": means.detach().std(1).mean() if means.shape[1] > 1 else means.sum() * 0,
            "effective_samples": effective_sample_size(weights).mean(),
            "clipped_share": (action.detach().abs() > 1).float().mean(),
        }

    def _normal(self, rows: int, draws: int) -> Tensor:
        return torch.randn(rows, draws, self.n_act, generator=self.generator)

    def _draw(
        self, actor: MeanFlowActor, observation: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions a = mu + sigma eps [B, count, n_act], their means, and log sigma."""
        means = actor.mean(observation, self._normal(len(observation), count))
        log_std = actor.log_std(observation)
        actions = means + log_std.exp().unsqueeze(1) * self._normal(len(observation), count)
        return actions, means, log_std

    def _log_prob(self, actions: Tensor, means: Tensor, log_std: Tensor) -> Tensor:
        """log pi [B, J]; the first J of the means made the J actions."""
        if self.config.entropy == "marginal":
            return marginal_log_prob(actions, means, log_std)
        own = means[:, : actions.shape[1]]
        return conditional_log_prob(actions, own, log_std.unsqueeze(1))

    # --- checkpoints ------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Every tensor that decides what comes next, by name."""
        tensors = {"log_alpha": self.log_alpha.detach(), "q_scale": self.q_scale}
        tensors["generator"] = self.generator.get_state()
        for name, module in self._modules().items():
            tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in slots.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave.

        Raises:
            RuntimeError: tensors are missing or of other shapes (another configuration).
        """
        with torch.no_grad():
            self.log_alpha.copy_(tensors["log_alpha"])
        self.q_scale = tensors["q_scale"].clone()
        self.generator.set_state(tensors["generator"])
        for name, module in self._modules().items():
            module.load_state_dict(under(tensors, name))
        for name, optimizer in self._optimizers().items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in under(tensors, name).items():
                index, _, slot = key.partition(".")
                slots.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "actor": self.actor,
            "previous_actor": self.previous_actor,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "normalizer": self.normalizer,
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "temperature_optimizer": self.temperature_optimizer,
        }


@torch.no_grad()
def _move_towards(target: nn.Module, source: nn.Module, rate: float) -> None:
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, rate)
