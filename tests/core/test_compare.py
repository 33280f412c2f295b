# SPDX-License-Identifier: Apache-2.0
"""The comparison command as a user runs it, killed and resumed; its statistics and its report."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from smfp_core.collector import make_env
from smfp_core.compare import Arguments, compare, part_of, taken_from
from smfp_core.comparison import report, results, statistics
from smfp_core.comparison.plan import CompareConfig, PeerConfig, Run, plan
from smfp_core.comparison.results import Row
from smfp_core.comparison.runs import Outcome, RunProcess, Stop, run_here
from smfp_core.episodes import Episode
from smfp_core.strict import ConfigError, load_dataclass

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "env_id": "Pendulum-v1",
    "warmup_steps": 64,
    "batch_size": 32,
    "actor_hidden": [16, 16],
    "critic_hidden": [16, 16],
    "act_candidates": 2,
    "loss_candidates": 2,
    "checkpoint_every": 80,
    "log_every": 50,
    "noise_choices": 1,
    "compile": False,
}
COMPARISON = {
    # The second task cannot be made: its runs fail, and must not take the others with them.
    "tasks": ["Pendulum-v1", "NoSuch-v0"],
    "agents": {"smfp": {"base": "base.yaml"}},
    "seeds": [1],
    "steps": 400,
    "eval_every": 200,
    "eval_episodes": 1,
    "reference": "smfp",
}
needs_sb3 = pytest.mark.skipif(
    util.find_spec("stable_baselines3") is None,
    reason="Stable-Baselines3 is not installed (extra 'peers')",
)
needs_ray = pytest.mark.skipif(
    util.find_spec("ray") is None, reason="ray is not installed (extra 'cluster')"
)


def write_config(folder: Path, **change: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(COMPARISON | change, sort_keys=False))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "smfp_core.compare", *map(str, arguments)]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(*arguments), stdout=quiet, stderr=quiet)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest_checkpoint(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("step_*")), default="")


def numbers(path: Path) -> list[dict[str, str]]:
    """Rows of a results.csv without their timing."""
    with path.open(newline="") as file:
        return [{k: v for k, v in r.items() if k != "wall_s"} for r in csv.DictReader(file)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that ran to its end in one call, with its standard output and error."""
    folder = tmp_path_factory.mktemp("unbroken")
    out = folder / "out"
    arguments = ("--config", write_config(folder), "--out", out, "--workers", "2")
    result = call(*arguments, "--json", folder / "compare.json")
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    (folder / "status").write_text(str(result.returncode))
    return folder


def test_failing_run_is_reported_with_its_last_words_and_the_others_are_kept(unbroken: Path):
    assert (unbroken / "status").read_text() == "1"
    errors = (unbroken / "stderr").read_text()
    assert "failed: NoSuch-v0 smfp seed 1" in errors
    assert "env_id: 'NoSuch-v0' cannot be made" in errors
    assert "finished: Pendulum-v1 smfp seed 1" in errors
    states = {
        (run["task"], run["agent"]): run["state"]
        for run in json.loads((unbroken / "compare.json").read_text())["runs"]
    }
    assert states == {
        ("Pendulum-v1", "smfp"): "finished",
        ("Pendulum-v1", "random"): "finished",
        ("NoSuch-v0", "smfp"): "failed",
        ("NoSuch-v0", "random"): "failed",
    }


def test_json_has_what_each_run_watched_at_its_end(unbroken: Path):
    runs = json.loads((unbroken / "compare.json").read_text())["runs"]
    watched = {(run["task"], run["agent"]): run["watched"] for run in runs}
    assert watched["Pendulum-v1", "smfp"]["step"] == 400
    assert watched["Pendulum-v1", "smfp"]["mean_spread"] > 0.0
    assert watched["Pendulum-v1", "random"] == {}


