# SPDX-License-Identifier: Apache-2.0
"""The draft: a robot's YAML as text, with what is to be looked at said on the line itself."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from smfp_core.robot import (
    JointConfig,
    PolicyMotion,
    RobotConfig,
    RobotConfigError,
    Shell,
    Surroundings,
    Topics,
)
from smfp_sim.new_robot import poses
from smfp_sim.new_robot.model import Survey

UNKNOWN = "unknown"
# About this long; a whole number of control periods.
_POLICY_PERIOD_S = 0.02
_ANYWHERE = Shell((0.0, 0.0, 0.0), (0.0, 100.0), (-3.2, 3.2), (-100.0, 100.0), 0.0)
_TOPICS = Topics(
    "joint_states",
    "forward_position_controller/commands",
    "forward_velocity_controller/commands",
    "joint_trajectory_controller/joint_trajectory",
)
# Times that the shell of goals is made smaller, and the share of it that must be within reach then.
_TRIES, _LEAST_SHARE = 8, 0.9


@dataclass(frozen=True)
class Draft:
    """A robot's YAML, and what is open in it.

    Attributes:
        robot: what the YAML says, with 1 for every number that is not known.
        unknown: fields that only the maker of the arm knows; the YAML cannot be used without them.
        check: what was derived from the model or assumed.
        velocities: limits of the joints, rad/s; None where unknown.
        acceleration: limit of all joints, rad/s^2, or None.
    """

    robot: RobotConfig
    unknown: list[str]
    check: list[str]
    velocities: list[float | None]
    acceleration: float | None

    def text(self, mjcf: str) -> str:
        """The YAML; ``mjcf`` is the model's path, seen from it."""
        return _text(self.robot, mjcf, self.velocities, self.acceleration)


def draft(
    found: Survey,
    model: Path,
    name: str,
    velocity_rad_s: float | None,
    acceleration_rad_s2: float | None,
    control_rate_hz: float,
    seed: int = 0,
) -> Draft:
    """Fill in what the model tells.

    Args:
        found: the arm in the model.
        model: the MJCF that the YAML is to name.
        name: of the robot.
        velocity_rad_s: limit of the joints for which the model has none.
        acceleration_rad_s2: limit of all joints; no model has it.
        control_rate_hz: of the arm's controller.
        seed: of the poses that are tried.

    Raises:
        RobotConfigError: no pose is clear, no shell of goals is within reach, or the model cannot
            be simulated at this rate.
    """
    rng = np.random.default_rng(seed)
    velocities = [v or velocity_rad_s for v in found.velocity_rad_s]
    room = float(np.min(found.range_rad[:, 1] - found.range_rad[:, 0]))
    middle = found.range_rad.mean(axis=1)
    robot = RobotConfig(
        schema=1,
        name=name,
        mjcf=model,
        base_frame=found.base_frame,
        tool_site=found.tool_site,
        control_rate_hz=control_rate_hz,
        command_interface="forward_position",
        position_margin_rad=round(min(0.05, 0.05 * room), 4),
        joints=tuple(
            JointConfig(
                joint,
                (float(low), float(high)),
                velocity or 1.0,
                acceleration_rad_s2 or 1.0,
                float(effort),
                float(home),
                (float(low), float(high)),
            )
            for joint, (low, high), velocity, effort, home in zip(
                found.joints, found.range_rad, velocities, found.effort_nm, middle, strict=True
            )
        ),
        policy=PolicyMotion(
            max(round(_POLICY_PERIOD_S * control_rate_hz), 1) / control_rate_hz,
            min(1.0, *(0.5 * v for v in velocities if v)) if any(velocities) else 1.0,
            min(10.0, acceleration_rad_s2 or 1.0),
        ),
        goals=_ANYWHERE,
        topics=_TOPICS,
        sources=(f"{model.name}: the model that this was drafted from",),
    )
    robot = dataclasses.replace(
        robot, surroundings=Surroundings(never_touching=tuple(poses.never_touching(robot, rng)))
    )
    home, origin = poses.find_home(robot, rng)
    starts = poses.find_starts(robot, home, rng)
    robot = dataclasses.replace(
        robot,
        joints=tuple(
            dataclasses.replace(
                joint, home_rad=round(float(q), 4), start_rad=(round(a, 4), round(b, 4))
            )
            for joint, q, (a, b) in zip(robot.joints, home, starts.tolist(), strict=True)
        ),
    )
    robot = dataclasses.replace(robot, goals=poses.find_goals(robot, home, rng))
    share = poses.reachable_share(robot, rng)
    for _ in range(_TRIES):
        if share == 1.0:
            break
        robot = dataclasses.replace(robot, goals=_smaller(robot.goals))
        share = poses.reachable_share(robot, rng)
    if share < _LEAST_SHARE:
        raise RobotConfigError(
            f"goals: of 50 in {robot.goals} only {share:.0%} were reached: is something in the way?"
        )
    check = [
        *found.assumed,
        f"home_rad: {origin}",
        "start_rad: about home, most poses clear of the arm itself and the floor",
        f"goals: where the tool came to in random poses; {share:.0%} of 50 were solved for",
        "policy: half of the slowest joint's speed, and at most 1 rad/s",
        "control_rate_hz, command_interface, topics: as the driver has them",
        "base_frame: forward (x) is where azimuth_rad counts from",
        *(
            f"never_touching: {one} and {other} stay within 5 cm and met in no pose tried"
            for one, other in robot.surroundings.never_touching
        ),
    ]
    unknown = [
        *(
            f"velocity_rad_s of {joint}"
            for joint, velocity in zip(found.joints, velocities, strict=True)
            if not velocity
        ),
        *(["acceleration_rad_s2 of every joint"] if acceleration_rad_s2 is None else []),
    ]
    return Draft(robot, unknown, check, velocities, acceleration_rad_s2)


