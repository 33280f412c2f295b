# SPDX-License-Identifier: Apache-2.0
"""Does a policy hold several optima? python -m smfp_core.demos.bandit --json results/bandit.json

A bandit in the plane with ``Q = alpha log p``, p a Gaussian mixture of known weights: the policy
of greatest ``E[Q] + alpha H`` is p itself, so that each optimum has a known mass. Four policies
learn from the same objective (``smfp_core.objective``) with this Q in the place of critics:

    smfp          marginal entropy, mirror descent
    conditional   the entropy given the noise in its place
    no-mirror     L_SAC alone
    gaussian      one mean and one standard deviation, without a flow

Mass is the share of actions within three standard deviations of an optimum. What lies between
optima counts for none. All seeds and problems of an agent are learned side by side, as one batch
of independent networks. ``--compile`` takes a C++ compiler and is several times faster.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from smfp_core.atomic import check_writable, write_atomically
from smfp_core.demos.bandit_report import Row, console_table, draw_figure, markdown
from smfp_core.meanflow import MeanFlowActor
from smfp_core.network import Network, Vectors, adam, adam_slots
from smfp_core.objective import ActorNoise, ActorOptions, actor_objective, propose
from smfp_core.process import set_up_training_process
from smfp_core.provenance import here
from smfp_core.strict import ConfigError, to_mapping

ALPHA = 0.1
RADIUS_IN_STD = 3.0


class Problem(NamedTuple):
    """A Gaussian mixture in the plane; all in units of the action box [-1, 1]^2."""

    centres: tuple[tuple[float, float], ...]
    weights: tuple[float, ...]
    std: float


PROBLEMS = {
    "two": Problem(((-0.5, -0.5), (0.5, 0.5)), (0.4, 0.6), 0.15),
    "three": Problem(((-0.6, -0.4), (0.6, -0.4), (0.0, 0.7)), (0.5, 0.3, 0.2), 0.15),
    "ring": Problem(
        tuple(
            (0.75 * math.cos(k * math.pi / 4), 0.75 * math.sin(k * math.pi / 4)) for k in range(8)
        ),
        (0.125,) * 8,
        0.1,
    ),
}

OPTIONS = ActorOptions(
    candidates=8,
    density_draws=32,
    own_weight=0.5,
    actions=8,
    paths=4,
    mean_velocity=True,
    weight_power=0.0,
)
AGENTS = {
    "smfp": OPTIONS,
    "conditional": dataclasses.replace(OPTIONS, entropy="conditional", density_draws=0),
    "no-mirror": dataclasses.replace(OPTIONS, mirror=False, density_draws=0),
    "gaussian": dataclasses.replace(OPTIONS, mirror=False, density_draws=0),
}


class GaussianPolicy(nn.Module):
    """One mean and one standard deviation: the noise e has no part in the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(0.1 * torch.randn(2))
        self.log_scale = nn.Parameter(torch.tensor([-1.0, -1.0]))

    def mean(self, observation: Tensor, noise: Tensor) -> Tensor:
        return self.centre.expand(noise.shape)

    def log_std(self, observation: Tensor) -> Tensor:
        return self.log_scale.expand(len(observation), 2)


@dataclass
class Arguments:
    """Train policies on bandits of several optima and count the mass at each."""

    json: Path
    """Where the rows go; the table (.md) and the figure (.png) are written beside."""
    agents: tuple[str, ...] = tuple(AGENTS)
    """Which of smfp, conditional, no-mirror, gaussian."""
    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Which of two, three, ring."""
    seeds: int = 5
    """Seeds of each agent on each problem."""
    updates: int = 20_000
    """Updates of each run; the masses are counted ten times in between."""
    quick: bool = False
    """Two seeds and 2,000 updates: minutes, and looser masses."""
    compile: bool = False
    """Compile the update (needs a C++ compiler)."""

    def __post_init__(self) -> None:
        for field, known in (("agents", AGENTS), ("problems", PROBLEMS)):
            names = getattr(self, field)
            if not names or not set(names) <= set(known):
                sys.exit(f"error: --{field}: one or more of {', '.join(known)}, got {names}")
        if self.quick:
            self.seeds, self.updates = 2, 2_000
        if self.seeds < 1 or self.updates < 10:
            sys.exit("error: --seeds must be at least 1 and --updates at least 10")


class Targets(NamedTuple):
    """Mixtures of N runs, padded to the most optima with weight 0."""

    centres: Tensor  # [N, M, 2]
    weights: Tensor  # [N, M]
    std: Tensor  # [N]

    @classmethod
    def of(cls, problems: list[Problem]) -> Targets:
        most = max(len(p.weights) for p in problems)
        centres, weights = (
            torch.full((len(problems), most, 2), 9.0),
            torch.zeros(len(problems), most),
        )
        for i, problem in enumerate(problems):
            count = len(problem.weights)
            centres[i, :count] = torch.tensor(problem.centres)
            weights[i, :count] = torch.tensor(problem.weights)
        return cls(centres, weights, torch.tensor([p.std for p in problems]))

    def log_prob(self, actions: Tensor) -> Tensor:
        """log p of actions [..., 2] under one run's mixture (no leading N)."""
        distance2 = (actions.unsqueeze(-2) - self.centres).square().sum(-1)
        terms = (self.weights + 1e-30).log() - 0.5 * distance2 / self.std.square()
        return torch.logsumexp(terms, -1) - 2 * self.std.log() - math.log(2 * math.pi)

    def mass(self, actions: Tensor) -> Tensor:
        """Share of actions [N, S, 2] near each optimum, [N, M]."""
        distance = (actions.unsqueeze(2) - self.centres.unsqueeze(1)).norm(dim=-1)
        return (distance < RADIUS_IN_STD * self.std.view(-1, 1, 1)).float().mean(1)


