# SPDX-License-Identifier: Apache-2.0
"""The training command as a user runs it: processes, killed and resumed."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from smfp_core import checkpoint, export, provenance, train
from smfp_core.agents.smfp import SmfpAgent
from smfp_core.config import load_config
from smfp_core.export import export_run, policy_graph
from smfp_core.policy_file import PolicyFile, PolicyFileError
from smfp_core.progress import RunLog
from smfp_core.strict import ConfigError
from smfp_core.trainer import Trainer

CONFIG = {
    "env_id": "smfp_sim.tasks:smfp/Reach-v0",
    "env_kwargs": {"robot": "ur5e"},
    "steps": 900,
    "warmup_steps": 300,
    "batch_size": 32,
    "n_step": 3,
    "actor_hidden": [32, 32],
    "critic_hidden": [32, 32],
    "act_candidates": 4,
    "eval_every": 450,
    "eval_episodes": 1,
    "checkpoint_every": 325,
    "log_every": 50,
    "noise_choices": 2,
    "compile": False,
}


def write_config(folder: Path, **change: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG | change))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "smfp_core.train", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "training ended before the checkpoint appeared"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(path: Path) -> list[dict[str, str]]:
    timing = ("wall_s", "steps_per_s")
    with path.open(newline="") as file:
        return [{k: v for k, v in r.items() if k not in timing} for r in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = run("--config", write_config(folder), "--run-dir", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_run_writes_configuration_logs_and_the_deterministic_noise(finished: Path):
    assert yaml.safe_load((finished / "config.yaml").read_text())["batch_size"] == 32
    evaluations = rows(finished / "evaluations.csv")
    assert [(r["step"], r["mode"]) for r in evaluations] == [
        (step, mode)
        for step in ("450", "900")
        for mode in ("deterministic", "sampled", "best_of_k")
    ]
    training = rows(finished / "train.csv")
    assert training[0]["step"] == "350"
    assert training[-1]["step"] == "900"
    assert list((finished / "tensorboard").iterdir())
    chosen = json.loads((finished / "deterministic_noise.json").read_text())
    assert len(chosen["noise"]) == 6
    assert len(chosen["returns"]) == 2


def test_killed_and_resumed_run_gives_the_numbers_of_one_never_stopped(
    finished: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command("--config", write_config(tmp_path), "--run-dir", folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(folder / "checkpoints" / "step_000000650", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # In the middle of an episode and of the updates, so that everything has to come back.
    assert checkpoint.latest(folder / "checkpoints").name == "step_000000650"
    result = run("--resume", folder)
    assert result.returncode == 0, result.stderr

    tensors, arrays, values = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    expected = checkpoint.load(checkpoint.latest(finished / "checkpoints"))
    assert tensors.keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert tensor.equal(tensors[name]), name
    for name, array in expected[1].items():
        assert array.tobytes() == arrays[name].tobytes(), name  # to the bit, NaN included
    assert values["rng"] == expected[2]["rng"]
    for log in ("train.csv", "evaluations.csv"):
        # The mean over recent episodes is of the process that shows it.
        recent = ("episode_return", "success")
        both = [
            [{k: v for k, v in r.items() if k not in recent} for r in rows(run / log)]
            for run in (finished, folder)
        ]
        assert both[0] == both[1], log
    origin = json.loads((folder / "provenance.json").read_text())
    assert origin["command"].endswith(f"--run-dir {folder}")
    assert [f"--resume {folder}" in entry for entry in origin["resumed_by"]] == [True]
    noise = [(run / "deterministic_noise.json").read_text() for run in (finished, folder)]
    assert noise[0] == noise[1]


def test_rows_after_a_resume_hold_what_was_learned_before_it(tmp_path: Path):
    # One update in eight steps: the rows of 52 and 54 tell of the one before the checkpoint.
    fields = {"warmup_steps": 40, "steps": 60, "checkpoint_every": 50, "update_every": 8}
    fields |= {"log_every": 2, "eval_every": 1000, "noise_choices": 1}
    config = load_config(write_config(tmp_path, **fields))
    folders = [tmp_path / "whole", tmp_path / "resumed"]
    for folder in folders:
        trainer = Trainer(config, folder)
        if folder == folders[1]:
            shutil.copytree(folders[0] / "checkpoints", folder / "checkpoints")
            trainer.restore(50)
        with RunLog(folder, config.steps, trainer.step, bar=False) as log:
            assert trainer.run(log)
    whole, resumed = (rows(folder / "train.csv") for folder in folders)
    expected = [row for row in whole if int(row["step"]) > 50]
    assert [row["step"] for row in expected] == ["52", "54", "56", "58", "60"]
    for ours, theirs in zip(resumed, expected, strict=True):
        assert ours["critic_loss"] and ours["critic_loss"] == theirs["critic_loss"]


def test_interrupted_run_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path):
    process = subprocess.Popen(
        command("--config", write_config(tmp_path, steps=100_000), "--run-dir", tmp_path / "run"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "run" / "train.csv", process)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'run'}" in errors
    assert checkpoint.latest(tmp_path / "run" / "checkpoints")


def test_evaluate_and_export_take_a_run(finished: Path, tmp_path: Path):
    result = subprocess.run(
        [sys.executable, "-m", "smfp_core.export", finished, "-o", tmp_path / "p.onnx"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    whole = []
    arguments = ("--episodes", "2", "--json", tmp_path / "e.json")
    for policy in (finished, tmp_path / "p.onnx"):
        result = subprocess.run(
            [sys.executable, "-m", "smfp_core.evaluate", policy, *arguments],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        whole.append(json.loads((tmp_path / "e.json").read_text()))
    sha256 = PolicyFile.load(tmp_path / "p.onnx").sha256
    assert [w["policy_sha256"] for w in whole] == [None, sha256]
    assert whole[0]["env_steps"] == whole[1]["env_steps"] == 900
    records = [w["results"] for w in whole]
    assert [r["mode"] for r in records[0]] == ["deterministic", "sampled", "best_of_k"]
    for run_mode, file_mode in zip(records[0][:2], records[1], strict=True):
        assert run_mode["mode"] == file_mode["mode"]
        assert run_mode["return_mean"] == pytest.approx(file_mode["return_mean"], abs=1e-2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batchsize": 3}, "batchsize: unknown key; did you mean 'batch_size'"),
        ({"batch_size": "many"}, "batch_size: expected a whole number"),
        ({"batch_size": 500}, "warmup_steps: 300 is less than batch_size 500"),
        ({"n_step": 270}, "warmup_steps: 300 is less than batch_size 32 and the 269 steps"),
        ({"steps": 300}, "steps: 300 is no more than warmup_steps 300"),
        ({"discount": 1.5}, r"discount: must lie in \(0, 1\]"),
        ({"agent": "ppo"}, "agent: must be one of"),
        ({"actor_hidden": [32, 0]}, "actor_hidden: at least one layer of at least 4 units, got"),
        ({"critic_hidden": [-8]}, "critic_hidden: at least one layer of at least 4 units, got"),
        ({"device": "cuda"}, "device: 'cuda' is not available"),
        (
            {"steps": 10**11, "replay_capacity": 10**11},
            "replay_capacity: 100000000000 transitions of 80 numbers need 32000.0 GB",
        ),
        ({"env_id": "NoSuch-v0"}, "env_id: 'NoSuch-v0' cannot be made"),
        ({"env_id": "a:b:NoSuch-v0"}, "env_id: 'a:b:NoSuch-v0' cannot be made"),
        ({"env_id": "Hopper-v5", "env_kwargs": {"frame_skip": 0}}, "env_id: 'Hopper-v5' cannot"),
        ({"seed": 2**63}, "seed: must be less than 2^63, got 9223372036854775808"),
        ({"env_kwargs": {"robot": "ur99"}}, "ur99"),
        ({"env_kwargs": {"robot": "True"}}, "env_kwargs.robot: 'True' is text; write true without"),
        ({"env_kwargs": {"robot": [1]}}, "env_kwargs.robot: expected true or false or a whole"),
        ({"env_id": "CartPole-v1", "env_kwargs": {}}, "needs Box spaces"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, change: dict[str, object], text: str):
    if change == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("this machine has what is missing here")
    result = run("--config", write_config(tmp_path, **change), "--run-dir", tmp_path / "run")
    assert result.returncode == 1
    assert text.replace("\\", "") in result.stderr
    assert "Traceback" not in result.stderr


def test_fields_can_be_given_by_name_and_wrong_ones_are_named(tmp_path: Path, finished: Path):
    path = write_config(tmp_path)
    result = run("--config", path, "--run-dir", tmp_path / "run", "--batch-size", "few")
    assert result.returncode != 0
    assert "batch-size" in result.stderr
    result = run("--config", path, "--run-dir", tmp_path / "run", "--batchsize", "8")
    assert result.returncode != 0
    assert "batchsize" in result.stderr
    result = run("--config", path, "--run-dir", finished)
    assert "holds a run already" in result.stderr
    result = run("--resume", finished, "--batch-size", "8")
    assert "only --steps may be changed" in result.stderr
    result = run("--resume", tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    # A YAML cannot say it, the command line can.
    result = run("--config", path, "--run-dir", tmp_path / "run", "--mirror-weight", "nan")
    assert "mirror_weight: must be finite, got nan" in result.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_run_of_another_robot_model_is_neither_resumed_nor_exported(finished: Path, tmp_path: Path):
    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    contract = json.loads((run_folder / "contract.json").read_text())
    contract["mjcf_sha256"] = "0" * 64
    (run_folder / "contract.json").write_text(json.dumps(contract))
    export = [sys.executable, "-m", "smfp_core.export", run_folder, "-o", tmp_path / "p.onnx"]
    for result in (
        run("--resume", run_folder),
        subprocess.run(export, capture_output=True, text=True),
    ):
        assert result.returncode == 1
        assert "mjcf_sha256 changed since this run was trained" in result.stderr
    assert not (tmp_path / "p.onnx").exists()


def test_run_that_does_not_say_its_tool_is_exported_and_one_of_another_tool_is_not(
    finished: Path, tmp_path: Path
):
    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    path = run_folder / "contract.json"
    contract = json.loads(path.read_text())
    assert contract.pop("tool_site") == "tool0"
    path.write_text(json.dumps(contract))
    export = [sys.executable, "-m", "smfp_core.export", run_folder, "-o", tmp_path / "p.onnx"]
    assert subprocess.run(export, capture_output=True, text=True).returncode == 0
    path.write_text(json.dumps(contract | {"tool_site": "gripper"}))
    result = run("--resume", run_folder)
    assert result.returncode == 1
    assert "tool_site changed since this run was trained" in result.stderr


def test_a_run_does_not_go_back_and_a_refusal_changes_nothing(finished: Path, tmp_path: Path):
    before = (finished / "config.yaml").read_text()
    for options, text in (
        (("--steps", 400), "steps: 400, but .* is at step 900 already"),
        (("--config", write_config(tmp_path)), "--config: has no meaning with --resume"),
        (("--run-dir", tmp_path), "--run-dir: has no meaning with --resume"),
    ):
        result = run("--resume", finished, *options)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert re.search(text, result.stderr), result.stderr
    assert (finished / "config.yaml").read_text() == before
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    for path in damaged.glob("checkpoints/*/agent.safetensors"):
        path.write_bytes(b"")
    result = run("--resume", damaged, "--steps", "1000")
    assert result.returncode == 1 and "cannot be read" in result.stderr
    assert (damaged / "config.yaml").read_text() == before


def test_a_run_that_begins_anew_keeps_nothing_of_a_dead_one(tmp_path: Path):
    # Killed before its first checkpoint, with another command, on another version of the robot.
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "provenance.json").write_text('{"command": "old"}')
    (folder / "contract.json").write_text('{"robot_name": "old"}')
    (folder / "deterministic_noise.json").write_text('{"noise": [1.7]}')
    (folder / "train.csv").write_text("step,critic_loss\n100,1.0\n")
    (folder / "evaluations.csv").write_text("step,mode\n100,sampled\n")
    # While it wrote its first checkpoint.
    half = folder / "checkpoints" / ".step_000000100.4711"
    half.mkdir(parents=True)
    (half / "agent.safetensors").write_text("half")
    path = write_config(tmp_path, steps=310, log_every=5)
    result = run("--config", path, "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    assert "smfp_core.train" in json.loads((folder / "provenance.json").read_text())["command"]
    assert json.loads((folder / "contract.json").read_text())["robot_name"] == "ur5e"
    with (folder / "train.csv").open(newline="") as file:
        assert "mirror_loss" in next(csv.reader(file))
    assert "return_mean" in (folder / "evaluations.csv").read_text()
    assert "1.7" not in (folder / "deterministic_noise.json").read_text()
    assert not half.exists()


def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path: Path):
    folder = tmp_path / "run"
    with train.locked(folder):
        result = run("--config", write_config(tmp_path), "--run-dir", folder)
    assert result.returncode == 1
    assert f"{folder}: another process is training in it" in result.stderr
    assert not (folder / "config.yaml").exists()


def test_checkpoints_are_whole_or_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def save(step: int, value: float) -> None:
        checkpoint.save(tmp_path, step, {"w": torch.tensor(value)}, {"a": np.zeros(1)}, {})

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    for step in (10, 20):
        save(step, float(step))
    # What is there is not written again, so that it cannot be lost meanwhile.
    save(20, 99.0)
    assert checkpoint.load_agent_tensors(checkpoint.latest(tmp_path))["w"] == 20.0
    # A process that is killed while it deletes the oldest leaves no half of it.
    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    monkeypatch.setattr(checkpoint.os, "getpid", lambda: 4711)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.drop_after(tmp_path, 10)
    assert checkpoint.steps(tmp_path) == {10}
    monkeypatch.undo()
    checkpoint.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000010"]


def test_a_run_made_on_a_gpu_is_exported_without_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"device": "cuda", "precision": "bfloat16"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    # Nothing is learned in an export, so that nothing is slow for want of hardware.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    warnings.simplefilter("error", UserWarning)
    # Its generator's state, which no generator of a CPU takes.
    path = checkpoint.latest(folder / "checkpoints") / "agent.safetensors"
    tensors = load_file(path)
    tensors["generator"] = torch.zeros(16, dtype=torch.uint8)
    save_file(tensors, path)
    policies = [export_run(f, tmp_path / f"{f.name}.onnx") for f in (finished, folder)]
    golden = [policy.metadata.golden for policy in policies]
    assert golden[0] == golden[1]


def test_an_export_that_fails_leaves_the_file_that_was_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"a good one")
    monkeypatch.setattr(export, "policy_graph", broken_graph)
    with pytest.raises(PolicyFileError, match=r"golden\[0\]"):
        export_run(finished, path)
    assert path.read_bytes() == b"a good one"
    assert list(tmp_path.iterdir()) == [path]


def broken_graph(agent: SmfpAgent) -> onnx.ModelProto:
    """The graph of a policy that is not the agent's."""
    agent.state["actor"].mul_(1.5)
    return policy_graph(agent)


