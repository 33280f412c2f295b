# SPDX-License-Identifier: Apache-2.0
"""Randomisation files that are wrong: refused by file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from smfp_core.robot import RobotConfig, load_robot
from smfp_core.strict import ConfigError
from smfp_sim.randomized_arm import make_randomized_arm
from smfp_sim.tasks.reach import ReachEnv

MASS = "field: mass_factor, range: [1, 1.1], operation: scale"
DELAY = "field: command.delay_s, range: [0.0, 0.02], operation: abs"


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot("ur5e")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "field: comand.delay_s, range: [0, 1], operation: abs",
            "field: no plant field .*mean 'com",
        ),
        (
            "field: encoder.velocity, range: [0, 1], operation: abs",
            "field: no plant field is named",
        ),
        ("field: command.delay_s, range: [0, 2], operation: abs", "range: .* must be from 0 to 1"),
        ("field: mass_factor, range: [0.0, 1], operation: scale", "range: .* must be from 0.05 to"),
        ("field: command.delay_s, range: [0.02, 0.01], operation: abs", "range: the low end"),
        ("field: command.delay_s, range: [1, 2], operation: scale", "operation: .* is 0"),
        ("field: mass_factor, range: [-1, 1], operation: scale", "range: a factor must not be neg"),
        ("field: mass_factor, range: [1, 2], operation: times", "operation: must be one of"),
        (f"{DELAY}, when: always", "when: must be one of"),
        (f"{DELAY}, when: interval", "every_s: "),
        (f"{DELAY}, every_s: [1, 2]", "every_s: "),
        (f"{DELAY}, when: interval, every_s: [0, 2]", "every_s: must be positive"),
        (f"{DELAY}, distribution: loguniform", "distribution: loguniform needs"),
        (f"{DELAY}, distribution: normal", "distribution: must be one of"),
        (f"{DELAY}, often: true", "often: unknown key"),
        (
            f"{MASS}, when: interval, every_s: [1, 2]",
            "when: 'mass_factor' does not change so often; use 'when: episode'",
        ),
        ("field: clock.drift, range: [0, 0.01], operation: abs", "when: .* use 'when: start'"),
        (
            "field: joints.damping, range: [1, 2], operation: scale",
            "field: .*mean 'joints.damping_f",
        ),
        ('field: "joint:elbow.damping", range: [1, 2], operation: scale', "field: no joint of the"),
        (
            'field: "link:x.mass", range: [1, 2], operation: scale',
            "field: no kind of element is na",
        ),
        (
            'field: "body:forearm_link.size", range: [1, 2], operation: scale',
            "field: no figure of a",
        ),
        ('field: "geom:forearm.friction", range: [0, 99], operation: abs', "range: .*from 0 to 10"),
        (
            'field: "joint:*.armature", range: [-1, 0], operation: add',
            "range: .*would be from -0.9",
        ),
    ],
)
def test_a_wrong_entry_is_refused_by_file_line_and_field(
    robot: RobotConfig, tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("randomize:\n  - {field: servo.gain_factor, range: [1, 2], operation: abs}\n")
    make_randomized_arm(robot, file)
    file.write_text(f"{file.read_text()}  - {{{text}}}\n")
    with pytest.raises(ConfigError, match=rf"wrong\.yaml:3: randomize\[1\]\W+{named}"):
        make_randomized_arm(robot, file)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("curriculum_steps: -1\nrandomize: []", "1: curriculum_steps: must not be negative"),
        ("randomize: []\nplant: {mass: 2.0}", r"2: plant\.mass: unknown key"),
        ("plant: {}", r" randomize: missing"),
        (f"randomize:\n - {{{DELAY}}}\n - {{{DELAY}}}", r"3: randomize\[1\].field: .* before"),
        (
            'randomize:\n - {field: "body:wrist_*.mass", range: [1, 2], operation: scale}\n'
            ' - {field: "body:*_2_link.mass", range: [1, 2], operation: scale}',
            r"3: randomize\[1\].field: .* overlaps 'body:wrist_\*.mass'",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_line(
    robot: RobotConfig, tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(ConfigError, match=rf"wrong\.yaml:{named}"):
        make_randomized_arm(robot, file)


def test_what_is_not_there_or_asked_for_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="randomization 'wild': not a shipped randomization"):
        ReachEnv(randomization="wild")
    with pytest.raises(ValueError, match="plant, randomization: give one"):
        ReachEnv(plant="bad", randomization="realistic")
