# SPDX-License-Identifier: Apache-2.0
"""How far a simulated robot is from the ideal one: what a YAML under config/plants/ can say.

A *plant* is what lies between a command that the computer sends and a joint state that it gets
back: messages on their way, servos, gears, links, encoders. Every default is the ideal one, so a
file states only what is wrong with its robot. ``smfp_sim.plant_arm`` simulates it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smfp_core.resources import config_path
from smfp_core.strict import ConfigError, load_dataclass

_PROBABILITY = (0.0, 0.95)
_FACTOR = (0.05, 20.0)


# The most often that a robot changes in this respect: in mid-motion, from one time that it is
# switched on to the next, or not while it is one robot.
Changes = Literal["interval", "episode", "start"]


def _within(default: Any, low: float, high: float, changes: Changes = "episode") -> Any:
    return field(default=default, metadata={"range": (low, high), "changes": changes})


class _Bounded:
    """A dataclass whose fields keep to the ranges that their metadata state."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            if "range" not in item.metadata:
                continue
            low, high = item.metadata["range"]
            value = getattr(self, item.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high:
                    raise ConfigError(
                        f"{item.name}: must be from {low:g} to {high:g}, got {number:g}"
                    )


@dataclass(frozen=True)
class Channel(_Bounded):
    """Messages on their way in one direction. Those that arrive are in order, but for copies.

    Attributes:
        delay_s: every message is on its way for this long,
        jitter_s: and up to this much longer, uniformly.
        hold_probability: that what has arrived is taken one control period later, again and again.
        drop_probability: that a message is lost.
        duplicate_probability: that a message comes a second time one control period later, behind
            the one sent then. A controller obeys the copy; who looks at stamps ignores it.
    """

    delay_s: float = _within(0.0, 0.0, 1.0, "interval")
    jitter_s: float = _within(0.0, 0.0, 1.0, "interval")
    hold_probability: float = _within(0.0, *_PROBABILITY, "interval")
    drop_probability: float = _within(0.0, *_PROBABILITY, "interval")
    duplicate_probability: float = _within(0.0, *_PROBABILITY, "interval")


@dataclass(frozen=True)
class Encoder(_Bounded):
    """What is measured of a joint, once a control period.

    Attributes:
        noise_rad: standard deviation of each reading of a position.
        bias_rad: each joint's constant error is drawn uniformly up to this at reset.
        resolution_rad: readings are whole multiples of it; 0: exact.
        velocity: ``exact``, or the ``difference`` of successive readings over their distance.
        velocity_filter_s: time constant of a first-order low-pass of that difference.
    """

    noise_rad: float = _within(0.0, 0.0, 0.2, "interval")
    bias_rad: float = _within(0.0, 0.0, 0.2)
    resolution_rad: float = _within(0.0, 0.0, 0.1)
    velocity: Literal["exact", "difference"] = "exact"
    velocity_filter_s: float = _within(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Servo(_Bounded):
    """The joint servos, as factors on the MJCF's: stiffness, damping, greatest torque."""

    gain_factor: float = _within(1.0, *_FACTOR)
    damping_factor: float = _within(1.0, *_FACTOR)
    effort_factor: float = _within(1.0, *_FACTOR, "interval")


@dataclass(frozen=True)
class Joints(_Bounded):
    """Gears and bearings: factors on the MJCF's figures, and play.

    Attributes:
        friction_factor, damping_factor, armature_factor: on dry friction, viscous damping and
            rotor inertia.
        backlash_rad: width of the dead band between a servo's reference and what the joint
            follows. It is the kinematics of play alone: there is no impact within it.
    """

    friction_factor: float = _within(1.0, 0.0, 20.0, "interval")
    damping_factor: float = _within(1.0, 0.0, 20.0, "interval")
    armature_factor: float = _within(1.0, *_FACTOR)
    backlash_rad: float = _within(0.0, 0.0, 0.2)


@dataclass(frozen=True)
class Payload(_Bounded):
    """A body at the tool site that the controller's gravity compensation does not know.

    Attributes:
        mass_kg: of a ball as dense as water.
        offset_m: of its centre, in the frame of the tool site.
    """

    mass_kg: float = _within(0.0, 0.0, 100.0, "interval")
    offset_m: tuple[float, float, float] = _within((0.0, 0.0, 0.05), -1.0, 1.0)


@dataclass(frozen=True)
class DriverClock(_Bounded):
    """The clock that stamps joint states: how far it is ahead, and how much it gains a second."""

    offset_s: float = _within(0.0, -86400.0, 86400.0, "start")
    drift: float = _within(0.0, -0.1, 0.1, "start")


@dataclass(frozen=True)
class Plant(_Bounded):
    """A robot that is not the ideal one. ``Plant()`` is.

    Attributes:
        command, state: messages to the robot and from it.
        encoder, servo, joints, payload, clock: see their classes.
        mass_factor: on mass and inertia of every link; gravity compensation does not know it.
        base_tilt_rad: rotation of the base about its x and then its y axis. The floor tilts with
            it; gravity compensation takes the base to be level.
    """

    command: Channel = field(default_factory=Channel)
    state: Channel = field(default_factory=Channel)
    encoder: Encoder = field(default_factory=Encoder)
    servo: Servo = field(default_factory=Servo)
    joints: Joints = field(default_factory=Joints)
    mass_factor: float = _within(1.0, *_FACTOR)
    payload: Payload = field(default_factory=Payload)
    base_tilt_rad: tuple[float, float] = _within((0.0, 0.0), -0.8, 0.8)
    clock: DriverClock = field(default_factory=DriverClock)


IDEAL = Plant()
# Name of the body that a model has for the payload.
PAYLOAD_BODY = "payload"


def load_plant(name_or_path: str | Path) -> Plant:
    """Read a plant by name (``bad``: config/plants/bad.yaml) or by the path of its YAML.

    Raises:
        ConfigError: names the file, the line, the field and what was expected.
    """
    return load_dataclass(Plant, config_path("plant", "plants", name_or_path))
