# SPDX-License-Identifier: Apache-2.0
"""Find a plant from a recorded motion.

    python -m smfp_sim.identify motion.npz -o config/plants/mine.yaml
    python -m smfp_sim.identify motion.npz --record realistic_friction

The second form makes such a motion: a chirp of all joints about the home pose, as ``chirp`` has it,
played to a simulated plant. Played to a real arm in place of it, with what it answers recorded, it
makes a log of that arm. A log is a .npz with ``command_rad``, ``position_rad`` and ``effort_nm``,
[ticks, joints] each, in the order of the robot's YAML and at its control rate: row k holds the
command of a tick and the joint state at its end.

Five numbers are fitted: delay from command to joint state, and the factors on servo stiffness, dry
friction, viscous friction and rotor inertia. The model is the simulation itself; the residuals are
of position and of torque. Positions alone would tell only ratios of torques. A servo's damping and
a joint's act alike, so the servo's is taken to be nominal.
"""

from __future__ import annotations

import argparse
import math
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from smfp_core.atomic import write_atomically
from smfp_core.robot import RobotConfig, load_robot
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import SimulationDiverged
from smfp_sim.plant import Joints, Plant, Servo, load_plant
from smfp_sim.plant_arm import PlantArm

_NAMES = ("delay_s", "gain_factor", "friction_factor", "damping_factor", "armature_factor")
_FIRST = np.array([0.01, 1.0, 1.0, 1.0, 1.0])
_LOW = np.array([0.0, 0.2, 0.02, 0.02, 0.1])
_HIGH = np.array([0.15, 5.0, 10.0, 10.0, 10.0])
# Steps of the numerical derivatives: large against the rounding of a stiff simulation.
_STEP = np.array([2e-4, 1e-2, 2e-2, 2e-2, 1e-2])
# Residuals are in these units, about what the model leaves unexplained of a good drive's torque.
_POSITION_RAD, _EFFORT_SHARE = 1e-3, 0.02
_FADE_S = 0.5
# Of the two-sided 95 percent interval of a normal distribution.
_Z95 = 1.96


@dataclass(frozen=True)
class Motion:
    """A recorded motion: [ticks, joints] each, rad and N m, at the robot's control rate."""

    command: FloatArray
    position: FloatArray
    effort: FloatArray


@dataclass(frozen=True)
class Estimate:
    """A number and half of its 95 percent confidence interval."""

    value: float
    margin: float


def chirp(robot: RobotConfig, duration_s: float = 8.0, highest_hz: float = 6.0) -> FloatArray:
    """Commands [ticks, joints] (rad) that sweep every joint about home, from slow to fast.

    They keep to 0.15 rad, to 0.7 rad/s and to each joint's limits of position and acceleration;
    they begin and end at rest. The joints' frequencies differ, so that one's motion is not mistaken
    for another's.
    """
    t = np.arange(round(duration_s * robot.control_rate_hz)) / robot.control_rate_hz
    limits, columns = robot.limits, []
    most = limits.acceleration
    rise = np.minimum(np.minimum(t, t[-1] - t) / _FADE_S, 1.0)
    fade = rise**2 * (3.0 - 2.0 * rise)
    for i, joint in enumerate(robot.joints):
        last = highest_hz * (1.0 - 0.07 * i)
        frequency = 0.3 * (last / 0.3) ** (t / duration_s)
        phase = 2.0 * np.pi * np.cumsum(frequency) / robot.control_rate_hz
        rate = 2.0 * np.pi * frequency
        # The least of three bounds, without the corners of a minimum, which would be jerks.
        bounds = np.stack([np.full_like(t, 0.15), 0.6 / rate, 0.8 * most[i] / rate**2])
        amplitude = np.sum(bounds**-4.0, axis=0) ** -0.25
        offset = fade * amplitude * np.sin(phase)
        # Fading in and out accelerates as well, and a home may be near the end of the range.
        peak = np.abs(np.diff(offset, 2)).max() * robot.control_rate_hz**2
        home = joint.home_rad
        room = min(home - limits.position_min[i], limits.position_max[i] - home)
        share = min(1.0, 0.98 * most[i] / peak, max(room, 0.0) / np.abs(offset).max())
        columns.append(home + share * offset)
    return np.stack(columns, axis=1)


def record(robot: RobotConfig, plant: Plant, command: FloatArray, seed: int = 0) -> Motion:
    """Play ``command`` to a simulated plant, from rest at its first row."""
    arm = PlantArm(robot, plant)
    arm.reset(command[0], seed)
    position, effort = np.empty_like(command), np.empty_like(command)
    for k, row in enumerate(command):
        arm.command_position(row)
        arm.step(1.0 / robot.control_rate_hz)
        arm.sample()
        position[k], effort[k] = arm.measured_position, arm.measured_effort
    return Motion(command, position, effort)


