# SPDX-License-Identifier: Apache-2.0
"""System identification: hidden parameters of a plant are found from its motion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from smfp_core.robot import RobotConfig, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.identify import chirp, identify, load, main, plant_yaml, record, save
from smfp_sim.plant import Channel, Encoder, Joints, Plant, Servo, load_plant

HIDDEN = Plant(
    command=Channel(delay_s=0.010),
    state=Channel(delay_s=0.006),
    encoder=Encoder(noise_rad=2e-4),
    servo=Servo(gain_factor=0.8),
    joints=Joints(friction_factor=1.8, damping_factor=1.5, armature_factor=1.3),
)


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot("ur5e")


def test_hidden_parameters_are_found_within_a_tenth(robot: RobotConfig, tmp_path: Path) -> None:
    log = tmp_path / "motion.npz"
    save(record(robot, HIDDEN, chirp(robot, 2.5), seed=1), log)
    estimates = identify(robot, load(log, 6))
    found = {name: estimate.value for name, estimate in estimates.items()}
    assert found["delay_s"] == pytest.approx(0.016, rel=0.1)
    assert found["gain_factor"] == pytest.approx(0.8, rel=0.1)
    assert found["friction_factor"] == pytest.approx(1.8, rel=0.1)
    assert found["damping_factor"] == pytest.approx(1.5, rel=0.1)
    assert found["armature_factor"] == pytest.approx(1.3, rel=0.1)
    for name, estimate in estimates.items():
        assert 0.0 < estimate.margin < 0.1 * estimate.value, name
    file = tmp_path / "found.yaml"
    file.write_text(plant_yaml(estimates, log.name))
    plant = load_plant(file)
    assert plant.servo.gain_factor == pytest.approx(found["gain_factor"], abs=1e-6)
    assert plant.command.delay_s == pytest.approx(found["delay_s"], abs=1e-6)
    assert "95 percent confidence" in file.read_text()


@pytest.mark.parametrize("name", ["ur5e", "fr3"])
@pytest.mark.parametrize("duration_s", [8.0, 2.5])
def test_the_chirp_keeps_to_what_the_arm_can_do(name: str, duration_s: float) -> None:
    robot = load_robot(name)
    command, dt = chirp(robot, duration_s), 1.0 / robot.control_rate_hz
    np.testing.assert_array_equal(command[[0, -1]], np.tile(robot.home_rad, (2, 1)))
    # At rest before and after it, too.
    command = np.concatenate([command[:1], command, command[-1:]])
    velocity = np.diff(command, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    assert np.abs(command - robot.home_rad).max() <= 0.15
    assert np.abs(velocity).max() < 0.7
    assert np.all(np.abs(acceleration).max(axis=0) <= robot.limits.acceleration)
    # Fast enough that inertia shows: the last quarter still moves back and forth.
    assert np.abs(velocity[-len(velocity) // 4 : -300]).max() > 0.2


def test_the_chirp_stays_within_the_range_of_a_joint_whose_home_is_near_its_end(
    robot: RobotConfig,
) -> None:
    end = robot.limits.position_max[2]
    elbow = dataclasses.replace(robot.joints[2], home_rad=end - 0.04)
    joints = (*robot.joints[:2], elbow, *robot.joints[3:])
    command = chirp(dataclasses.replace(robot, joints=joints))
    assert end - 0.005 < command[:, 2].max() <= end
    assert np.abs(command[:, 1] - robot.home_rad[1]).max() > 0.1


def test_a_log_that_cannot_be_used_is_refused_by_file_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {name: np.zeros((200, 6)) for name in ("command_rad", "position_rad", "effort_nm")}
    for changed, text in (
        ({"effort_nm": np.zeros((199, 6))}, "effort_nm: expected at least 100 rows of 6 joints"),
        ({"position_rad": np.full((200, 6), np.nan)}, "position_rad: must be finite"),
    ):
        path = tmp_path / "log.npz"
        np.savez(path, **(good | changed))
        with pytest.raises(ConfigError, match=f"log.npz: {text}"):
            load(path, 6)
    np.savez(tmp_path / "part.npz", command_rad=np.zeros((200, 6)))
    assert main([str(tmp_path / "part.npz")]) == 1
    assert "part.npz: position_rad: missing" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "empty.npz", "array.npy"):
        assert main([str(tmp_path / name)]) == 1
        assert f"{name}: cannot be read as .npz" in capsys.readouterr().err
    assert main([str(tmp_path / "none.npz"), "--record", "perfect"]) == 1
    assert "plant 'perfect'" in capsys.readouterr().err


def test_a_motion_that_stands_still_tells_nothing(robot: RobotConfig) -> None:
    still = np.tile(robot.home_rad, (150, 1))
    with pytest.raises(ConfigError, match="does not tell the parameters apart"):
        identify(robot, record(robot, Plant(), still))