def train(
    agent: str,
    problems: list[Problem],
    seeds: list[int],
    updates: int,
    *,
    rows: int = 16,
    hidden: tuple[int, ...] = (64, 64),
    learning_rate: float = 1e-3,
    previous_rate: float = 0.005,
    counts: int = 10,
    compiled: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Train one agent on each problem with the seed beside it, all at once.

    Yields:
        Updates made, and the masses [N, most optima] then; ``counts`` times.
    """
    options, targets = AGENTS[agent], Targets.of(problems)
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(Network(_policy(agent, hidden)))
    network, actor = networks[0], torch.stack([n.vector for n in networks])
    state: Vectors = {"actor": actor, "previous": actor.clone(), "q_scale": torch.zeros(len(seeds))}
    state |= adam_slots("actor", actor)
    observation = torch.zeros(rows, 1)

    def learn(state: Vectors, target: Targets, noise: ActorNoise) -> Vectors:
        def value(_: Tensor, actions: Tensor) -> Tensor:
            return ALPHA * target.log_prob(actions)

        proposals = propose(network.at(state["previous"]), observation, value, noise, options)

        def loss_of(vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return actor_objective(
                network.at(vector),
                proposals,
                observation,
                value,
                ALPHA,
                state["q_scale"],
                noise,
                options,
            )

        gradient, (_, watched) = torch.func.grad_and_value(loss_of, has_aux=True)(state["actor"])
        new = adam(state, "actor", gradient, learning_rate)
        new["previous"] = torch.lerp(state["previous"], new["actor"], previous_rate)
        new["q_scale"] = watched["q_scale"]
        return new

    step: Callable[..., Vectors] = torch.func.vmap(learn)
    if compiled:
        step = torch.compile(step, fullgraph=True)
    # A run's numbers depend on its own seed alone, whatever is learned beside it.
    generators = [torch.Generator().manual_seed(1_000 + seed) for seed in seeds]
    for update in range(1, updates + 1):
        drawn = [ActorNoise.draw(rows, 2, options, generator) for generator in generators]
        noise = ActorNoise(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))
        state |= step(state, targets, noise)
        if update % max(1, updates // counts) == 0:
            yield update, targets.mass(_actions(network, state["actor"]))


def _policy(agent: str, hidden: tuple[int, ...]) -> nn.Module:
    if agent == "gaussian":
        return GaussianPolicy()
    actor = MeanFlowActor(1, 2, hidden)
    # sigma starts at 0.3: narrower, the draws would not overlap, and no density tells how often
    # the first policy goes where.
    nn.init.constant_(actor.log_std_out.bias, 1.0)
    return actor


def _actions(network: Network, actor: Tensor, count: int = 4_000) -> Tensor:
    """Actions of N actors, [N, count, 2]: mu + sigma eps, all with the same noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, count, 2, generator=generator)

    def sample(vector: Tensor) -> Tensor:
        policy, observation = network.at(vector), torch.zeros(1, 1)
        spread = policy.log_std(observation).exp().unsqueeze(1)
        return (policy.mean(observation, noise[0]) + spread * noise[1])[0]

    return torch.func.vmap(sample)(actor)


def run(arguments: Arguments, console: Console) -> Iterator[list[Row]]:
    """Train every agent on every problem; the rows so far, after each agent."""
    rows: list[Row] = []
    cases = [(name, seed) for name in arguments.problems for seed in range(arguments.seeds)]
    for agent in arguments.agents:
        began = time.monotonic()
        masses = train(
            agent,
            [PROBLEMS[name] for name, _ in cases],
            [seed for _, seed in cases],
            arguments.updates,
            compiled=arguments.compile,
        )
        for updates, mass in masses:
            for (name, seed), counted in zip(cases, mass.tolist(), strict=True):
                target = PROBLEMS[name].weights
                rows.append(
                    Row(
                        problem=name,
                        agent=agent,
                        entropy=AGENTS[agent].entropy,
                        seed=seed,
                        updates=updates,
                        mass=[round(share, 4) for share in counted[: len(target)]],
                        target=list(target),
                    )
                )
            console.print(f"{agent}: {updates} updates, {time.monotonic() - began:.0f} s")
        yield rows


def main(arguments: Arguments) -> None:
    set_up_training_process()
    console = Console(stderr=True)
    provenance = here("smfp_core.demos.bandit")
    try:
        check_writable("--json", arguments.json, ".json")
    except ConfigError as error:
        sys.exit(f"error: {error}")
    rows: list[Row] = []
    for rows in run(arguments, console):  # kept agent by agent: an interruption loses one of them
        record = [dataclasses.asdict(row) for row in rows]
        content = {"measured_by": to_mapping(provenance), "rows": record}
        write_atomically(arguments.json, json.dumps(content) + "\n")
        write_atomically(arguments.json.with_suffix(".md"), markdown(rows, provenance))
        draw_figure(rows, arguments.json.with_suffix(".png"))
    Console().print(console_table(rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