def test_results_hold_every_evaluation_with_its_protocol(unbroken: Path):
    rows = results.read(unbroken / "out" / "results.csv")
    assert [(r.agent, r.step, r.protocol) for r in rows] == [
        *(("smfp", s, p) for s in (200, 400) for p in report.PROTOCOLS),
        ("random", 0, "sampled"),
    ]
    assert {r.task for r in rows} == {"Pendulum-v1"}
    table = (unbroken / "stdout").read_text()
    for protocol in report.PROTOCOLS:
        assert f"### {protocol}" in table
        assert (unbroken / "out" / f"curves_{protocol}.png").stat().st_size > 1000


def test_interrupted_then_killed_comparison_gives_the_results_of_an_unbroken_one(
    unbroken: Path, tmp_path: Path
):
    out = tmp_path / "out"
    config = write_config(tmp_path, tasks=["Pendulum-v1"])
    arguments = ("--config", config, "--out", out, "--workers", "1")
    run = out / "Pendulum-v1" / "smfp" / "seed_1"

    process = start(*arguments)
    wait_until((run / "train.csv").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    stopped_at = newest_checkpoint(run)
    assert "" < stopped_at < "step_000000400"

    process = start(*arguments)
    wait_until(lambda: newest_checkpoint(run) > stopped_at, process)
    process.kill()
    process.wait()
    assert not (run / "finished").exists()

    result = call(*arguments)  # waits for the orphan, which ends by itself, and goes on
    assert result.returncode == 0, result.stderr
    assert numbers(out / "results.csv") == numbers(unbroken / "out" / "results.csv")
    resumed = json.loads((run / "provenance.json").read_text())["resumed_by"]
    assert len(resumed) == 2

    before = (out / "results.csv").read_bytes()
    result = call(*arguments)
    assert "skipped: Pendulum-v1 smfp seed 1" in result.stderr
    assert (out / "results.csv").read_bytes() == before


@needs_ray
def test_ray_runs_what_is_left(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    (out / "Pendulum-v1" / "random" / "seed_1" / "finished").unlink()
    before = numbers(out / "results.csv")
    (out / "results.csv").unlink()
    config = write_config(tmp_path / "copy", tasks=["Pendulum-v1"])
    result = call("--config", config, "--out", out, "--ray-address", "local", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "skipped: Pendulum-v1 smfp seed 1" in result.stderr
    assert "finished: Pendulum-v1 random seed 1" in result.stderr
    assert numbers(out / "results.csv") == before


def test_finished_run_of_another_configuration_is_neither_kept_nor_overwritten(
    unbroken: Path, tmp_path: Path
):
    for change, text in (
        ({"steps": 300}, "holds a run with steps = 400, now 300"),
        ({"steps": 700, "eval_every": 100}, "holds a run with eval_every = 200, now 100"),
    ):
        with pytest.raises(ConfigError, match=text):
            plan(write_config(tmp_path, **change), unbroken / "out")


def test_a_run_that_ended_at_fewer_steps_is_not_finished(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken / "out", tmp_path / "out")
    runs = {
        steps: plan(write_config(tmp_path, tasks=["Pendulum-v1"], steps=steps), tmp_path / "out")[0]
        for steps in (400, 600)
    }
    assert runs[400].finished and not runs[600].finished
    # Another call asks for more steps while the one that runs is still at the old ones.
    runs[600].prepare()
    runs[400].mark_finished()
    assert not runs[600].finished
    with pytest.raises(ConfigError, match="holds a run with steps = 600, now 400"):
        runs[400].prepare()


def test_environment_is_the_same_for_all_agents(tmp_path: Path):
    agents = {"smfp": {"base": "base.yaml"}, "other": {"peer": "sb3_sac"}}
    path = write_config(tmp_path, agents=agents, env_kwargs={"g": "5"})
    assert {run.settings["env_kwargs"]["g"] for run in plan(path, tmp_path / "out")} == {"5"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE | {"env_kwargs": {"g": "6"}}))
    with pytest.raises(ConfigError, match=r"agents.smfp: env_kwargs: .*'6'.* in base.yaml, .*'5'"):
        plan(path, tmp_path / "out")


def test_comparison_of_more_steps_goes_on_from_where_its_runs_ended(unbroken: Path, tmp_path: Path):
    out = tmp_path / "out"
    for steps in (200, 400):
        config = write_config(tmp_path, tasks=["Pendulum-v1"], steps=steps)
        result = call("--config", config, "--out", out, "--workers", "1")
        assert result.returncode == 0, result.stderr
        assert "finished: Pendulum-v1 smfp seed 1" in result.stderr
    assert numbers(out / "results.csv") == numbers(unbroken / "out" / "results.csv")
    run = out / "Pendulum-v1" / "smfp" / "seed_1"
    assert len(json.loads((run / "provenance.json").read_text())["resumed_by"]) == 1


def test_complete_runs_of_other_results_are_taken_and_only_the_rest_is_run(
    unbroken: Path, tmp_path: Path
):
    have, out = unbroken / "out" / "results.csv", tmp_path / "out"
    config = write_config(tmp_path, tasks=["Pendulum-v1"], seeds=[1, 2])
    arguments = ("--config", config, "--out", out, "--workers", "2", "--have", have)
    result = call(*arguments, "--json", tmp_path / "compare.json")
    assert result.returncode == 0, result.stderr
    assert "taken: Pendulum-v1 smfp seed 1" in result.stderr
    assert not (out / "Pendulum-v1" / "smfp" / "seed_1").exists()
    rows = numbers(out / "results.csv")
    assert [row for row in rows if row["seed"] == "1"] == numbers(have)
    assert {row["agent"] for row in rows if row["seed"] == "2"} == {"smfp", "random"}
    runs = json.loads((tmp_path / "compare.json").read_text())["runs"]
    assert {(run["seed"], run["state"], run["source"]) for run in runs} == {
        (1, "taken", str(have)),
        (2, "finished", ""),
    }
    assert all(run["git_revision"] for run in runs)  # with the rows


def test_part_of_a_comparison_joins_what_is_there(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken / "out", tmp_path / "out")
    config = write_config(tmp_path, tasks=["Pendulum-v1"], seeds=[1, 2, 3])
    arguments = ("--config", config, "--out", tmp_path / "out", "--seeds", "3")
    result = call(*arguments, "--json", tmp_path / "compare.json")
    assert result.returncode == 0, result.stderr
    runs = json.loads((tmp_path / "compare.json").read_text())["runs"]
    assert {(run["agent"], run["seed"], run["state"]) for run in runs} == {
        ("smfp", 1, "skipped"),
        ("random", 1, "skipped"),
        ("smfp", 3, "finished"),
        ("random", 3, "finished"),
    }
    rows = numbers(tmp_path / "out" / "results.csv")
    assert {row["seed"] for row in rows} == {"1", "3"}
    assert not (tmp_path / "out" / "Pendulum-v1" / "smfp" / "seed_2").exists()


def test_part_has_the_tasks_agents_and_seeds_that_are_named(tmp_path: Path):
    agents = {"smfp": {"base": "base.yaml"}, "other": {"peer": "sb3_sac"}}
    path = write_config(tmp_path, tasks=["A", "B"], agents=agents, seeds=[5, 6])
    config, runs = load_dataclass(CompareConfig, path), plan(path, tmp_path / "out")

    def chosen(**options: Any) -> list[str]:
        return [run.name for run in part_of(Arguments(**options), config, runs)]

    assert chosen() == [run.name for run in runs]
    assert chosen(tasks=("B",), agents=("other",), seeds=(6,)) == [
        "B other seed 6",
        "B random seed 6",
    ]
    assert len(chosen(agents=("smfp",))) == len(runs) - 4
    for options in ({"tasks": ("C",)}, {"agents": ("sac",)}, {"seeds": (7,)}):
        with pytest.raises(ConfigError, match=rf"--{next(iter(options))}: .* is none of"):
            chosen(**options)


def test_results_of_a_shorter_comparison_are_not_taken_and_those_of_a_longer_one_refused(
    unbroken: Path, tmp_path: Path
):
    have = unbroken / "out" / "results.csv"
    for steps, expected in ((400, {"smfp", "random"}), (600, {"random"})):
        config = write_config(tmp_path, tasks=["Pendulum-v1"], steps=steps)
        taken = taken_from([have], plan(config, tmp_path / "out"))
        assert {name.split()[1] for name in taken} == expected
    runs = plan(write_config(tmp_path, tasks=["Pendulum-v1"], steps=200), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--have: .* holds step 400 of .*, which ends at 200"):
        taken_from([have], runs)
    runs = plan(write_config(tmp_path, tasks=["Pendulum-v1"]), tmp_path / "out")
    other = tmp_path / "other.csv"
    shutil.copy(have, other)
    assert {str(path) for path, _ in taken_from([have, other], runs).values()} == {str(have)}
    other.write_text(have.read_text().replace(",deterministic,-", ",deterministic,"))
    with pytest.raises(ConfigError, match=r"--have: .*other.csv and .* hold .* differently"):
        taken_from([have, other], runs)
    with pytest.raises(ConfigError, match="no meaning with --report-only"):
        compare(Arguments(report_only=have, have=(have,)))


def test_a_run_whose_last_evaluation_is_there_in_part_is_not_taken(unbroken: Path, tmp_path: Path):
    rows = results.read(unbroken / "out" / "results.csv")
    last = [r for r in rows if r.agent == "smfp" and r.step == 400 and r.protocol != "sampled"]
    have, left_out = tmp_path / "have.csv", last[0]
    assert len(last) > 1
    results.write(have, [r for r in rows if r != left_out])
    taken = taken_from([have], plan(unbroken / "compare.yaml", tmp_path / "out"))
    name = f"{left_out.task} smfp seed {left_out.seed}"
    whole = {f"{r.task} {r.agent} seed {r.seed}" for r in rows if r.step == 400}
    assert name in whole and name not in taken and whole - {name} <= set(taken)


def test_a_table_without_anything_of_the_configuration_is_refused(
    unbroken: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tasks=["Other-v0"])
    table = tmp_path / "results.csv"
    shutil.copy(unbroken / "out" / "results.csv", table)
    with pytest.raises(ConfigError, match=r"--report-only: .* none of the tasks and agents"):
        compare(Arguments(config=config, report_only=table))


def test_every_curve_is_named_also_where_the_first_task_lacks_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("matplotlib.pyplot.close", figures.append)
    scores = {key: value for key, value in SCORES.items() if key[:2] != ("A", "sac")}
    report.draw_curves(report.Evaluations(rows_of(scores), "sac"), tmp_path)
    legend = next(f for f in figures if "deterministic" in f.get_suptitle()).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["smfp", "sac", "random"]


def test_report_is_made_anew_from_the_table_alone(unbroken: Path, tmp_path: Path):
    table = tmp_path / "results.csv"
    shutil.copy(unbroken / "out" / "results.csv", table)
    again = call("--report-only", table, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    with_order = call("--config", unbroken / "compare.yaml", "--report-only", table)
    assert with_order.returncode == 0, with_order.stderr
    whole = (unbroken / "out" / "table.md").read_text()
    assert (tmp_path / "table.md").read_text() == whole
    # Without the configuration the reference is `sac`, which is not in this table.
    assert (tmp_path / "again" / "table.md").read_text().startswith(whole[: whole.index("###")])
    assert "No normalised score" in (tmp_path / "again" / "table.md").read_text()
    pictures = {p.name for p in (tmp_path / "again").glob("*.png")}
    assert pictures == {f"curves_{p}.png" for p in report.PROTOCOLS}


def test_runs_are_planned_seed_by_seed_under_one_protocol(tmp_path: Path):
    agents = {"smfp": {"base": "base.yaml"}, "other": {"peer": "sb3_sac"}}
    path = write_config(
        tmp_path, tasks=["A", "dm_control/b-c"], agents=agents, seeds=[5, 6], steps=90
    )
    runs = plan(path, tmp_path / "out")
    names = ["smfp", "other", "random"]
    assert [(r.seed, r.task, r.agent) for r in runs] == list(
        product([5, 6], ["A", "dm_control/b-c"], names)
    )
    assert len({r.folder for r in runs}) == len(runs)
    for run in runs:
        assert run.settings["env_id"] == run.task
        assert run.settings["seed"] == run.seed
        kept = [run.settings[k] for k in ("steps", "eval_every", "eval_episodes")]
        assert kept == [90, COMPARISON["eval_every"], COMPARISON["eval_episodes"]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"agent": {}}, "agent: unknown key; did you mean 'agents'"),
        ({"seeds": [1, 1]}, "seeds: needs at least one, and none twice"),
        ({"agents": {"smfp": {}}}, "agents.smfp: base, peer: give one of them"),
        (
            {"agents": {"smfp": {"base": "base.yaml", "overrides": {"eval_episodes": 90}}}},
            "overrides.eval_episodes: is the same for all agents",
        ),
        (
            {"agents": {"smfp": {"base": "base.yaml", "overrides": {"batchsize": 3}}}},
            "agents.smfp: batchsize: unknown key; did you mean 'batch_size'",
        ),
        ({"agents": {"smfp": {"base": "none.yaml"}}}, "none.yaml: cannot be read"),
        ({"reference": "sac"}, "reference: 'sac' is none of the agents"),
        ({"eval_every": 0}, "eval_every: must be positive"),
    ],
)
def test_wrong_configuration_is_named_before_anything_runs(
    tmp_path: Path, change: dict[str, object], text: str
):
    with pytest.raises(ConfigError) as caught:
        plan(write_config(tmp_path, **change), tmp_path / "out")
    assert text in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "compare").glob("*.yaml")), ids=str)
