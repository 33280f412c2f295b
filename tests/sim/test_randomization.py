# SPDX-License-Identifier: Apache-2.0
"""Domain randomisation: what is drawn, when, that a seed repeats it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from restoring import assert_goes_on_to_the_bit

from smfp_core.collector import Collector, make_env
from smfp_core.contract import contract_of, keep_contract
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.strict import ConfigError, from_mapping, load_dataclass, to_mapping
from smfp_sim.arm import SimulatedArm
from smfp_sim.episode import Trajectory
from smfp_sim.plant import Channel, Encoder, Joints, Payload, Plant, Servo, load_plant
from smfp_sim.plant_arm import PlantArm
from smfp_sim.randomization import Randomization, plant_value
from smfp_sim.randomized_arm import RandomizedArm, make_randomized_arm
from smfp_sim.tasks.reach import ReachEnv

CONFIG = Path(__file__).resolve().parents[2] / "config"
DT = 0.002
TASK = "smfp_sim.tasks:smfp/Reach-v0"


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot("ur5e")


def drawn(robot: RobotConfig, *entries: dict[str, Any], **more: Any) -> RandomizedArm:
    return RandomizedArm(robot, from_mapping(Randomization, {"randomize": list(entries), **more}))


def entry(field: str, low: float, high: float, operation: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "range": [low, high], "operation": operation, **more}


def values(arm: RandomizedArm, field: str, resets: int) -> np.ndarray:
    """A plant's field after each of some resets."""
    found = []
    for _ in range(resets):
        arm.reset(arm.arm.robot.home_rad)
        found.append(plant_value(arm.plant, field))
    return np.array(found)


def swing(arm: SimulatedArm, ticks: int, seed: int = 0) -> str:
    """Digest of a slow circle of all joints about home."""
    home, trajectory = arm.arm.robot.home_rad, Trajectory(DT)
    arm.reset(home, seed)
    for k in range(ticks):
        arm.command_position(home + 0.3 * np.sin(2.0 * DT * k))
        arm.step(DT)
        arm.sample()
        trajectory.add(arm)
    return trajectory.sha256()


def test_operations_and_distributions_fill_their_range(robot: RobotConfig) -> None:
    plant = {"payload": {"mass_kg": 1.0}, "servo": {"gain_factor": 2.0}}
    arm = drawn(
        robot,
        entry("command.delay_s", 0.01, 0.03, "abs"),
        entry("payload.mass_kg", -0.5, 0.5, "add"),
        entry("servo.gain_factor", 0.25, 4.0, "scale", distribution="loguniform"),
        entry("payload.offset_m", -0.1, 0.1, "add"),
        plant=plant,
    )
    delay = values(arm, "command.delay_s", 400)
    assert 0.01 <= delay.min() < 0.011 and 0.029 < delay.max() <= 0.03
    mass = values(arm, "payload.mass_kg", 400)
    assert 0.5 <= mass.min() < 0.53 and 1.47 < mass.max() <= 1.5
    gain = values(arm, "servo.gain_factor", 400)
    assert 0.5 <= gain.min() < 0.6 and 7.0 < gain.max() <= 8.0
    # As many halvings as doublings.
    assert np.median(gain) == pytest.approx(2.0, rel=0.25)
    offset = values(arm, "payload.offset_m", 400)
    assert np.ptp(offset, axis=0) == pytest.approx(0.2, rel=0.05)
    assert len(set(offset[0] - (0.0, 0.0, 0.05))) == 3


