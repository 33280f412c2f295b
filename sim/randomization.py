# SPDX-License-Identifier: Apache-2.0
"""Domain randomisation: what a YAML under config/randomization/ can say, and what is drawn of it.

    plant: {encoder: {velocity: difference}}        # what the draws start from; default: ideal
    curriculum_steps: 10000                         # ranges grow from nothing to full
    randomize:
      - {field: command.delay_s, range: [0.0, 0.02], operation: abs, when: episode}
      - {field: "joint:*.damping", range: [0.5, 2.0], operation: scale, distribution: loguniform}
      - {field: payload.mass_kg, range: [0.0, 1.0], operation: abs, when: interval, every_s: [1, 3]}

A field is one of a plant (``smfp_sim.plant``), or ``kind:name.figure`` of the robot's MJCF, where
``*`` and ``?`` in the name stand for other characters, and every element that fits has a draw of
its own. ``smfp_sim.randomized_arm`` simulates it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import mujoco
import numpy as np

from smfp_core.specs import ControlAssumptions, FloatArray
from smfp_core.strict import ConfigError, to_mapping
from smfp_sim.plant import IDEAL, PAYLOAD_BODY, Changes, Plant

# From the rarest to the most frequent.
_OFTEN = ("start", "episode", "interval")


@dataclass(frozen=True)
class Draw:
    """One entry of ``randomize``.

    Attributes:
        field: what is randomised, see the module.
        range: of the number that is drawn; each component of a vector has a draw of its own.
        operation: whether the number replaces the field's value (``abs``), multiplies it
            (``scale``) or is added to it (``add``).
        when: it is drawn: once at the start of a training, for every episode, or at the beginning
            of an episode and then again and again within it.
        distribution: ``uniform``, or of factors also uniform in their logarithm.
        every_s: simulated seconds from one draw of an ``interval`` to the next, uniformly.
    """

    field: str
    range: tuple[float, float]
    operation: Literal["abs", "scale", "add"]
    when: Changes = "episode"
    distribution: Literal["uniform", "loguniform"] = "uniform"
    every_s: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.range
        if low > high:
            raise ConfigError(f"range: the low end {low:g} is above the high end {high:g}")
        if self.operation == "scale" and low < 0.0:
            raise ConfigError(f"range: a factor must not be negative, got {low:g}")
        if self.distribution == "loguniform" and (self.operation != "scale" or low <= 0.0):
            raise ConfigError("distribution: loguniform needs operation scale and positive factors")
        if (self.when == "interval") != (self.every_s is not None):
            raise ConfigError("every_s: [low, high] seconds, with 'when: interval' and only then")
        if self.every_s is not None and not 0.0 < self.every_s[0] <= self.every_s[1]:
            raise ConfigError(f"every_s: must be positive and ascending, got {list(self.every_s)}")

    def apply(self, value: FloatArray, operand: FloatArray) -> FloatArray:
        """The randomised ``value``."""
        if self.operation == "scale":
            return value * operand
        return value + operand if self.operation == "add" else operand

    def operand(self, value: FloatArray, share: float, rng: np.random.Generator) -> FloatArray:
        """Draw what ``apply`` takes, from ``share`` (0: what changes nothing, 1: all) of the range.

        ``value`` [k] is what is to be randomised.
        """
        low, high = self.range
        if self.distribution == "loguniform":
            return np.exp(share * rng.uniform(math.log(low), math.log(high), len(value)))
        neutral = value if self.operation == "abs" else float(self.operation == "scale")
        return neutral + share * (rng.uniform(low, high, len(value)) - neutral)


@dataclass(frozen=True)
class Randomization:
    """A robot that is never quite the same.

    Attributes:
        randomize: what is drawn.
        plant: what the draws start from.
        curriculum_steps: environment steps of training over which the ranges of ``episode`` and
            ``interval`` draws grow from nothing to full; 0: full from the first. What is drawn at
            the start has its full range.
    """

    randomize: tuple[Draw, ...]
    plant: Plant = IDEAL
    curriculum_steps: int = 0

    def __post_init__(self) -> None:
        if self.curriculum_steps < 0:
            raise ConfigError(f"curriculum_steps: must not be negative: {self.curriculum_steps}")
        for i, draw in enumerate(self.randomize):
            if draw.field in [other.field for other in self.randomize[:i]]:
                raise ConfigError(f"randomize[{i}].field: '{draw.field}' is randomised before")


@dataclass(frozen=True)
class Figure:
    """A figure of named elements of a MuJoCo model: where it is, its bounds, how often it changes.

    ``sign``: what the array holds, over the figure.
    """

    array: str
    column: int | None
    bounds: tuple[float, float]
    changes: Changes
    sign: float = 1.0


_FIGURES = {
    "joint": {
        "damping": Figure("dof_damping", None, (0.0, 1e6), "interval"),
        "frictionloss": Figure("dof_frictionloss", None, (0.0, 1e6), "interval"),
        "armature": Figure("dof_armature", None, (0.0, 1e6), "episode"),
    },
    "body": {"mass": Figure("body_mass", None, (1e-6, 1e6), "episode")},
    "geom": {"friction": Figure("geom_friction", 0, (0.0, 10.0), "interval")},
    "actuator": {
        "kp": Figure("actuator_gainprm", 0, (1e-3, 1e7), "episode"),
        "kv": Figure("actuator_biasprm", 2, (0.0, 1e7), "episode", -1.0),
    },
}


@dataclass(frozen=True)
class Target:
    """What an entry randomises: a plant's field, or rows of an array of the model.

    Attributes:
        draw: the entry.
        value: [k], of the field or of the elements before it is randomised.
        figure: of the model; None for a plant's field.
        rows: [k] of the figure's array.
    """

    draw: Draw
    value: FloatArray
    figure: Figure | None = None
    rows: tuple[int, ...] = ()

    def set_plant(self, plant: Plant, operand: FloatArray) -> Plant:
        """The plant with its randomised field; the same if that is a figure of the model."""
        if self.figure is not None:
            return plant
        values = tuple(self.draw.apply(self.value, operand).tolist())
        *groups, name = self.draw.field.split(".")
        holder: Any = getattr(plant, groups[0]) if groups else plant
        value = values if isinstance(getattr(holder, name), tuple) else values[0]
        changed = dataclasses.replace(holder, **{name: value})
        return dataclasses.replace(plant, **{groups[0]: changed}) if groups else changed

    def set_model(self, model: mujoco.MjModel, operand: FloatArray) -> None:
        """Randomise the figure in the model, if this is one."""
        if self.figure is None:
            return
        array, rows = getattr(model, self.figure.array), list(self.rows)
        where = (rows,) if self.figure.column is None else (rows, self.figure.column)
        before = array[where]
        sign = self.figure.sign
        array[where] = sign * self.draw.apply(sign * before, operand)
        if self.figure.array == "body_mass":
            ratio = array[where] / before
            model.body_inertia[rows] *= ratio[:, None]
            # MuJoCo compensates the weight that a body has; the controller knows the nominal one.
            model.body_gravcomp[rows] /= ratio
        elif self.figure.array == "actuator_gainprm":
            model.actuator_biasprm[rows, 1] = -array[where]


def resolve(randomization: Randomization, model: mujoco.MjModel) -> tuple[Target, ...]:
    """What each entry randomises.

    Raises:
        ConfigError: names the entry whose field is unknown, whose range leads out of what the
            field can be, or which is drawn more often than such a thing changes.
    """
    fields = dict(_plant_fields(Plant))
    targets: list[Target] = []
    for i, draw in enumerate(randomization.randomize):
        where = f"randomize[{i}]"
        if ":" in draw.field:
            target, figure = _element(draw, model, where)
            bounds, changes = figure.bounds, figure.changes
        elif draw.field in fields:
            value = plant_value(randomization.plant, draw.field)
            target = Target(draw, np.atleast_1d(np.array(value, np.float64)))
            bounds, changes = fields[draw.field]["range"], fields[draw.field]["changes"]
        else:
            raise ConfigError(f"{where}.field: {_unknown(draw.field, list(fields), 'plant field')}")
        _check(where, target, bounds, changes)
        for other in targets:
            if other.figure is target.figure and set(other.rows) & set(target.rows):
                raise ConfigError(f"{where}.field: '{draw.field}' overlaps '{other.draw.field}'")
        targets.append(target)
    return tuple(targets)


def _check(where: str, target: Target, bounds: tuple[float, float], changes: Changes) -> None:
    draw, value = target.draw, target.value
    if _OFTEN.index(draw.when) > _OFTEN.index(changes):
        raise ConfigError(
            f"{where}.when: '{draw.field}' does not change so often; use 'when: {changes}'"
        )
    if draw.operation == "scale" and not value.all():
        raise ConfigError(
            f"{where}.operation: '{draw.field}' is 0, and a multiple of it too: use abs or add"
        )
    ends = [draw.apply(value, np.full(len(value), end)) for end in draw.range]
    if np.min(ends) < bounds[0] or np.max(ends) > bounds[1]:
        raise ConfigError(
            f"{where}.range: '{draw.field}' would be from {np.min(ends):g} to {np.max(ends):g}, "
            f"and must be from {bounds[0]:g} to {bounds[1]:g}"
        )


def control_assumptions(randomization: Randomization) -> ControlAssumptions:
    """What a policy file states of a training with it."""
    plant = randomization.plant
    draws = {draw.field: draw for draw in randomization.randomize}

    def ends(name: str) -> list[float]:
        value = plant_value(plant, name)
        if name not in draws:
            return [value, value]
        values = np.array([value])
        return [float(draws[name].apply(values, np.array([end]))[0]) for end in draws[name].range]

    differenced = plant.encoder.velocity == "difference"
    return ControlAssumptions(
        max(ends("command.delay_s")) + max(ends("command.jitter_s")),
        "velocity_low_pass" if differenced else "none",
        max(ends("state.delay_s")) + max(ends("state.jitter_s")),
        sum(ends("encoder.velocity_filter_s")) / 2.0 if differenced else 0.0,
        to_mapping(randomization),
    )


def _plant_fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and metadata of the numeric fields of a plant."""
    for item in dataclasses.fields(cls):
        if "range" in item.metadata:
            yield prefix + item.name, item.metadata
        elif item.default_factory is not dataclasses.MISSING:
            yield from _plant_fields(type(item.default_factory()), f"{prefix}{item.name}.")