def test_shipped_comparisons_can_be_planned(path: Path, tmp_path: Path):
    config = load_dataclass(CompareConfig, path)
    runs = plan(path, tmp_path)
    assert len(runs) == len(config.tasks) * (len(config.agents) + 1) * len(config.seeds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task,agent\nA,smfp\n", "lacks the columns"),
        ("HEADER\nA,smfp,one,5,sampled,1,2,3\n", "line 2"),
        ("HEADER\nA,smfp,1,5,sampled,nan,2,3\n", "return_mean is not finite"),
        ("HEADER\n", "holds no evaluation"),
    ],
)
def test_damaged_table_is_named_with_its_line(tmp_path: Path, text: str, expected: str):
    header = "task,agent,seed,step,protocol,return_mean,return_std,wall_s"
    path = tmp_path / "results.csv"
    path.write_text(text.replace("HEADER", header))
    with pytest.raises(ConfigError) as caught:
        results.read(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


# Statistics.


def test_interquartile_mean_leaves_out_a_quarter_on_each_side():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0, -80.0])
    # Sorted: -80 1 | 2 3 4 5 | 6 70.
    assert statistics.interquartile_mean(scores) == 3.5
    assert statistics.interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0  # three: the mean
    rows = np.stack([scores, scores + 1.0])
    np.testing.assert_array_equal(statistics.interquartile_mean(rows), [3.5, 4.5])