def test_draws_are_made_when_the_file_says(robot: RobotConfig) -> None:
    arm = drawn(
        robot,
        entry("mass_factor", 0.8, 1.2, "scale", when="start"),
        entry("state.delay_s", 0.0, 0.02, "abs"),
        entry("payload.mass_kg", 0.0, 2.0, "abs", when="interval", every_s=[0.05, 0.1]),
    )
    rows = []
    for seed in (1, 2):
        arm.reset(robot.home_rad, seed)
        for _ in range(500):
            arm.step(DT)
            plant = arm.plant
            rows.append((plant.mass_factor, plant.state.delay_s, plant.payload.mass_kg))
    start, episode, interval = np.array(rows).T
    assert len(set(start)) == 1 and start[0] != 1.0
    assert len(set(episode[:500])) == len(set(episode[500:])) == 1 and len(set(episode)) == 2
    changes = np.flatnonzero(np.diff(interval[:500]))
    gaps_s = np.diff(changes) * DT
    assert gaps_s.min() >= 0.05 - DT and gaps_s.max() <= 0.1 + DT and gaps_s.std() > 0.005
    body = arm.model.body("payload")
    assert body.mass[0] == interval[-1] and body.inertia[0] > 0.0
    # Another training has another robot, the same one has it again.
    arm.set_training(7)
    seventh = values(arm, "mass_factor", 2)
    assert seventh[0] == seventh[1] != start[0]
    arm.set_training(0)
    assert values(arm, "mass_factor", 1)[0] == start[0]


def test_a_change_in_mid_motion_is_felt_from_then_on(robot: RobotConfig) -> None:
    """A payload put on a resting arm bends its servos; taken off, it lets them back."""
    arm = drawn(
        robot,
        entry("payload.mass_kg", 0.0, 5.0, "abs", when="interval", every_s=[0.5, 0.5]),
        plant={"joints": {"friction_factor": 0.0}},
    )
    arm.reset(robot.home_rad, 3)
    sag, mass = [], []
    for _ in range(6):
        arm.step(0.5)
        sag.append(float(np.abs(arm.joint_position - robot.home_rad).max()))
        mass.append(arm.plant.payload.mass_kg)
    assert len(set(mass)) == 6
    np.testing.assert_allclose(sag, np.array(mass) * (sag[0] / mass[0]), rtol=0.1)


def test_a_seed_repeats_draws_and_trajectory_to_the_bit(robot: RobotConfig) -> None:
    arm = make_randomized_arm(robot, "realistic")
    first, plant = swing(arm, 700, seed=4), arm.plant
    assert swing(arm, 700, seed=5) != first and arm.plant != plant
    assert swing(arm, 700, seed=4) == first and arm.plant == plant
    assert swing(make_randomized_arm(robot, "realistic"), 700, seed=4) == first


def test_ranges_that_are_points_give_that_plant_to_the_bit(robot: RobotConfig) -> None:
    bad = load_plant("bad")
    fields = {
        "command.delay_s": bad.command.delay_s,
        "state.drop_probability": bad.state.drop_probability,
        "encoder.bias_rad": bad.encoder.bias_rad,
        "servo.gain_factor": bad.servo.gain_factor,
        "joints.backlash_rad": bad.joints.backlash_rad,
        "mass_factor": bad.mass_factor,
        "payload.mass_kg": bad.payload.mass_kg,
    }
    start = replace(
        bad,
        command=replace(bad.command, delay_s=0.0),
        state=replace(bad.state, drop_probability=0.0),
        encoder=replace(bad.encoder, bias_rad=0.0),
        servo=replace(bad.servo, gain_factor=1.0),
        joints=replace(bad.joints, backlash_rad=0.0),
        payload=replace(bad.payload, mass_kg=0.0),
        mass_factor=1.0,
    )
    entries = [entry(field, value, value, "abs") for field, value in fields.items()]
    arm = drawn(robot, *entries, plant=to_mapping(start))
    assert swing(arm, 300) == swing(PlantArm(robot, bad), 300)
    assert arm.plant == bad


@pytest.mark.parametrize(
    ("field", "plant"),
    [
        ("joint:*.damping", Plant(joints=Joints(damping_factor=1.5))),
        ("joint:*.frictionloss", Plant(joints=Joints(friction_factor=1.5))),
        ("joint:*.armature", Plant(joints=Joints(armature_factor=1.5))),
        ("actuator:*.kp", Plant(servo=Servo(gain_factor=1.5))),
        ("actuator:*.kv", Plant(servo=Servo(damping_factor=1.5))),
        ("body:*.mass", Plant(mass_factor=1.5)),
    ],
)
def test_figures_of_all_elements_are_the_plants_factors(
    robot: RobotConfig, field: str, plant: Plant
) -> None:
    arm = drawn(robot, entry(field, 1.5, 1.5, "scale"))
    assert swing(arm, 200) == swing(PlantArm(robot, plant), 200) != swing(drawn(robot), 200)


