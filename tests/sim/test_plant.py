# SPDX-License-Identifier: Apache-2.0
"""The plant: what each of its faults does to an arm, and that a seed repeats it to the bit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from restoring import assert_goes_on_to_the_bit

from smfp_core.robot import RobotConfig, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.arm import ArmModel, SimulatedArm
from smfp_sim.episode import Trajectory
from smfp_sim.plant import (
    Channel,
    Encoder,
    Joints,
    Payload,
    Plant,
    Servo,
    load_plant,
)
from smfp_sim.plant_arm import PAYLOAD_BODY, PlantArm, make_arm
from smfp_sim.tasks.reach import ReachEnv

PLANTS = sorted((Path(__file__).resolve().parents[2] / "config/plants").glob("*.yaml"))
DT = 0.002


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot("ur5e")


def swing(arm: SimulatedArm, ticks: int, seed: int | None = 0) -> Trajectory:
    """A slow circle of all joints about home, commanded every tick; sampled every tick."""
    home, trajectory = arm.arm.robot.home_rad, Trajectory(DT)
    arm.reset(home, seed)
    for k in range(ticks):
        arm.command_position(home + 0.3 * np.sin(2.0 * DT * k))
        arm.step(DT)
        arm.sample()
        trajectory.add(arm)
    return trajectory


def settled(arm: SimulatedArm, q: np.ndarray, seconds: float = 3.0) -> np.ndarray:
    """Where the arm comes to rest when it is told to be at ``q``."""
    arm.reset(q)
    for _ in range(round(seconds / DT)):
        arm.step(DT)
    return arm.joint_position


def test_the_ideal_plant_is_the_arm_itself_to_the_bit(robot: RobotConfig) -> None:
    plain = swing(SimulatedArm(ArmModel(robot)), 500).sha256()
    assert type(make_arm(robot)) is SimulatedArm
    assert swing(make_arm(robot, load_plant("ideal")), 500).sha256() == plain
    # And so is the machinery of the others, where it has nothing to do.
    assert swing(PlantArm(robot, Plant()), 500).sha256() == plain


@pytest.mark.parametrize("path", PLANTS, ids=lambda path: path.stem)
def test_shipped_plants_repeat_by_their_seed_and_by_nothing_else(
    robot: RobotConfig, path: Path
) -> None:
    plant = load_plant(path)
    arm = make_arm(robot, plant)
    first = swing(arm, 200, seed=4).sha256()
    assert swing(arm, 200, seed=4).sha256() == first
    assert swing(make_arm(robot, plant), 200, seed=4).sha256() == first
    random = path.stem in ("bad", "realistic_delay")
    assert (swing(arm, 200, seed=5).sha256() != first) == random


def test_commands_and_states_are_late_by_their_delay(robot: RobotConfig) -> None:
    arm = PlantArm(robot, Plant(command=Channel(delay_s=0.02), state=Channel(delay_s=0.03)))
    home = robot.home_rad
    arm.reset(home)
    moved = known = 0
    true: list[np.ndarray] = []
    for k in range(1, 60):
        arm.command_position(home + 0.1)
        arm.step(DT)
        arm.sample()
        true.append(arm.joint_position)
        moved = moved or (k if np.any(arm.reference_position != home) else 0)
        known = known or (k if np.any(np.abs(arm.measured_position - home) > 1e-5) else 0)
        if k > 15:
            np.testing.assert_array_equal(arm.measured_position, true[k - 1 - 15])
    assert moved == 11
    assert known == moved + 15


def test_lost_and_held_commands_leave_the_last_one_in_force(robot: RobotConfig) -> None:
    for channel in (Channel(drop_probability=0.5), Channel(hold_probability=0.5)):
        arm, home = PlantArm(robot, Plant(command=channel)), robot.home_rad
        arm.reset(home, seed=1)
        kept = []
        for k in range(400):
            before = arm.reference_position
            sent = home + 1e-4 * k
            arm.command_position(sent)
            arm.step(DT)
            kept.append(np.array_equal(arm.reference_position, before))
            assert kept[-1] or np.array_equal(arm.reference_position, sent)
        assert 150 < sum(kept) < 250


def test_a_doubled_command_comes_again_after_the_next_one(robot: RobotConfig) -> None:
    arm = PlantArm(robot, Plant(command=Channel(duplicate_probability=0.5)))
    home = robot.home_rad
    arm.reset(home, seed=1)
    back = 0
    for k in range(400):
        arm.command_position(home + 1e-4 * k)
        arm.step(DT)
        back += bool(np.array_equal(arm.reference_position, home + 1e-4 * (k - 1)))
    assert 150 < back < 250


def test_lost_states_do_not_arrive_and_doubled_ones_arrive_twice(robot: RobotConfig) -> None:
    counts = {}
    for name in ("drop_probability", "duplicate_probability"):
        arm = PlantArm(robot, Plant(state=Channel(**{name: 0.5})))
        arm.reset(robot.home_rad, seed=2)
        counts[name] = 0
        for _ in range(400):
            arm.step(DT)
            arm.sample()
            counts[name] += len(arm.arrivals)
    assert 150 < counts["drop_probability"] < 250
    assert 550 < counts["duplicate_probability"] < 650


def test_encoders_err_as_their_file_says(robot: RobotConfig) -> None:
    encoder = Encoder(noise_rad=0.005, bias_rad=0.02, velocity="difference", velocity_filter_s=0.02)
    arm = PlantArm(robot, Plant(encoder=encoder))
    arm.reset(robot.home_rad, seed=3)
    errors, velocities = [], []
    for _ in range(2000):
        arm.step(DT)
        arm.sample()
        errors.append(arm.measured_position - arm.joint_position)
        velocities.append(arm.measured_velocity)
    np.testing.assert_allclose(np.std(errors, axis=0), 0.005, rtol=0.1)
    bias = np.mean(errors, axis=0)
    assert np.all(np.abs(bias) < 0.021) and np.abs(bias).max() > 0.003
    # The difference of two readings would have sqrt(2) * noise / period: 3.5 rad/s.
    assert 0.05 < np.std(velocities) < 0.5
    coarse = PlantArm(robot, Plant(encoder=Encoder(resolution_rad=0.01)))
    swing(coarse, 50)
    assert np.allclose(np.remainder(coarse.measured_position + 1e-9, 0.01), 0.0, atol=1e-7)


def test_a_differenced_velocity_follows_the_true_one(robot: RobotConfig) -> None:
    arm = PlantArm(robot, Plant(encoder=Encoder(velocity="difference")))
    swing(arm, 150)
    np.testing.assert_allclose(arm.measured_velocity, arm.joint_velocity, atol=2e-3)
    assert np.abs(arm.joint_velocity).max() > 0.1


def lag_rad(arm: SimulatedArm) -> float:
    """How far the joints are behind their references in mid-swing."""
    swing(arm, 150)
    return float(np.abs(arm.reference_position - arm.joint_position).max())


def test_gears_and_servos_change_how_the_arm_follows(robot: RobotConfig) -> None:
    ideal = lag_rad(make_arm(robot))
    assert lag_rad(PlantArm(robot, Plant(servo=Servo(gain_factor=0.7)))) > 1.2 * ideal
    assert lag_rad(PlantArm(robot, Plant(servo=Servo(damping_factor=1.3)))) > 1.1 * ideal
    assert lag_rad(PlantArm(robot, Plant(joints=Joints(damping_factor=15.0)))) > 1.1 * ideal
    armature = PlantArm(robot, Plant(joints=Joints(armature_factor=3.0)))
    assert lag_rad(armature) != ideal
    play = PlantArm(robot, Plant(joints=Joints(backlash_rad=0.02)))
    assert lag_rad(play) == pytest.approx(ideal + 0.01, rel=0.1)
    weak = PlantArm(robot, Plant(servo=Servo(effort_factor=0.05)))
    swing(weak, 150)
    limits = np.array([joint.effort_nm for joint in robot.joints])
    assert np.all(np.abs(weak.joint_effort) <= 0.05 * limits + 1e-9)


def test_dry_friction_resists_a_small_push(robot: RobotConfig) -> None:
    """At 0.5 mrad the shoulder's servo pushes with 7.5 N m; its gears hold 4 N m."""

    def moved(factor: float) -> float:
        arm = PlantArm(robot, Plant(joints=Joints(friction_factor=factor)))
        arm.reset(robot.home_rad)
        arm.command_position(robot.home_rad + 5e-4)
        for _ in range(15):
            arm.step(DT)
        return float((arm.joint_position - robot.home_rad)[1])

    assert moved(0.0) > 1.3 * moved(1.0) > 1.3 * 1.3 * moved(2.0) > 0.0