def test_probability_of_improvement_counts_pairs_within_tasks():
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 5, n).astype(float) for n in (3, 5)]
    y = [rng.integers(0, 5, n).astype(float) for n in (4, 2)]
    by_task = []
    for a, b in zip(x, y, strict=True):
        wins = [1.0 if p > q else 0.5 if p == q else 0.0 for p, q in product(a, b)]
        by_task.append(sum(wins) / len(wins))
    value, low, high = statistics.improvement(x, y)
    assert value == pytest.approx(sum(by_task) / 2)
    assert low <= value <= high
    assert statistics.improvement(y, x)[0] == pytest.approx(1.0 - value)


def test_bootstrap_draws_seeds_within_their_task():
    strata = [np.array([1.0, 2.0]), np.array([100.0, 200.0, 300.0])]
    first, second = statistics.resample(strata, np.random.default_rng(0))
    assert set(np.unique(first)) == {1.0, 2.0}
    assert set(np.unique(second)) == {100.0, 200.0, 300.0}
    assert first.shape[1] == 2
    # Two draws of two values: their means are 1, 1.5 and 2 with weights 1:2:1.
    shares = [(first.mean(axis=1) == m).mean() for m in (1.0, 1.5, 2.0)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.04)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        strata = [rng.standard_normal(20), rng.standard_normal(20)]
        _, low, high = statistics.estimate(strata, seed=trial)
        covered += low <= 0.0 <= high
    # 95 % of 200 is 190; percentile intervals of 20 draws are a little narrow.
    assert 175 <= covered <= 198