def test_elements_that_a_pattern_names_are_drawn_apart(robot: RobotConfig) -> None:
    arm = drawn(
        robot,
        entry("joint:wrist_?_joint.damping", 2.0, 3.0, "abs"),
        entry("geom:wrist_*.friction", 0.1, 0.2, "abs"),
        entry("body:forearm_link.mass", 1.0, 2.0, "add"),
    )
    nominal = PlantArm(robot, Plant()).model
    damping, friction = arm.model.dof_damping, arm.model.geom_friction[:, 0]
    np.testing.assert_array_equal(damping[:3], nominal.dof_damping[:3])
    assert len(set(damping[3:])) == 3 and np.all((damping[3:] >= 2.0) & (damping[3:] <= 3.0))
    changed = friction != nominal.geom_friction[:, 0]
    names = [arm.model.geom(i).name for i in range(arm.model.ngeom)]
    assert [name.startswith("wrist_") for name in names] == changed.tolist()
    # The controller compensates the weight that it knows.
    weight = arm.model.body_mass * arm.model.body_gravcomp
    np.testing.assert_allclose(weight, nominal.body_mass * nominal.body_gravcomp)
    assert 1.0 <= (arm.model.body_mass - nominal.body_mass).sum() <= 2.0


def test_ranges_grow_from_nothing_to_full(robot: RobotConfig) -> None:
    arm = drawn(
        robot,
        entry("command.delay_s", 0.02, 0.04, "abs"),
        entry("servo.gain_factor", 0.25, 4.0, "scale", distribution="loguniform"),
        entry("mass_factor", 0.5, 0.6, "scale", when="start"),
        curriculum_steps=1000,
    )
    arm.set_training(0, 0)
    assert set(values(arm, "command.delay_s", 20)) == {0.0}
    assert set(values(arm, "servo.gain_factor", 20)) == {1.0}
    assert 0.5 <= values(arm, "mass_factor", 1)[0] <= 0.6
    arm.set_training(0, 500)
    half = values(arm, "command.delay_s", 300)
    assert 0.01 <= half.min() < 0.011 and 0.019 < half.max() <= 0.02
    gain = values(arm, "servo.gain_factor", 300)
    assert 0.5 <= gain.min() < 0.55 and 1.8 < gain.max() <= 2.0
    for steps in (1000, 5000, None):
        arm.set_training(0, steps)
        assert 0.038 < values(arm, "command.delay_s", 300).max() <= 0.04


def test_a_restored_task_goes_on_to_the_bit() -> None:
    env, other = (ReachEnv(randomization="realistic") for _ in range(2))
    env.set_training(5, 4000)
    assert_goes_on_to_the_bit(env, other, 160)
    assert env.arm.plant == other.arm.plant  # type: ignore[attr-defined]
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_a_resumed_collection_goes_on_to_the_bit() -> None:
    """In the curriculum too, whose state is the number of steps before the episode."""
    keywords = {"robot": "ur5e", "randomization": "realistic"}
    whole = Collector(make_env(TASK, keywords), 3)
    actions = np.random.default_rng(1).uniform(-1, 1, (620, 6)).astype(np.float32)
    for action in actions[:300]:
        whole.step(action)
    resumed = Collector(make_env(TASK, keywords), 3)
    resumed.restore(whole.state())
    for action in actions[300:]:
        one, two = whole.step(action), resumed.step(action)
        np.testing.assert_array_equal(one.next_observation, two.next_observation)
        assert one.reward == two.reward
    arms = [c.env.unwrapped.arm for c in (whole, resumed)]  # type: ignore[attr-defined]
    assert arms[0].plant == arms[1].plant
    # So early the ranges are narrow: a tenth of what they become.
    assert 0.0 < arms[0].plant.payload.mass_kg < 0.1 * 1.2