def plant_value(plant: Plant, name: str) -> Any:
    """The field with this dotted name."""
    value: Any = plant
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _element(draw: Draw, model: mujoco.MjModel, where: str) -> tuple[Target, Figure]:
    kind, _, rest = draw.field.partition(":")
    pattern, _, figure_name = rest.rpartition(".")
    if kind not in _FIGURES:
        raise ConfigError(f"{where}.field: {_unknown(kind, list(_FIGURES), 'kind of element')}")
    if figure_name not in _FIGURES[kind]:
        known = list(_FIGURES[kind])
        raise ConfigError(f"{where}.field: {_unknown(figure_name, known, f'figure of a {kind}')}")
    figure = _FIGURES[kind][figure_name]
    names = _names(model, kind)
    chosen = [name for name in names if fnmatchcase(name, pattern)]
    if not chosen:
        raise ConfigError(f"{where}.field: {_unknown(pattern, list(names), f'{kind} of the MJCF')}")
    rows = tuple(names[name] for name in chosen)
    array = getattr(model, figure.array)[list(rows)]
    value = figure.sign * (array if figure.column is None else array[:, figure.column])
    return Target(draw, value, figure, rows), figure


def _names(model: mujoco.MjModel, kind: str) -> dict[str, int]:
    """Names of the elements that can be randomised, and their rows in the figures' arrays."""
    if kind == "joint":
        single = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
        joints = [i for i in range(model.njnt) if int(model.jnt_type[i]) in single]
        return {model.joint(i).name: int(model.jnt_dofadr[i]) for i in joints}
    if kind == "body":
        bodies = [model.body(i) for i in range(model.nbody)]
        return {b.name: b.id for b in bodies if b.mass[0] > 0.0 and b.name != PAYLOAD_BODY}
    if kind == "geom":
        return {model.geom(i).name: i for i in range(model.ngeom) if model.geom(i).name}
    return {model.actuator(i).name: i for i in range(model.nu)}


def _unknown(name: str, known: list[str], what: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"no {what} is named '{name}'; {hint}"