# The report.


def rows_of(scores: dict[tuple[str, str, str], list[float]], step: int = 10) -> list[Row]:
    return [
        Row(task, agent, seed, 0 if agent == "random" else step, protocol, value, 0.0, 1.0)
        for (task, agent, protocol), values in scores.items()
        for seed, value in enumerate(values)
    ]


SCORES = {
    ("A", "smfp", "deterministic"): [30.0, 50.0],
    ("A", "smfp", "best_of_k"): [90.0, 90.0],
    ("A", "sac", "deterministic"): [20.0, 20.0],
    ("A", "random", "sampled"): [10.0, 10.0],
    ("B", "smfp", "deterministic"): [-100.0, -300.0],
    ("B", "sac", "deterministic"): [-200.0, -200.0],
    ("B", "random", "sampled"): [-500.0, -700.0],
}


def test_scores_are_normalised_by_the_random_policy_and_the_reference():
    summary = report.summarise(report.Evaluations(rows_of(SCORES), "sac"))
    assert summary["anchors"]["A"] == {"zero": 10.0, "one": 20.0}
    assert summary["anchors"]["B"] == {"zero": -600.0, "one": -200.0}
    part = summary["protocols"]["deterministic"]
    # 2, 4, 1.25 and 0.75 without the lowest and the highest.
    assert part["normalised"]["smfp"][0] == pytest.approx((2.0 + 1.25) / 2)
    assert part["normalised"]["sac"][0] == pytest.approx(1.0)
    assert part["tasks"]["B"]["smfp"] == {"iqm": (-200.0, -300.0, -100.0), "seeds": 2}
    # A: both of 2 win; B: one wins, one loses.
    assert part["improvement"]["over"]["sac"]["probability"][0] == pytest.approx(0.75)