@pytest.mark.parametrize("written", ["quat", "euler", "frame"])
def test_a_payload_hangs_at_the_tool_however_the_model_writes_it(
    robot: RobotConfig, tmp_path: Path, written: str
) -> None:
    turn = {
        "quat": '{} quat="0.7071068 0 0.7071068 0"/>',
        "euler": '{} euler="0 1.5707963 0"/>',
        "frame": '<frame pos="0 0 0.15" euler="0.3 0 0">{}/></frame>',
    }[written]
    text = robot.mjcf.read_text()
    (site,) = re.findall(f'<site name="{robot.tool_site}"[^>]*/>', text)
    plain = re.sub(r' (quat|euler)="[^"]*"|/>', "", site)
    model = tmp_path / "it.xml"
    model.write_text(text.replace(site, turn.format(plain)))
    plant = Plant(payload=Payload(mass_kg=1.0, offset_m=(0.0, 0.0, 0.1)))
    arm = PlantArm(replace(robot, mjcf=model), plant)
    arm.reset(robot.home_rad, 0)
    data, model_ = arm.data, arm.arm.model
    site_id = arm.arm.tool_site
    expected = data.site_xpos[site_id] + data.site_xmat[site_id].reshape(3, 3) @ [0.0, 0.0, 0.1]
    np.testing.assert_allclose(data.xipos[model_.body(PAYLOAD_BODY).id], expected, atol=1e-6)


