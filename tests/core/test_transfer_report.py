# SPDX-License-Identifier: Apache-2.0
"""The transfer report's own part: what it refuses, keeps and excuses. No ROS in here."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smfp_core import transfer
from smfp_core.agents.smfp import SmfpAgent
from smfp_core.collector import make_env
from smfp_core.config import TrainConfig
from smfp_core.contract import contract_of
from smfp_core.export import golden_vectors, policy_graph, policy_metadata, write_policy_file
from smfp_core.policy_file import PolicyFile
from smfp_core.strict import ConfigError

ROOT = Path(__file__).resolve().parents[2]
IDEAL, BAD = (ROOT / f"config/plants/{name}.yaml" for name in ("ideal", "bad"))
Results = list[dict[str, Any]]
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process; what it ends with, empty for a success."""

    def command(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["transfer", *map(str, arguments)])
        try:
            transfer.main()
        except SystemExit as end:
            return str(end.code)
        return ""

    return command


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path, Results], None]], list[str]]:
    """Put a ROS half in place that repeats what gymnasium gave, but for a change to the results.

    It returns the list of robots that the half was asked for.
    """

    def install(change: Callable[[Path, Results], None]) -> list[str]:
        robots: list[str] = []
        seen: list[Results] = []
        through_gymnasium = transfer.through_gymnasium

        def noted(env: Any, policy: PolicyFile, seeds: list[int]) -> tuple[Results, Results]:
            cases, results = through_gymnasium(env, policy, seeds)
            seen.append(results)
            return cases, results

        def repeated(
            policy: Path, robot: str, plant: Path, steps: int, cases: Results
        ) -> dict[str, Any]:
            robots.append(robot)
            results = [r | {"interventions": 0} for r in seen[-1][: len(cases)]]
            change(plant, results)
            return {
                "results": results,
                "interventions": sum(r["interventions"] for r in results),
            }

        monkeypatch.setattr(transfer, "through_gymnasium", noted)
        monkeypatch.setattr(transfer, "through_ros", repeated)
        return robots

    return install


def unchanged(plant: Path, results: Results) -> None:
    """The results of a ROS half that changes nothing."""


def rows(path: Path) -> list[tuple[str, str, str]]:
    report = json.loads(path.read_text())
    return [(r["policy"], r["plant"], r["via"]) for r in report["rows"]]