def test_evaluation_can_be_filmed(finished: Path, tmp_path: Path):
    film = tmp_path / "film.gif"
    command = [sys.executable, "-m", "smfp_core.evaluate", finished, "--episodes", "1"]
    result = subprocess.run(
        [*command, "--video", film, "--video-episodes", "1"], capture_output=True, text=True
    )
    if "OpenGL" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    frames = imageio.imread(film)
    assert frames.shape[1:] == (240, 320, 3)
    # The arm moves: the first and the last picture differ.
    assert (frames[0] != frames[-1]).any()


def test_a_film_that_fails_loses_nothing_that_was_measured(finished: Path, tmp_path: Path):
    measured = tmp_path / "e.json"
    command = [sys.executable, "-m", "smfp_core.evaluate", finished, "--episodes", "1"]
    for film, kept, text in (
        (tmp_path / "film.avix", False, "error: --video: must end in .mp4 or .gif"),
        (tmp_path / "film.gif", True, "error: --video: "),
    ):
        result = subprocess.run(
            [*command, "--json", measured, "--video", film],
            capture_output=True,
            text=True,
            env={**os.environ, "MUJOCO_GL": "disabled"},
        )
        assert result.returncode == 1
        assert text in result.stderr and "Traceback" not in result.stderr
        assert measured.exists() == kept == ("deterministic" in result.stdout)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--seed", "-1"), "--seed: must not be negative, got -1"),
        (("--json", "{blocker}/e.json"), "--json: {blocker} cannot be made"),
        (("--json", "{folder}"), "--json: {folder} is a folder"),
        (("--video", "{blocker}/film.gif"), "--video: {blocker} cannot be made"),
    ],
)
def test_options_of_an_evaluation_are_refused_before_anything_is_played(
    finished: Path, tmp_path: Path, options: tuple[str, str], text: str
):
    blocker = tmp_path / "no_folder"
    blocker.write_text("")
    places = {"blocker": blocker, "folder": tmp_path}
    given = [option.format(**places) for option in options]
    command = [sys.executable, "-m", "smfp_core.evaluate", finished, "--episodes", "1"]
    result = subprocess.run([*command, *given], capture_output=True, text=True)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.startswith(f"error: {text.format(**places)}")