def test_what_the_controller_does_not_know_of_weights_makes_the_arm_sag(robot: RobotConfig) -> None:
    q = np.array([0.0, -0.3, 0.3, -1.5, -1.5, 0.0])
    tool = mujoco.MjData(ArmModel(robot).model)

    def sag(plant: Plant) -> float:
        # Without dry friction the servos' stiffness alone carries what is not compensated.
        smooth = replace(plant, joints=Joints(friction_factor=0.0))
        return float((settled(PlantArm(robot, smooth), q) - q)[1])

    assert abs(sag(Plant())) < 1e-6
    # 1 kg at the tool, which is about 0.8 m in front of the shoulder: 8 N m over 15 kN m/rad.
    arm = ArmModel(robot)
    tool.qpos[arm.position_index] = q
    mujoco.mj_kinematics(arm.model, tool)
    reach = float(tool.site_xpos[arm.tool_site][0])
    payload = sag(Plant(payload=Payload(mass_kg=1.0, offset_m=(0.0, 0.0, 0.0))))
    assert payload == pytest.approx(9.81 * reach / 15000.0, rel=0.05)
    heavy = sag(Plant(mass_factor=1.2))
    light = sag(Plant(mass_factor=0.8))
    assert heavy > 1e-4 and light == pytest.approx(-heavy, rel=0.05)


def test_a_tilted_base_turns_gravity_against_its_compensation(robot: RobotConfig) -> None:
    """The weight then pulls along x with the sine of the tilt, seen from the base."""
    q = robot.home_rad
    plant = Plant(base_tilt_rad=(0.0, 0.1), joints=Joints(friction_factor=0.0))
    arm = PlantArm(robot, plant)
    off = settled(arm, q) - q
    assert np.abs(off).max() > 1e-4
    # The servos hold exactly the torque of the difference of both gravities.
    data = mujoco.MjData(arm.model)
    data.qpos[:] = arm.data.qpos
    force = arm.data.xfrc_applied[:, :3]
    mass = arm.model.body_mass
    np.testing.assert_allclose(
        force.sum(axis=0),
        mass.sum() * 9.81 * np.array([np.sin(0.1), 0.0, 1.0 - np.cos(0.1)]),
        atol=1e-9,
    )


