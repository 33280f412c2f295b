# SPDX-License-Identifier: Apache-2.0
"""The arm model's checks, its kinematics, and the simulated arm as a robot stand-in."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smfp_core.robot import RobotConfig, RobotConfigError, load_robot
from smfp_sim.arm import ArmModel, Kinematics, SimulatedArm, SimulationDiverged


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot("ur5e")


@pytest.fixture(scope="module")
def arm(robot: RobotConfig) -> ArmModel:
    return ArmModel(robot)


def edited(robot: RobotConfig, folder: Path, old: str, new: str) -> RobotConfig:
    """The robot with an MJCF in which ``old`` is replaced."""
    text = robot.mjcf.read_text(encoding="utf-8")
    assert old in text
    path = folder / "edited.xml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return dataclasses.replace(robot, mjcf=path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('<joint name="elbow_joint"', '<joint name="elbow"', "does not compile"),
        ('"wrist_3_joint"', '"wrist_3"', r"joints\[5\]\.name: no joint named 'wrist_3_joint'"),
        (
            '<position name="wrist_1_joint" joint="wrist_1_joint" class="joint_28"/>',
            "",
            r"joints\[3\]\.name: .*'wrist_1_joint' must have one actuator.*has 0",
        ),
        (
            '<position name="wrist_1_joint" joint="wrist_1_joint" class="joint_28"/>',
            '<motor name="wrist_1_joint" joint="wrist_1_joint" ctrlrange="-1 1"/>',
            r"joints\[3\]\.name: .*not a position servo",
        ),
        *(
            (
                '<position name="wrist_1_joint" joint="wrist_1_joint" class="joint_28"/>',
                f'<position name="wrist_1_joint" joint="wrist_1_joint" class="joint_28" {change}/>',
                reason,
            )
            for change, reason in (
                ('gear="2"', r"joints\[3\]\.name: .*servo of gear 1"),
                ('gear="-1"', r"joints\[3\]\.name: .*servo of gear 1"),
                ('timeconst="0.2"', r"joints\[3\]\.name: .*without activation dynamics"),
                (
                    'inheritrange="0" ctrllimited="true" ctrlrange="-0.5 0.5"',
                    r"joints\[3\]\.position_rad: the ctrlrange of 'wrist_1_joint'",
                ),
            )
        ),
        ('<site name="tool0"/>', "", "tool_site: no site named 'tool0'"),
        ('"base_link"', '"pedestal"', "base_frame: no body named 'base_link'"),
        (
            'class="joint_150" range="-3.141592653589793 3.141592653589793"',
            'class="joint_150" range="-3 3"',
            r"joints\[2\]\.position_rad: the YAML says",
        ),
        ('forcerange="-28 28" ', 'forcerange="-56 56" ', r"joints\[3\]\.effort_nm: the YAML says"),
        ('timestep="0.002"', 'timestep="0.003"', "control_rate_hz: .*multiple of the timestep"),
        (
            '<joint name="wrist_3_joint" class="joint_28"/>',
            '<joint name="wrist_3_joint" class="joint_28" type="slide"/>',
            r"joints\[5\]\.name: joint 'wrist_3_joint' is not a hinge",
        ),
        (
            '<joint name="wrist_3_joint" class="joint_28"/>',
            '<joint name="wrist_3_joint" class="joint_28" limited="false"/>',
            r"joints\[5\]\.position_rad: joint 'wrist_3_joint' has no range",
        ),
        (
            '<body name="base_link" childclass="ur5e">',
            '<body name="base_link" childclass="ur5e"><freejoint/>',
            "base_frame: body 'base_link' is not fixed",
        ),
    ],
)
def test_an_mjcf_that_disagrees_with_the_yaml_is_refused_by_field(
    robot: RobotConfig, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    with pytest.raises(RobotConfigError, match=reason):
        ArmModel(edited(robot, tmp_path, old, new))


def test_tool_position_is_in_the_base_frame_wherever_the_base_stands(
    robot: RobotConfig, arm: ArmModel, tmp_path: Path
) -> None:
    old = '<body name="base_link"'
    moved = ArmModel(edited(robot, tmp_path, old, f'{old} pos="1 -2 0.5" euler="0.1 -0.4 2"'))
    here, there = Kinematics(arm), Kinematics(moved)
    for q in np.random.default_rng(1).uniform(-3, 3, (20, 6)):
        np.testing.assert_allclose(there.tool_position(q), here.tool_position(q), atol=1e-12)
        np.testing.assert_allclose(there.tool_jacobian(q), here.tool_jacobian(q), atol=1e-12)


def test_jacobian_is_the_derivative_of_the_tool_position(arm: ArmModel) -> None:
    kinematics, h = Kinematics(arm), 1e-6
    for q in np.random.default_rng(2).uniform(-3, 3, (20, 6)):
        columns = [
            (kinematics.tool_position(q + h * e) - kinematics.tool_position(q - h * e)) / (2 * h)
            for e in np.eye(6)
        ]
        np.testing.assert_allclose(kinematics.tool_jacobian(q), np.transpose(columns), atol=1e-8)


def test_tool_position_writes_to_the_given_array(arm: ArmModel) -> None:
    kinematics, out = Kinematics(arm), np.zeros(3)
    result = kinematics.tool_position(arm.robot.home_rad, out)
    assert result is out
    np.testing.assert_array_equal(out, kinematics.tool_position(arm.robot.home_rad))


def test_reset_stands_still_at_the_given_pose(arm: ArmModel) -> None:
    plant, q = SimulatedArm(arm), np.array([0.3, -1.2, 1.1, -1.0, -0.7, 0.4])
    plant.command_velocity(np.ones(6))
    plant.step(0.1)
    plant.reset(q)
    assert plant.time_s == 0.0
    plant.step(0.2)
    assert plant.time_s == pytest.approx(0.2)
    np.testing.assert_allclose(plant.joint_position, q, atol=1e-6)
    np.testing.assert_allclose(plant.joint_velocity, 0.0, atol=1e-6)


def test_position_commands_are_clipped_to_the_joint_range(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    plant.command_position([10.0, -10.0, 10.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(
        plant.reference_position, [2 * np.pi, -2 * np.pi, np.pi, 0.0, 0.0, 0.0]
    )


def test_velocity_commands_move_the_joints_at_that_velocity(arm: ArmModel) -> None:
    plant, velocity = SimulatedArm(arm), np.array([0.2, -0.1, 0.1, 0.3, -0.3, 0.5])
    plant.command_velocity(velocity)
    plant.step(0.5)
    np.testing.assert_allclose(plant.joint_velocity, velocity, atol=2e-3)
    before = plant.joint_position
    plant.command_position(plant.reference_position)
    plant.step(0.5)
    np.testing.assert_allclose(plant.joint_velocity, 0.0, atol=2e-3)
    assert np.abs(plant.joint_position - before).max() < 0.03


@pytest.mark.parametrize("bad", [[0.0] * 5, [0.0] * 7, [np.nan] + [0.0] * 5, [np.inf] + [0.0] * 5])
def test_malformed_commands_are_refused_and_change_nothing(arm: ArmModel, bad: list[float]) -> None:
    plant = SimulatedArm(arm)
    before = plant.reference_position
    for take in (plant.command_position, plant.command_velocity, plant.reset):
        with pytest.raises(ValueError, match="joint values"):
            take(bad)
    np.testing.assert_array_equal(plant.reference_position, before)


@pytest.mark.parametrize("dt_s", [0.0, -0.002, 0.003, 0.0001])
def test_a_step_that_is_no_whole_number_of_physics_steps_is_refused(
    arm: ArmModel, dt_s: float
) -> None:
    with pytest.raises(ValueError, match="dt_s"):
        SimulatedArm(arm).step(dt_s)


def test_another_physics_rate_keeps_the_clock(robot: RobotConfig) -> None:
    model = ArmModel(robot)
    model.model.opt.timestep = 0.001
    plant = SimulatedArm(model)
    plant.command_velocity(np.full(6, 0.1))
    plant.step(0.5)
    assert plant.time_s == pytest.approx(0.5)
    moved = plant.reference_position - robot.home_rad
    np.testing.assert_allclose(moved, 0.05, atol=1e-9)


def test_contact_at_the_reset_pose_is_reported(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    plant.reset([0.0, 0.3, 0.0, 0.0, 0.0, 0.0])
    assert plant.in_contact
    assert any("floor" in pair for pair in plant.contacts())


def test_effort_never_exceeds_the_limits_even_on_a_jump(arm: ArmModel) -> None:
    plant, limits = SimulatedArm(arm), np.array([j.effort_nm for j in arm.robot.joints])
    plant.command_position(arm.robot.home_rad + 1.0)
    largest = np.zeros(6)
    for _ in range(200):
        plant.step()
        largest = np.maximum(largest, np.abs(plant.joint_effort))
    assert np.all(largest <= limits + 1e-9)
    assert largest[0] == pytest.approx(limits[0])


def test_floor_contact_is_reported_by_name(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    plant.reset(np.zeros(6))
    assert not plant.in_contact
    plant.command_velocity([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(500):
        plant.step()
        if plant.in_contact:
            break
    assert any("floor" in pair for pair in plant.contacts())


def test_a_restored_arm_goes_on_to_the_bit(arm: ArmModel) -> None:
    plant, other = SimulatedArm(arm), SimulatedArm(arm)
    plant.reset(np.zeros(6))
    # Into the floor: contact forces make the warm start count.
    plant.command_velocity([0.3, 0.8, 0.1, 0.0, 0.2, -0.4])
    plant.step(0.6)
    assert plant.in_contact
    saved = plant.snapshot()
    other.restore(saved)
    plant.step(0.2)
    other.step(0.2)
    for name, value in plant.snapshot().items():
        np.testing.assert_array_equal(other.snapshot()[name], value)
    np.testing.assert_array_equal(other.joint_effort, plant.joint_effort)


def test_a_snapshot_of_another_model_is_refused(arm: ArmModel) -> None:
    plant = SimulatedArm(arm)
    with pytest.raises(ValueError, match="another model"):
        plant.restore({**plant.snapshot(), "physics": np.zeros(7)})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_diverged_simulation_says_so_and_recovers_on_reset(
    arm: ArmModel, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file in the working folder
    plant = SimulatedArm(arm)
    plant.data.qvel[0] = value
    with pytest.raises(SimulationDiverged, match="ur5e"):
        plant.step()
    plant.reset(arm.robot.home_rad)
    plant.step(0.1)
    np.testing.assert_allclose(plant.joint_position, arm.robot.home_rad, atol=1e-6)


def test_the_arm_needs_neither_gymnasium_nor_torch() -> None:
    script = (
        "import sys, smfp_sim.arm; print([m for m in ('gymnasium', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
