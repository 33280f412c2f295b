# SPDX-License-Identifier: Apache-2.0
"""The bandit's counting against closed forms, and a short run of it: looser than the full one."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from smfp_core.demos.bandit import (
    PROBLEMS,
    RADIUS_IN_STD,
    Arguments,
    Targets,
    main,
    train,
)
from smfp_core.demos.bandit_report import Row, console_table, markdown
from smfp_core.provenance import here


def masses(agent: str, updates: int) -> torch.Tensor:
    """Masses [2 seeds, 2] at the optima of ``two`` after a short and fast training."""
    *_, (_, last) = train(
        agent,
        [PROBLEMS["two"]] * 2,
        [0, 1],
        updates,
        hidden=(32, 32),
        learning_rate=3e-3,
        previous_rate=0.02,
        counts=1,
    )
    return last


def test_marginal_entropy_and_mirror_descent_hold_both_optima():
    found = masses("smfp", 800)
    assert (found - torch.tensor([0.4, 0.6])).abs().max() < 0.15


def test_with_the_conditional_entropy_the_smaller_optimum_fades():
    found = masses("conditional", 1400)
    assert found[:, 0].max() < 0.15
    assert found[:, 1].min() > 0.5


def test_without_the_mirror_step_not_every_seed_holds_both():
    assert masses("no-mirror", 300).amin() < 0.15


def test_gaussian_holds_one_optimum_at_most():
    assert masses("gaussian", 600).amin(1).max() < 0.15


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_mixtures_are_densities_with_the_stated_masses(name: str):
    targets = Targets.of([PROBLEMS[name], PROBLEMS["ring"]])
    own = Targets(*(part[0] for part in targets))
    axis = torch.linspace(-2, 2, 801)
    grid = torch.cartesian_prod(axis, axis)
    density = own.log_prob(grid).exp() * (axis[1] - axis[0]).square()
    assert density.sum().item() == pytest.approx(1.0, abs=1e-3)
    near = (grid[:, None] - own.centres).norm(dim=-1) < RADIUS_IN_STD * own.std
    weights = torch.tensor(PROBLEMS[name].weights)
    counted = (density[:, None] * near).sum(0)[: len(weights)]
    torch.testing.assert_close(counted, weights * 0.989, rtol=0, atol=2e-3)


def test_mass_is_the_share_of_actions_near_each_optimum():
    targets = Targets.of([PROBLEMS["two"]])
    actions = torch.tensor([[[-0.5, -0.5], [-0.4, -0.5], [0.5, 0.4], [0.0, 0.0]]])
    torch.testing.assert_close(targets.mass(actions), torch.tensor([[0.5, 0.25]]))


def test_table_states_errors_and_lost_optima():
    rows = [
        Row("two", "smfp", "marginal", seed, updates, mass, [0.4, 0.6])
        for seed in (0, 1)
        for updates, mass in ((10, [0.1, 0.1]), (20, [0.5, 0.4]), (30, [0.35, 0.6]))
    ]
    rows += [Row("two", "gaussian", "marginal", 0, n, [0.05, 0.95], [0.4, 0.6]) for n in (10, 30)]
    text = markdown(rows, here("smfp_core.demos.bandit"))
    assert "| two | smfp | 0.35 0.60 | 0.050 | 0.200 | 2/2 | 0.05 |" in text
    assert "| two | gaussian | 0.05 0.95 | 0.350 | 0.350 | 0/1 | 0.00 |" in text
    printed = io.StringIO()
    Console(file=printed, width=200).print(console_table(rows))
    assert "0/1" in printed.getvalue()


def test_command_writes_rows_table_and_figure(tmp_path: Path):
    path = tmp_path / "new" / "bandit.json"
    main(
        Arguments(path, agents=("smfp", "gaussian"), problems=("two", "three"), seeds=1, updates=10)
    )
    rows = json.loads(path.read_text())["rows"]
    assert {(row["problem"], row["agent"]) for row in rows} == {
        (problem, agent) for problem in ("two", "three") for agent in ("smfp", "gaussian")
    }
    for row in rows:
        assert row["target"] == list(PROBLEMS[row["problem"]].weights)
        assert len(row["mass"]) == len(row["target"])
        assert 0 <= sum(row["mass"]) <= 1.001
    assert path.with_suffix(".md").read_text().count("| smfp |") == 2
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("field", "value"), [("agents", ("smfpp",)), ("problems", ())])
def test_unknown_names_are_refused_with_the_known_ones(field: str, value: tuple[str, ...]):
    with pytest.raises(SystemExit, match=rf"{field}: one or more of"):
        Arguments(Path("x.json"), **{field: value})
