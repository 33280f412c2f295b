# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from smfp_core.agents.smfp import SmfpAgent
from smfp_core.collector import make_env
from smfp_core.config import TrainConfig
from smfp_core.contract import contract_of, require_same_task
from smfp_core.export import policy_graph, policy_metadata, write_policy_file
from smfp_core.policy_file import METADATA_KEY, PolicyFile, PolicyFileError, digest, seal
from smfp_core.resources import share_path
from smfp_core.robot import load_robot
from smfp_core.specs import ControlAssumptions


def rewritten(path: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose metadata was changed and sealed anew: only the change can be refused."""
    model = onnx.load(path)
    (entry,) = (item for item in model.metadata_props if item.key == METADATA_KEY)
    data = json.loads(entry.value)
    change(data)
    data["sha256"] = "0" * 64
    entry.value = json.dumps(data)
    target.write_bytes(seal(model.SerializeToString()))
    return target


def test_torch_and_onnx_agree_on_random_inputs(policy_path: Path, reach_agent: SmfpAgent):
    policy = PolicyFile.load(policy_path)
    rng = np.random.default_rng(5)
    observation = 2 * rng.standard_normal((1000, policy.observation.size)).astype(np.float32)
    noise = rng.standard_normal((1000, policy.action.size)).astype(np.float32)
    batch = policy.sample_batch(observation, noise)
    for o, e, row in zip(observation, noise, batch, strict=True):
        expected = reach_agent.sample(o, e)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(policy.sample(o, e), expected, rtol=0, atol=1e-5)


def test_actions_stay_in_the_box_and_nan_is_not_hidden(policy_path: Path):
    policy = PolicyFile.load(policy_path)
    observation = np.full(policy.observation.size, 1e6)
    assert np.abs(policy.sample(observation, 100 * np.ones(6))).max() <= 1.0
    observation[3] = np.nan
    assert np.isnan(policy.sample(observation, np.zeros(6))).any()


def test_loading_for_the_robot_it_was_trained_for(policy_path: Path):
    policy = PolicyFile.load(policy_path, load_robot("ur5e"))
    assert policy.robot_name == "ur5e"
    assert policy.metadata.robot.tool_site == "tool0"
    assert policy.action.ticks_per_action == 10
    assert policy.sha256 == digest(policy_path.read_bytes())


def test_a_file_says_what_was_randomised_and_older_ones_need_not(
    policy_path: Path, reach_agent: SmfpAgent, small_config: TrainConfig, tmp_path: Path
):
    contract = contract_of(make_env(small_config.env_id, {"randomization": "realistic"}))
    golden = PolicyFile.load(policy_path).metadata.golden
    metadata = policy_metadata(
        reach_agent, small_config, contract, np.zeros(6, np.float32), golden, 0, "test"
    )
    path = tmp_path / "randomized.onnx"
    write_policy_file(path, policy_graph(reach_agent), metadata)
    control = PolicyFile.load(path).metadata.control
    assert control.state_delay_s == pytest.approx(0.024)
    assert control.velocity_filter_s == 0.02
    entry = control.randomization["randomize"][0]
    assert (entry["field"], entry["range"]) == ("command.delay_s", [0.0, 0.02])

    def forget(data: dict[str, Any]) -> None:
        for key in ("state_delay_s", "velocity_filter_s", "randomization"):
            del data["control"][key]

    older = PolicyFile.load(rewritten(policy_path, tmp_path / "older.onnx", forget))
    assert older.metadata.control == ControlAssumptions(0.0, "none")
    # The site was recorded later, too.
    ur5e = load_robot("ur5e")
    shipped = PolicyFile.load(share_path("config/policies/ur5e_reach.onnx"), ur5e)
    assert shipped.metadata.robot.tool_site == ""
    require_same_task(shipped, make_env(small_config.env_id, {}))
    assert shipped.metadata.control.state_delay_s is None


def test_importing_and_loading_needs_no_torch(policy_path: Path):
    code = (
        "import sys; from smfp_core.policy_file import PolicyFile; "
        f"PolicyFile.load({str(policy_path)!r}); "
        "print([m for m in ('torch', 'gymnasium', 'onnx', 'rclpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(policy_path: Path, tmp_path: Path, share: float):
    data = policy_path.read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PolicyFileError, match="sha256"):
        PolicyFile.load(broken)


def test_any_flipped_byte_is_refused(policy_path: Path, tmp_path: Path):
    data = policy_path.read_bytes()
    broken = tmp_path / "broken.onnx"
    for position in np.random.default_rng(0).integers(len(data), size=200):
        changed = bytearray(data)
        changed[position] ^= 0x10
        broken.write_bytes(changed)
        with pytest.raises(PolicyFileError, match="sha256"):
            PolicyFile.load(broken)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(PolicyFileError, match="file: cannot be read"):
        PolicyFile.load(tmp_path / "none.onnx")


TOP_LEVEL = [
    "observation",
    "action",
    "robot",
    "control",
    "deterministic_noise",
    "training",
    "golden",
]


@pytest.mark.parametrize("key", TOP_LEVEL)
def test_missing_key_is_named(policy_path: Path, tmp_path: Path, key: str):
    path = rewritten(policy_path, tmp_path / "p.onnx", lambda data: data.pop(key))
    with pytest.raises(PolicyFileError) as error:
        PolicyFile.load(path)
    assert error.value.field == key


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key)] if isinstance(data, list) else data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("schema", 2, "schema"),
        ("schema", "1", "schema"),
        ("surprise", 1, "surprise"),
        ("action.joint_names", ["a", "b"], "action"),
        ("action.scale_rad_s", [1.0] * 5, "action"),
        ("action.kind", "torque", "action"),
        ("action.policy_period_s", "fast", "action.policy_period_s"),
        ("deterministic_noise", [0.0], "deterministic_noise"),
        ("deterministic_noise", ["x"] * 6, "deterministic_noise[0]"),
        ("observation.fields.0.name", "colour", "observation"),
        ("observation.fields.0.size", 5, "graph.inputs"),
        ("golden.action", [[0.0] * 6], "golden.action"),
        ("robot.name", 7, "robot.name"),
    ],
)
def test_wrong_value_is_named(policy_path: Path, tmp_path: Path, path: str, value: Any, field: str):
    broken = rewritten(policy_path, tmp_path / "p.onnx", put(path, value))
    with pytest.raises(PolicyFileError) as error:
        PolicyFile.load(broken)
    assert error.value.field == field


def test_golden_vectors_that_this_computer_does_not_reproduce_are_refused(
    policy_path: Path, tmp_path: Path
):
    def change(data: dict[str, Any]) -> None:
        data["golden"]["action"][2][0] += 2e-5

    path = rewritten(policy_path, tmp_path / "p.onnx", change)
    with pytest.raises(PolicyFileError, match=r"golden\[2\]"):
        PolicyFile.load(path)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("robot.name", "panda", "robot.name"),
        ("robot.mjcf_sha256", "0" * 64, "robot.mjcf_sha256"),
        ("robot.tool_site", "gripper", "robot.tool_site"),
        ("action.control_period_s", 0.001, "action.control_period_s"),
        ("action.policy_period_s", 0.04, "action.policy_period_s"),
        ("action.scale_rad_s", [1.0] * 5 + [1.5], "action.scale_rad_s"),
        ("action.acceleration_rad_s2", [5.0] * 6, "action.acceleration_rad_s2"),
    ],
)
def test_policy_of_another_robot_is_refused(
    policy_path: Path, tmp_path: Path, path: str, value: Any, field: str
):
    other = rewritten(policy_path, tmp_path / "p.onnx", put(path, value))
    PolicyFile.load(other)
    with pytest.raises(PolicyFileError) as error:
        PolicyFile.load(other, load_robot("ur5e"))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("robot.name", "panda", "robot.name"),
        ("robot.mjcf_sha256", "0" * 64, "robot.mjcf_sha256"),
        ("robot.tool_site", "gripper", "robot.tool_site"),
        ("action.scale_rad_s", [1.0] * 5 + [1.5], "action.scale_rad_s"),
        ("observation.fields.0.unit", "deg", "observation"),
    ],
)
def test_it_is_judged_in_the_task_that_it_was_trained_for_alone(
    policy_path: Path,
    tmp_path: Path,
    small_config: TrainConfig,
    path: str,
    value: Any,
    field: str,
):
    env = make_env(small_config.env_id, small_config.env_kwargs)
    require_same_task(PolicyFile.load(policy_path), env)
    # On another plant, too: what it does there is the question.
    plant = {**small_config.env_kwargs, "plant": "realistic_delay"}
    require_same_task(PolicyFile.load(policy_path), make_env(small_config.env_id, plant))
    other = PolicyFile.load(rewritten(policy_path, tmp_path / "p.onnx", put(path, value)))
    with pytest.raises(PolicyFileError, match="the task now has") as error:
        require_same_task(other, env)
    assert error.value.field == field
    with pytest.raises(PolicyFileError, match="is not a task of a robot"):
        require_same_task(other, make_env("Pendulum-v1", {}))


def test_positions_in_another_frame_are_refused(policy_path: Path):
    robot = dataclasses.replace(load_robot("ur5e"), base_frame="world")
    with pytest.raises(PolicyFileError, match=r"trained in the frame 'base_link'.* is 'world'"):
        PolicyFile.load(policy_path, robot)


def test_joint_order_of_another_robot_is_refused(policy_path: Path, tmp_path: Path):
    robot = load_robot("ur5e")
    swapped = dataclasses.replace(
        robot, joints=(robot.joints[1], robot.joints[0], *robot.joints[2:])
    )
    with pytest.raises(PolicyFileError) as error:
        PolicyFile.load(policy_path, swapped)
    assert error.value.field == "action.joint_names"


def test_model_without_metadata_is_refused(policy_path: Path, tmp_path: Path):
    model = onnx.load(policy_path)
    (entry,) = model.metadata_props
    entry.key = "other"
    path = tmp_path / "p.onnx"
    path.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(PolicyFileError, match="metadata_props"):
        PolicyFile.load(path)