def export(agent: SmfpAgent, config: TrainConfig, seed: int, path: Path) -> Path:
    """A policy file of the agent; another ``seed`` gives other bytes."""
    contract = contract_of(make_env(config.env_id, config.env_kwargs))
    assert contract is not None
    noise = np.random.default_rng(seed).standard_normal(contract.action.size).astype(np.float32)
    observations = np.zeros((1, contract.observation.size), np.float32)
    golden = golden_vectors(agent, observations, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = policy_metadata(agent, config, contract, noise, golden, 0, "test")
    write_policy_file(path, policy_graph(agent), metadata)
    return path


@pytest.mark.parametrize(
    ("option", "count", "least"),
    [("--episodes", 0, 1), ("--episodes", -1, 1), ("--ros-episodes", -1, 0)],
)
def test_a_number_of_episodes_that_makes_no_sense_is_refused(
    run: Run, policy_path: Path, option: str, count: int, least: int
) -> None:
    ended = run(policy_path, "--plants", IDEAL, option, count)
    assert ended == f"error: {option}: must be at least {least}, got {count}"


def test_a_users_robot_goes_to_the_ros_half_by_path_and_is_checked_against_the_policy(
    run: Run,
    ros: Callable[..., list[str]],
    reach_agent: SmfpAgent,
    small_config: TrainConfig,
    tmp_path: Path,
) -> None:
    robot = tmp_path / "mine.yaml"
    text = "extends: ur5e\nname: my_arm\npolicy: {{velocity_rad_s: {}}}\n"
    robot.write_text(text.format(0.8))
    config = dataclasses.replace(small_config, env_kwargs={"robot": str(robot)})
    path = export(reach_agent, config, 0, tmp_path / "policy.onnx")
    robots = ros(unchanged)
    arguments = (path, "--plants", IDEAL, "--episodes", 1)
    assert run(*arguments) == ""
    assert robots == [str(robot)]
    robot.write_text(text.format(0.5))
    ended = run(*arguments)
    assert ended.startswith(f"error: policy file {path}: action.scale_rad_s: trained with")
    assert len(robots) == 1


def test_two_policies_of_one_name_are_refused_in_one_call(
    run: Run, policy_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / policy_path.name
    other.write_bytes(policy_path.read_bytes())
    ended = run(policy_path, other, "--plants", IDEAL, "--episodes", 1, "--ros-episodes", 0)
    assert ended == f"error: {policy_path}, {other}: two of one name: rename one"


def test_two_plants_of_one_name_and_what_is_no_report_are_refused(
    run: Run, policy_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / Path(IDEAL).name
    other.parent.mkdir()
    other.write_bytes(Path(BAD).read_bytes())
    common = ("--episodes", 1, "--ros-episodes", 0)
    ended = run(policy_path, "--plants", IDEAL, other, *common)
    assert ended == f"error: {IDEAL}, {other}: two of one name: rename one"
    old = tmp_path / "old.json"
    old.write_text("[]")
    ended = run(policy_path, "--plants", IDEAL, *common, "--json", old, "--add")
    assert ended.startswith("error: --add: ") and old.read_text() == "[]"
    ended = run(policy_path, "--plants", IDEAL, *common, "--json", tmp_path)
    assert ended == f"error: --json: {tmp_path} is a folder"


def test_a_policy_is_not_added_over_another_of_its_name(
    run: Run, reach_agent: SmfpAgent, small_config: TrainConfig, tmp_path: Path
) -> None:
    one, two = (
        export(reach_agent, small_config, seed, tmp_path / f"run_{seed}/policy.onnx")
        for seed in range(2)
    )
    out = tmp_path / "report.json"
    common = ("--episodes", 1, "--ros-episodes", 0, "--json", out)
    assert run(one, "--plants", IDEAL, BAD, *common) == ""
    before = out.read_text()
    ended = run(two, "--plants", IDEAL, *common, "--add")
    assert ended == f"error: --add: {one}, {two}: two of one name: rename one"
    assert out.read_text() == before
    # The same file elsewhere is the same policy, and one exported anew takes its own place.
    moved = tmp_path / "moved/policy.onnx"
    moved.parent.mkdir()
    one.rename(moved)
    assert run(moved, "--plants", BAD, *common, "--add") == ""
    moved.write_bytes(two.read_bytes())
    assert run(moved, "--plants", IDEAL, *common, "--add") == ""
    assert rows(out) == [("policy", "ideal", "gymnasium")]
    (origin,) = json.loads(out.read_text())["policies"]
    assert (origin["policy"], origin["sha256"]) == (str(moved), PolicyFile.load(two).sha256)


@pytest.mark.parametrize("name", ["transfer", "ur5e_reach_pose_transfer"])
def test_the_reports_in_the_repository_can_be_added_to(name: str, policy_path: Path) -> None:
    old = json.loads((ROOT / f"results/{name}.json").read_text())
    origin = {"policy": str(policy_path), "sha256": PolicyFile.load(policy_path).sha256}
    new = {"seed": old["seed"], "policies": [origin], "rows": [], "ros_minus_gymnasium": []}
    assert transfer.added(old, new) == old | {"policies": [*old["policies"], origin]}
    for origin in old["policies"]:
        anew = {**origin, "policy": str(ROOT / "elsewhere" / Path(origin["policy"]).name)}
        transfer.check_addable(old, old["seed"], [anew])
        with pytest.raises(ConfigError, match="two of one name"):
            transfer.check_addable(old, old["seed"], [{**anew, "sha256": "0" * 64}])


def test_what_was_measured_outlasts_a_plant_that_fails_over_ros(
    run: Run, ros: Callable[..., list[str]], policy_path: Path, tmp_path: Path
) -> None:
    def fails_on_bad(plant: Path, results: Results) -> None:
        if plant == BAD:
            raise ConfigError(f"{plant} through ROS 2: the node does not answer")

    ros(fails_on_bad)
    kept, out = tmp_path / "kept.onnx", tmp_path / "report.json"
    kept.write_bytes(policy_path.read_bytes())
    assert run(kept, "--plants", IDEAL, "--episodes", 1, "--json", out) == ""
    arguments = (policy_path, "--plants", IDEAL, BAD, "--episodes", 2, "--ros-episodes", 1)
    ended = run(*arguments, "--json", out, "--add")
    assert ended == f"error: {BAD} through ROS 2: the node does not answer"
    assert rows(out) == [
        ("kept", "ideal", "gymnasium"),
        ("kept", "ideal", "ros"),
        ("policy", "ideal", "gymnasium"),
        ("policy", "ideal", "ros"),
        ("policy", "bad", "gymnasium"),
    ]
    report = json.loads(out.read_text())
    assert list(report) == ["seed", "policies", "rows", "ros_minus_gymnasium"]
    assert [d["plant"] for d in report["ros_minus_gymnasium"]] == ["ideal", "ideal"]


def test_a_ros_half_that_does_not_end_is_named_with_its_limit(
    run: Run, policy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(60.0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(transfer, "_ROS_HALF", "endless")
    monkeypatch.setattr(transfer, "_MOST_S", 0.5)
    ended = run(policy_path, "--plants", IDEAL, "--episodes", 1)
    assert ended == f"error: {IDEAL} through ROS 2: not done within 0.5 s"


def test_only_a_cause_in_the_episode_itself_excuses_a_difference(
    run: Run, ros: Callable[..., list[str]], policy_path: Path, tmp_path: Path
) -> None:
    def differs(plant: Path, results: Results) -> None:
        for result in results:
            result["sha256"] = "0" * 64
        results[0]["interventions"] = 7
        results[1]["fault"] = "tracking_error"
        if plant == BAD:
            results[2]["interventions"] = 1  # so that each episode has a cause of its own

    ros(differs)
    out = tmp_path / "report.json"
    arguments = ("--episodes", 4, "--ros-episodes", 3, "--json", out)
    ended = run(policy_path, "--plants", IDEAL, BAD, *arguments)
    assert ended == (
        "error: gymnasium and ROS 2 differ without a cause: 1 of 3 episodes of policy on ideal"
    )
    report = json.loads(out.read_text())
    assert [(d["equal"], d["episodes"]) for d in report["ros_minus_gymnasium"]] == [(0, 3)] * 2
    counted = [(r["interventions"], r["faults"]) for r in report["rows"] if r["via"] == "ros"]
    assert counted == [(7, 1), (8, 1)]


def test_a_fault_through_gymnasium_excuses_nothing_over_ros(
    run: Run,
    ros: Callable[..., list[str]],
    policy_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    through_gymnasium = transfer.through_gymnasium

    def diverging(env: Any, policy: PolicyFile, seeds: list[int]) -> tuple[Results, Results]:
        cases, results = through_gymnasium(env, policy, seeds)
        results[0]["fault"] = "the simulation diverged"
        return cases, results

    def differs(plant: Path, results: Results) -> None:
        for result in results:
            result |= {"sha256": "0" * 64, "fault": ""}

    monkeypatch.setattr(transfer, "through_gymnasium", diverging)
    ros(differs)
    ended = run(policy_path, "--plants", IDEAL, "--episodes", 2)
    assert ended.endswith("without a cause: 2 of 2 episodes of policy on ideal")