def _smaller(shell: Shell) -> Shell:
    (near, far), (low, high) = shell.radius_m, shell.height_m
    return dataclasses.replace(
        shell,
        radius_m=(round(near + 0.05 * (far - near), 3), round(far - 0.1 * (far - near), 3)),
        height_m=(round(low + 0.05 * (high - low), 3), round(high - 0.1 * (high - low), 3)),
    )


def _scalar(text: str) -> str:
    """``text`` as YAML, in quotes only where it would not be read as this text otherwise."""
    return yaml.safe_dump(
        [text], default_flow_style=True, width=sys.maxsize, allow_unicode=True
    ).strip()[1:-1]


def _text(
    robot: RobotConfig, mjcf: str, velocities: list[float | None], acceleration: float | None
) -> str:
    def pair(values: tuple[float, ...]) -> str:
        return "[" + ", ".join(f"{value:.10g}" for value in values) + "]"

    joints = "\n".join(
        f"  - {{name: {_scalar(joint.name)}, position_rad: {pair(joint.position_rad)}, "
        f"velocity_rad_s: {velocity or UNKNOWN}, acceleration_rad_s2: {acceleration or UNKNOWN}, "
        f"effort_nm: {joint.effort_nm:.10g}, home_rad: {joint.home_rad:.10g}, "
        f"start_rad: {pair(joint.start_rad)}}}"
        for joint, velocity in zip(robot.joints, velocities, strict=True)
    )
    known = all(velocities) and acceleration
    speed = f"{robot.policy.velocity_rad_s:.10g}" if any(velocities) else UNKNOWN
    haste = f"{robot.policy.acceleration_rad_s2:.10g}" if acceleration else UNKNOWN
    neighbours = "\n".join(
        f"    - [{_scalar(one)}, {_scalar(other)}]"
        for one, other in robot.surroundings.never_touching
    )
    surroundings = f"surroundings:\n  never_touching:\n{neighbours}\n\n" if neighbours else ""
    goals, topics = robot.goals, robot.topics
    reason = (
        ""
        if known
        else (
            "# Put numbers of the data sheet for every 'unknown'; nothing loads this file before.\n"
        )
    )
    return f"""# SPDX-License-Identifier: Apache-2.0
# Drafted from a model by `python -m smfp_sim.new_robot`; look at every line before an arm moves.
{reason}# Paths are relative to this file; angles in radians.
schema: 1
name: {_scalar(robot.name)}
mjcf: {_scalar(mjcf)}
base_frame: {_scalar(robot.base_frame)}
tool_site: {_scalar(robot.tool_site)}
control_rate_hz: {robot.control_rate_hz:.10g}           # check: of the arm's controller
command_interface: {robot.command_interface}   # check: what the driver takes
position_margin_rad: {robot.position_margin_rad:.10g}   # kept free before a limit

# position, effort: of the model; compare them with the data sheet.
# start: about home, where most poses are clear.
joints:
{joints}

policy:
  period_s: {robot.policy.period_s:.10g}
  velocity_rad_s: {speed}
  acceleration_rad_s2: {haste}

# Where goals are drawn and accepted; check that all of it may be entered.
goals:
  center_m: {pair(goals.center_m)}
  radius_m: {pair(goals.radius_m)}
  azimuth_rad: {pair(goals.azimuth_rad)}
  height_m: {pair(goals.height_m)}
  axis_clearance_m: {goals.axis_clearance_m:.10g}

{surroundings}# check: as the driver names them.
topics:
  joint_states: {topics.joint_states}
  forward_position: {topics.forward_position}
  forward_velocity: {topics.forward_velocity}
  joint_trajectory: {topics.joint_trajectory}

sources:
  - {_scalar(robot.sources[0])}
"""