def test_tasks_count_alike_also_where_one_has_more_seeds():
    rows = rows_of(SCORES)
    rows += [Row("A", "smfp", seed, 10, "deterministic", 1000.0, 0.0, 1.0) for seed in (7, 8)]
    more = report.summarise(report.Evaluations(rows, "sac"))["protocols"]["deterministic"]
    alike = report.summarise(report.Evaluations(rows_of(SCORES), "sac"))["protocols"]
    assert more["normalised"] == alike["deterministic"]["normalised"]
    assert more["tasks"]["A"]["smfp"]["seeds"] == 4
    # Of B there is now a seed that A has not: none is left to be aggregated.
    other = [r for r in rows if (r.task, r.agent) != ("B", "smfp")]
    other += [Row("B", "smfp", 9, 10, "deterministic", 0.0, 0.0, 1.0)]
    part = report.summarise(report.Evaluations(other, "sac"))["protocols"]["deterministic"]
    assert list(part["normalised"]) == ["sac"]


def test_the_first_agent_of_the_configuration_stays_the_one_that_is_compared():
    rows = [r for r in rows_of(SCORES) if (r.task, r.agent) != ("A", "smfp")]
    evaluations = report.Evaluations(rows, "sac", ["smfp", "sac"])
    part = report.summarise(evaluations)["protocols"]["deterministic"]
    assert part["improvement"]["of"] == "smfp" and list(part["improvement"]["over"]) == ["sac"]
    assert evaluations.agents == ["smfp", "sac"]
    alone = [r for r in rows if r.agent != "smfp"]
    part = report.summarise(report.Evaluations(alone, "sac", ["smfp", "sac"]))["protocols"]
    assert part["deterministic"]["improvement"]["over"] == {}