def test_the_options_of_an_episode_repeat_its_robot() -> None:
    env, other = (ReachEnv(randomization="realistic") for _ in range(2))
    env.reset(seed=7)
    other.reset(options=env.start_options)
    assert env.arm.plant == other.arm.plant  # type: ignore[attr-defined]
    assert env.arm.plant.payload.mass_kg > 0.0  # type: ignore[attr-defined]


def test_the_shipped_randomisation_has_the_realistic_plants_within() -> None:
    randomization = load_dataclass(Randomization, CONFIG / "randomization/realistic.yaml")
    ranges = {draw.field: draw.range for draw in randomization.randomize}
    ranges["joints.friction_factor"] = ranges["joint:*.frictionloss"]
    ranges["joints.damping_factor"] = ranges["joint:*.damping"]
    plants = sorted((CONFIG / "plants").glob("realistic_*.yaml"))
    assert len(plants) == 6
    for path in plants:
        plant = load_plant(path)
        for field, (low, high) in ranges.items():
            if ":" not in field:
                assert low <= plant_value(plant, field) <= high, (path.name, field)


def test_the_contract_states_what_was_randomised_and_the_ideal_arm_nothing() -> None:
    control = contract_of(make_env(TASK, {"randomization": "realistic"})).control  # type: ignore[union-attr]
    assert control is not None and control.randomization is not None
    assert control.command_delay_s == pytest.approx(0.024)
    assert control.state_delay_s == pytest.approx(0.024)
    assert (control.observation_filter, control.velocity_filter_s) == ("velocity_low_pass", 0.02)
    again = from_mapping(Randomization, control.randomization)
    assert again == load_dataclass(Randomization, CONFIG / "randomization/realistic.yaml")
    assert contract_of(make_env(TASK, {})).control is None  # type: ignore[union-attr]
    fixed = contract_of(make_env(TASK, {"plant": "bad"})).control  # type: ignore[union-attr]
    assert fixed is not None and fixed.randomization is not None
    assert fixed.randomization["randomize"] == []
    assert fixed.state_delay_s == pytest.approx(0.03)
    assert from_mapping(Plant, fixed.randomization["plant"]) == load_plant("bad")


def test_a_run_goes_on_with_its_own_randomisation_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = "randomize: [{field: mass_factor, range: [0.9, 1.1], operation: scale}]\n"
    file.write_text(text)
    keywords = {"randomization": str(file)}
    for _ in range(2):
        keep_contract(tmp_path, make_env(TASK, keywords))
    file.write_text(text.replace("1.1", "1.2"))
    with pytest.raises(ConfigError, match=r"contract\.json: control changed since this run"):
        keep_contract(tmp_path, make_env(TASK, keywords))


def test_noise_and_lateness_that_are_drawn_are_what_is_measured(robot: RobotConfig) -> None:
    arm = drawn(
        robot,
        entry("encoder.noise_rad", 0.01, 0.02, "abs", when="interval", every_s=[2.0, 2.0]),
        entry("state.delay_s", 0.02, 0.04, "abs"),
    )
    assert arm.plant.encoder == Encoder(arm.plant.encoder.noise_rad)
    assert arm.plant.state == Channel(arm.plant.state.delay_s) and arm.plant.payload == Payload()
    arm.reset(robot.home_rad, 2)
    errors: dict[float, list[np.ndarray]] = {}
    for _ in range(2000):
        arm.step(DT)
        arm.sample()
        error = arm.measured_position - robot.home_rad
        errors.setdefault(arm.plant.encoder.noise_rad, []).append(error)
    assert len(errors) == 2
    for noise, rows in errors.items():
        # What was measured before the change is still on its way.
        assert np.std(rows[50:]) == pytest.approx(noise, rel=0.05)
    late = arm.time_s - arm._reading.time_s
    assert late == pytest.approx(arm.plant.state.delay_s, abs=DT / 2 + 1e-9)