def test_a_restored_plant_goes_on_to_the_bit() -> None:
    env, other = (ReachEnv(plant="bad") for _ in range(2))
    assert_goes_on_to_the_bit(env, other, 60)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_the_task_sees_the_measured_arm_and_judges_the_true_one(tmp_path: Path) -> None:
    file = tmp_path / "biased.yaml"
    file.write_text("encoder: {bias_rad: 0.05}\n")
    env = ReachEnv(plant=file)
    observation, info = env.reset(seed=1)
    q = env.arm.joint_position
    assert 0.005 < np.abs(observation[:6] - q).max() <= 0.05
    truth = ReachEnv().reset(options={"joint_position": q, "goal": env.goal})[1]
    assert info["distance_m"] == truth["distance_m"]


def test_the_options_of_an_episode_repeat_it() -> None:
    digests = []
    env = ReachEnv(plant="bad")
    env.reset(seed=7)
    options = env.start_options | {"record": True}
    for task in (env, ReachEnv(plant="bad")):
        task.reset(options=options)
        for _ in range(10):
            task.step(np.full(6, 0.3, np.float32))
        assert task.trajectory is not None and len(task.trajectory) == 100
        digests.append(task.trajectory.sha256())
    assert digests[0] == digests[1]


def test_a_plant_that_diverges_ends_the_episode_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file in the working folder
    env = ReachEnv(plant="bad")
    env.reset(seed=0)
    env.arm.data.qvel[0] = np.nan
    observation, reward, terminated, _, info = env.step(np.zeros(6, np.float32))
    assert terminated and info["diverged"] and "diverged" in info["message"]
    assert np.isfinite(observation).all() and np.isfinite(reward)
    assert "message" not in env.reset(seed=0)[1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("comand: {delay_s: 0.01}", r"comand: unknown key; did you mean 'command'"),
        ("command: {delay: 0.01}", r"command.delay: unknown key; did you mean 'delay_s'"),
        ("command: {delay_s: -0.01}", r"command: delay_s: must be from 0 to 1, got -0.01"),
        ("state: {drop_probability: 1.0}", r"state: drop_probability: must be from 0 to 0.95"),
        ("encoder: {noise_rad: .nan}", r"encoder.noise_rad: must be finite"),
        ("encoder: {velocity: guess}", r"encoder.velocity: must be one of"),
        ("servo: {gain_factor: 0.0}", r"servo: gain_factor: must be from 0.05 to 20, got 0"),
        ("payload: {mass_kg: heavy}", r"payload.mass_kg: expected a number"),
        ("base_tilt_rad: [0.0, 3.0]", r"base_tilt_rad: must be from -0.8 to 0.8, got 3"),
        ("base_tilt_rad: [0.0]", r"base_tilt_rad: expected 2 values"),
        ("clock: {drift: 0.5}", r"clock: drift: must be from -0.1 to 0.1, got 0.5"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"# An arm.\n{text}\n")
    with pytest.raises(ConfigError, match=rf"wrong\.yaml:2: {named}"):
        load_plant(file)


def test_an_unknown_plant_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="plant 'perfect': not a shipped plant"):
        load_plant("perfect")


def test_velocity_commands_go_through_the_plant_too(robot: RobotConfig) -> None:
    plant = Plant(command=Channel(delay_s=0.02), joints=Joints(backlash_rad=0.01))
    arm = PlantArm(robot, plant)
    arm.reset(robot.home_rad)
    arm.command_velocity(np.full(6, 0.1))
    arm.step(0.02)
    np.testing.assert_array_equal(arm.reference_position, robot.home_rad)
    arm.step(1.0)
    np.testing.assert_allclose(arm.reference_position, robot.home_rad + 0.1, atol=1e-9)
    # Half the play and the servo's lag of 0.03 s are missing.
    missing = arm.reference_position - arm.joint_position
    np.testing.assert_allclose(missing, 0.005 + 0.003, atol=1e-3)
    arm.command_position(robot.home_rad)
    arm.step(1.0)
    np.testing.assert_array_equal(arm.reference_position, robot.home_rad)
    # Come from above, the joint rests half the play above it.
    np.testing.assert_allclose(arm.joint_position - robot.home_rad, 0.005, atol=1e-3)