def test_protocols_are_never_mixed():
    rows = rows_of(SCORES)
    part = report.summarise(report.Evaluations(rows, "sac"))["protocols"]
    assert list(part) == ["deterministic", "best_of_k"]
    assert part["best_of_k"]["tasks"] == {
        "A": {"smfp": {"iqm": (90.0, 90.0, 90.0), "seeds": 2}},
        "B": {},
    }
    # Best of K is known in one of the two tasks: no aggregate beside one over both.
    assert part["best_of_k"]["normalised"] == {}
    without = [row for row in rows if row.protocol != "best_of_k"]
    alone = report.summarise(report.Evaluations(without, "sac"))["protocols"]
    assert alone["deterministic"] == part["deterministic"]


def test_runs_that_did_not_come_to_the_end_are_counted_out_and_said():
    rows = rows_of(SCORES)
    rows += [Row("A", "sac", 7, 5, "deterministic", 1000.0, 0.0, 1.0)]
    rows += [Row("A", "smfp", 7, 10, "deterministic", 40.0, 0.0, 1.0)]
    summary = report.summarise(report.Evaluations(rows, "sac"))
    cells = summary["protocols"]["deterministic"]["tasks"]["A"]
    assert cells["sac"] == {"iqm": (20.0, 20.0, 20.0), "seeds": 2}
    text = report.markdown(summary)
    assert "40.0 [30.0, 50.0] (3 runs) | 20.0 (2 runs)" in text


def test_agents_are_also_compared_at_the_time_of_the_fastest_run():
    def run(agent: str, seed: int, pace_s: float, *returns: float) -> list[Row]:
        return [
            Row("A", agent, seed, 10 * i, "deterministic", value, 0.0, pace_s * i)
            for i, value in enumerate(returns, 1)
        ]

    rows = [*run("quick", 0, 10.0, 1.0, 2.0), *run("quick", 1, 15.0, 3.0, 5.0)]
    rows += [*run("slow", 0, 16.0, 10.0, 30.0), *run("slow", 1, 21.0, 50.0, 60.0)]
    rows += [Row("A", "random", 0, 0, "sampled", 0.0, 0.0, 0.1)]
    # A run that has not come to the end decides nothing.
    rows += run("slow", 2, 1.0, 7.0)
    summary = report.summarise(report.Evaluations(rows, "quick"))
    found = summary["protocols"]["deterministic"]["equal_time"]["A"]
    assert found["wall_s"] == 20.0
    # quick: 2, and a third of the way from 3 to 5; slow: a quarter from 10 to 30, and a run whose
    # first evaluation came later.
    assert found["agents"]["quick"]["iqm"][0] == pytest.approx((2.0 + 3.0 + 2.0 / 3.0) / 2)
    assert found["agents"]["slow"] == {"iqm": (15.0, 15.0, 15.0), "seeds": 1}
    assert "| A | 20 | 2.8 [2.0, 3.7] (2 runs) | 15.0 (1 runs) |" in report.markdown(summary)


def test_task_without_a_scale_is_left_out_and_named():
    scores = {key: v for key, v in SCORES.items() if key != ("B", "random", "sampled")}
    summary = report.summarise(report.Evaluations(rows_of(scores), "sac"))
    assert summary["protocols"]["deterministic"]["normalised"]["smfp"][0] == pytest.approx(3.0)
    assert "No normalised score for B" in report.markdown(summary)