def test_a_policy_file_has_the_suffix_that_everything_looks_for(finished: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--output: must end in \.onnx, got .*policy\.json"):
        export_run(finished, tmp_path / "policy.json")
    assert not list(tmp_path.iterdir())


def test_revision_is_that_of_the_checkout_that_the_code_is_part_of(tmp_path: Path):
    package, config = tmp_path / "smfp_core", tmp_path / "config" / "a.yaml"
    for folder in (package, config.parent):
        folder.mkdir()
    for name in ("__init__.py", "atomic.py", "provenance.py", "strict.py"):
        shutil.copy(Path(provenance.__file__).parent / name, package)
    config.write_text("a: 1\n")

    def git(*words: str) -> None:
        user = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *user, *words], cwd=tmp_path, check=True, capture_output=True)

    def revision() -> str:
        code = "from smfp_core.provenance import git_revision; print(git_revision())"
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    git("init")
    git("commit", "--allow-empty", "-m", "of another project")
    assert revision() == "unknown"
    git("add", ".")
    git("commit", "-m", "ours")
    assert re.fullmatch(r"[0-9a-f]{40}", revision())
    config.write_text("a: 2\n")
    assert re.fullmatch(r"[0-9a-f]{40}\+", revision())


def test_what_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(tmp_path: Path):
    folder = tmp_path / "run"
    config = write_config(tmp_path, steps=340, checkpoint_every=300, log_every=20, eval_every=1000)
    result = run("--config", config, "--run-dir", folder, "--critic-learning-rate", "1e30")
    assert result.returncode == 1
    assert "not finite by step 30" in result.stderr and "Traceback" not in result.stderr
    assert "action, actor, " in result.stderr
    path = checkpoint.latest(folder / "checkpoints")
    assert path.name == "step_000000300"


def test_report_shows_the_curves_of_a_run(finished: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "smfp_core.report", finished, "-o", page]
    assert subprocess.run(command, capture_output=True).returncode == 0
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    with (cut / "evaluations.csv").open("a") as file:
        file.write("1350,7.2,samp")  # a crash in the middle of a row
    assert subprocess.run([*command[:3], cut], capture_output=True).returncode == 0
    assert "best_of_k" in text and "effective_samples" in text and "batch_size: 32" in text
    command[3] = tmp_path
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "has no config.yaml" in result.stderr
    for name in ("config.yaml", "train.csv", "evaluations.csv"):
        header = (finished / name).read_text().splitlines()[0]
        (tmp_path / name).write_text(header + "\n")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "has logged nothing yet" in result.stderr