def identify(robot: RobotConfig, motion: Motion) -> dict[str, Estimate]:
    """Fit the five numbers by least squares on the simulated motion.

    Raises:
        ConfigError: the motion does not tell them apart.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    limits = np.array([joint.effort_nm for joint in robot.joints])
    measured = _stack(motion.position, motion.effort, limits)

    def residual(values: FloatArray) -> FloatArray:
        return _stack(*_simulate(robot, motion.command, values), limits) - measured

    def derivative(values: FloatArray) -> FloatArray:
        columns = []
        for i, step in enumerate(_STEP):
            high, low = values.copy(), values.copy()
            high[i], low[i] = min(values[i] + step, _HIGH[i]), max(values[i] - step, _LOW[i])
            columns.append((residual(high) - residual(low)) / (high[i] - low[i]))
        return np.stack(columns, axis=1)

    fit = least_squares(
        residual, _FIRST, derivative, (_LOW, _HIGH), x_scale=_STEP, xtol=1e-4, ftol=1e-6
    )
    information = fit.jac.T @ fit.jac
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e14:
        raise ConfigError("the motion does not tell the parameters apart: move faster and farther")
    variance = 2.0 * fit.cost / (len(measured) - len(_NAMES))
    margins = _Z95 * np.sqrt(variance * np.diag(np.linalg.inv(information)))
    pairs = zip(_NAMES, fit.x.tolist(), margins.tolist(), strict=True)
    return {name: Estimate(value, margin) for name, value, margin in pairs}


def _stack(position: FloatArray, effort: FloatArray, limits: FloatArray) -> FloatArray:
    scaled = effort / (_EFFORT_SHARE * limits)
    return np.concatenate([(position / _POSITION_RAD).ravel(), scaled.ravel()])


def _simulate(
    robot: RobotConfig, command: FloatArray, values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Position and effort of the plant with these values: its delay moves the command in time.

    A shift by a part of a tick is interpolated; so the motion depends smoothly on the delay.
    """
    delay_s, gain, friction, damping, armature = values.tolist()
    plant = Plant(
        servo=Servo(gain_factor=gain),
        joints=Joints(friction_factor=friction, damping_factor=damping, armature_factor=armature),
    )
    ticks = np.arange(len(command))
    late = np.maximum(ticks - delay_s * robot.control_rate_hz, 0.0)
    shifted = [np.interp(late, ticks, column) for column in command.T]
    motion = record(robot, plant, np.stack(shifted, axis=1))
    return motion.position, motion.effort


def to_plant(estimates: dict[str, Estimate]) -> Plant:
    """The plant of these estimates; all of the delay is the command's."""
    values = {name: round(estimate.value, 6) for name, estimate in estimates.items()}
    plant = Plant(
        servo=Servo(gain_factor=values["gain_factor"]),
        joints=Joints(
            friction_factor=values["friction_factor"],
            damping_factor=values["damping_factor"],
            armature_factor=values["armature_factor"],
        ),
    )
    return replace(plant, command=replace(plant.command, delay_s=values["delay_s"]))


def plant_yaml(estimates: dict[str, Estimate], source: str) -> str:
    """The plant's file, with the confidence intervals as comments."""
    plant = to_plant(estimates)
    joints = plant.joints
    mapping = {
        "command": {"delay_s": plant.command.delay_s},
        "servo": {"gain_factor": plant.servo.gain_factor},
        "joints": {
            "friction_factor": joints.friction_factor,
            "damping_factor": joints.damping_factor,
            "armature_factor": joints.armature_factor,
        },
    }
    lines = [f"# Identified from {source}; 95 percent confidence intervals:"]
    for name, estimate in estimates.items():
        low, high = estimate.value - estimate.margin, estimate.value + estimate.margin
        lines.append(f"#   {name}: {estimate.value:.5g} ({low:.5g} to {high:.5g})")
    lines.append("# All of the delay is put on commands: the motion tells the sum of both ways.")
    return "\n".join(lines) + "\n" + yaml.safe_dump(mapping, sort_keys=False)


def save(motion: Motion, path: Path) -> None:
    """Write a log.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        np.savez(
            file,
            command_rad=motion.command,
            position_rad=motion.position,
            effort_nm=motion.effort,
        )


def load(path: Path, joints: int) -> Motion:
    """Read a log of a robot with so many joints.

    Raises:
        ConfigError: names the file, the array and what is wrong with it.
    """
    arrays: list[NDArray[np.float64]] = []
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in ("command_rad", "position_rad", "effort_nm"):
                if name not in file:
                    raise ConfigError(f"{path}: {name}: missing; it holds {', '.join(file.files)}")
                arrays.append(np.asarray(file[name], np.float64))
    except (OSError, EOFError, TypeError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read as .npz ({error})") from error
    for name, array in zip(("command_rad", "position_rad", "effort_nm"), arrays, strict=True):
        if array.ndim != 2 or array.shape != (len(arrays[0]), joints) or len(array) < 100:
            raise ConfigError(
                f"{path}: {name}: expected at least 100 rows of {joints} joints, as many in each "
                f"array, got shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"{path}: {name}: must be finite")
    return Motion(*arrays)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m smfp_sim.identify``."""
    parser = argparse.ArgumentParser(
        prog="python -m smfp_sim.identify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", type=Path, help="a recorded motion, .npz")
    parser.add_argument("--robot", default="ur5e", help="name, or path of a YAML file")
    parser.add_argument("-o", "--output", type=Path, help="plant file to write; else it is printed")
    parser.add_argument("--record", metavar="PLANT", help="make the log: a chirp of this plant")
    options = parser.parse_args(args)
    run: Callable[[argparse.Namespace, RobotConfig], None] = _record if options.record else _fit
    try:
        run(options, load_robot(options.robot))
    except (ConfigError, SimulationDiverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("scipy"):
            raise
        print("error: scipy is not installed: pip install scipy", file=sys.stderr)
        return 1
    return 0


def _record(options: argparse.Namespace, robot: RobotConfig) -> None:
    save(record(robot, load_plant(options.record), chirp(robot)), options.log)


def _fit(options: argparse.Namespace, robot: RobotConfig) -> None:
    estimates = identify(robot, load(options.log, len(robot.joints)))
    for name, estimate in estimates.items():
        share = estimate.margin / estimate.value if estimate.value else math.inf
        print(f"{name}: {estimate.value:.5g} +- {estimate.margin:.2g} ({share:.1%})")
    text = plant_yaml(estimates, options.log.name)
    if options.output is None:
        print(text, end="")
    else:
        write_atomically(options.output, "# SPDX-License-Identifier: Apache-2.0\n" + text)


if __name__ == "__main__":
    sys.exit(main())