# Peers.


@needs_sb3
@pytest.mark.parametrize(
    ("peer", "modes"), [("sb3_sac", ["deterministic", "sampled"]), ("sb3_td3", ["deterministic"])]
)
def test_peer_learns_the_same_however_often_it_is_evaluated(
    tmp_path: Path, peer: str, modes: list[str]
):
    from smfp_core.comparison.peers import run

    small = {"learning_starts": 20, "policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 16}
    last = []
    for eval_every in (30, 90):
        config = PeerConfig(peer, "Pendulum-v1", 3, 90, eval_every, 1, parameters=small)  # type: ignore[arg-type]
        run(config, tmp_path)
        rows = numbers(tmp_path / "evaluations.csv")
        assert [r["mode"] for r in rows] == modes * (90 // eval_every)
        last.append(rows[-len(modes) :])
    assert last[0] == last[1]


@needs_sb3
def test_peers_sampled_action_has_the_distribution_of_the_librarys_own():
    import torch

    from smfp_core.comparison.peers import make_model, modes_of

    env = make_env("Pendulum-v1", {})
    config = PeerConfig("sb3_sac", "Pendulum-v1", 0, 10, 10, 1)
    model = make_model(config, env)
    episode = Episode(0, 0, env)
    observation = episode.observation
    ours = modes_of(model)["sampled"](np.tile(observation, (500, 1)), [episode] * 500)[:, 0]
    torch.manual_seed(0)
    theirs = [model.predict(observation, deterministic=False)[0][0] for _ in range(500)]
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=0.12
    )


@needs_sb3
def test_unknown_parameter_of_a_peer_is_named():
    from smfp_core.comparison.peers import make_model

    env = make_env("Pendulum-v1", {})
    parameters = {"learningrate": 1.0}
    with pytest.raises(ConfigError, match=r"parameters: .*learningrate"):
        make_model(PeerConfig("sb3_sac", "Pendulum-v1", 0, 1, 1, 1, parameters=parameters), env)


def test_run_that_another_call_finishes_is_not_begun_anew(tmp_path: Path):
    settings = dataclasses.asdict(PeerConfig("random", "Pendulum-v1", 0, 1, 1, 1))
    run = Run("A", "random", 0, tmp_path / "run", "smfp_core.comparison.peers", settings)
    other = RunProcess(run)
    while "step 0" not in (run.folder / "output.log").read_text():
        time.sleep(0.01)
    other._process.wait()
    # It has ended, and its call has not put that on record yet.
    with pytest.raises(BlockingIOError):
        RunProcess(run)
    outcome = other.outcome(stopping=False)
    assert outcome is not None and outcome.state == "finished"
    before = (run.folder / "evaluations.csv").stat().st_mtime_ns
    outcomes: list[Outcome] = []
    run_here([run], 1, Stop(), outcomes.append)
    assert [o.state for o in outcomes] == ["skipped"]
    assert (run.folder / "evaluations.csv").stat().st_mtime_ns == before
    # The lock is free again, for a call of more steps.
    longer = RunProcess(dataclasses.replace(run, settings=settings | {"steps": 2}))
    longer.stop(at_once=True)
    longer._process.wait()
    outcome = longer.outcome(stopping=True)
    assert outcome is not None and outcome.state == "stopped"


def test_run_that_cannot_start_is_reported_and_does_not_end_the_rest(tmp_path: Path):
    settings = {"peer": "random", "env_id": "Pendulum-v1", "seed": 0, "steps": 1}
    (tmp_path / "file").write_text("")
    blocked = Run("A", "random", 0, tmp_path / "file" / "run", "smfp_core.train", settings)
    outcomes: list[Outcome] = []
    run_here([blocked, blocked], 1, Stop(), outcomes.append)
    assert [o.state for o in outcomes] == ["failed", "failed"]
