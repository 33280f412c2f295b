# SPDX-License-Identifier: Apache-2.0
"""The simulated arm behind a plant: late messages, soft servos, heavy links, noisy encoders.

Time is counted in physics steps, and all randomness comes from one generator, so that a seed
gives one trajectory to the bit.
"""

from __future__ import annotations

import json
import math
from bisect import insort
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel, ContactPair, Reading, SimulatedArm
from smfp_sim.plant import IDEAL, PAYLOAD_BODY, Channel, Encoder, Plant
from smfp_sim.scene import Change

_WATER_KG_M3 = 1000.0


def make_arm(
    robot: RobotConfig,
    plant: Plant = IDEAL,
    timestep_s: float | None = None,
    change: Change | None = None,
) -> SimulatedArm:
    """The simulated ``robot``: the arm of its MJCF as it is, or behind a ``plant``.

    ``timestep_s`` of the physics; by default the MJCF's own. ``change`` of the scene.
    """
    if plant != IDEAL:
        return PlantArm(robot, plant, timestep_s, change=change)
    arm = ArmModel(robot, change)
    arm.model.opt.timestep = timestep_s or arm.timestep_s
    return SimulatedArm(arm)


class DelayLine:
    """Messages on their way through a channel: lists of floats, in physics steps.

    Args:
        channel: what happens to them; may be replaced at any time.
        timestep_s: of the physics.
        period_steps: control period.
    """

    def __init__(self, channel: Channel, timestep_s: float, period_steps: int) -> None:
        self.channel, self._timestep_s, self._period = channel, timestep_s, period_steps
        self.clear()

    def clear(self) -> None:
        """Nothing is on its way."""
        # (due step, copies come last, number, values)
        self._queue: list[tuple[int, int, int, list[float]]] = []
        self._last_due = self._number = self._held_until = 0

    def send(self, now: int, values: list[float], rng: np.random.Generator) -> None:
        """Put ``values`` on the way at step ``now``."""
        channel = self.channel
        if channel.drop_probability and rng.random() < channel.drop_probability:
            return
        delay_s = channel.delay_s
        if channel.jitter_s:
            delay_s += channel.jitter_s * rng.random()
        self._last_due = max(now + round(delay_s / self._timestep_s), self._last_due)
        self._number += 1
        insort(self._queue, (self._last_due, 0, self._number, values))
        if channel.duplicate_probability and rng.random() < channel.duplicate_probability:
            insort(self._queue, (self._last_due + self._period, 1, self._number, values))

    def receive(self, now: int, rng: np.random.Generator) -> list[list[float]]:
        """What arrives at step ``now``, the newest last."""
        if not self._queue or self._queue[0][0] > now or now < self._held_until:
            return []
        hold = self.channel.hold_probability
        if hold and rng.random() < hold:
            self._held_until = now + self._period
            return []
        arrived = 0
        while arrived < len(self._queue) and self._queue[arrived][0] <= now:
            arrived += 1
        messages = [values for *_, values in self._queue[:arrived]]
        del self._queue[:arrived]
        return messages

    def state(self) -> list[Any]:
        """What ``restore`` takes, as JSON can hold it."""
        return [self._last_due, self._number, self._held_until, self._queue]

    def restore(self, state: list[Any]) -> None:
        """Go back to a ``state``."""
        self._last_due, self._number, self._held_until, queue = state
        self._queue = [tuple(item) for item in queue]


class EncoderModel:
    """Readings of ``n`` joints, each made from the true ones. ``encoder`` may be replaced."""

    def __init__(self, encoder: Encoder, n: int) -> None:
        self.encoder = encoder
        self.bias: FloatArray = np.zeros(n)
        self.position: FloatArray = np.zeros(n)
        self.velocity: FloatArray = np.zeros(n)

    def reset(self, q: FloatArray, rng: np.random.Generator) -> None:
        """Begin at rest at true positions ``q`` [n], rad."""
        bound = self.encoder.bias_rad
        self.bias = rng.uniform(-bound, bound, len(q)) if bound else np.zeros(len(q))
        self.position = self._position(q, rng)
        self.velocity = np.zeros(len(q))

    def read(
        self, q: FloatArray, velocity: FloatArray, elapsed_s: float, rng: np.random.Generator
    ) -> None:
        """Take a reading ``elapsed_s`` after the last one."""
        position = self._position(q, rng)
        if self.encoder.velocity == "exact":
            self.velocity = velocity.copy()
        else:
            share = elapsed_s / (self.encoder.velocity_filter_s + elapsed_s)
            self.velocity = self.velocity + share * (
                (position - self.position) / elapsed_s - self.velocity
            )
        self.position = position

    def _position(self, q: FloatArray, rng: np.random.Generator) -> FloatArray:
        encoder = self.encoder
        reading = q + self.bias
        if encoder.noise_rad:
            reading += encoder.noise_rad * rng.standard_normal(len(q))
        if encoder.resolution_rad:
            reading = np.round(reading / encoder.resolution_rad) * encoder.resolution_rad
        return reading


# What a plant changes in a model.
_FIGURES = (
    *("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "jnt_actfrcrange"),
    *("dof_frictionloss", "dof_damping", "dof_armature", "geom_friction"),
    *("body_mass", "body_inertia", "body_ipos", "body_gravcomp"),
)


class PlantModel:
    """A robot's model that takes on the joints, servos, links and payload of plants.

    Args:
        robot: whose MJCF.
        payload: whether there is a body for a payload; without, plants must have none.
        change: of the scene. Bodies that do not hang on the arm are no plant's matter.
    """

    def __init__(self, robot: RobotConfig, payload: bool, change: Change | None = None) -> None:
        def attach(spec: mujoco.MjSpec) -> None:
            if change is not None:
                change(spec)
            if not payload:
                return
            site = next((site for site in spec.sites if site.name == robot.tool_site), None)
            if site is None:  # ArmModel says so, with the name of the YAML's field
                return
            body = site.parent.add_body(name=PAYLOAD_BODY, pos=site.pos, quat=site.quat)
            # However the model writes it: as other angles, or within a frame.
            body.alt = site.alt
            if site.frame is not None:
                body.set_frame(site.frame)
            body.explicitinertial = True

        self.arm = ArmModel(robot, attach if payload or change else None)
        model = self.arm.model
        names = [model.body(i).name for i in range(model.nbody)]
        self._payload = names.index(PAYLOAD_BODY) if payload else None
        self._links = _of_arm(self.arm) & np.array([name != PAYLOAD_BODY for name in names])
        self._nominal = {name: getattr(model, name).copy() for name in _FIGURES}
        self._scratch = mujoco.MjData(model)

    def take(self, plant: Plant, adjust: Callable[[mujoco.MjModel], None] | None = None) -> None:
        """Become the model of ``plant``; ``adjust`` may then change any of the same figures."""
        model, links = self.arm.model, self._links
        dofs, drives = self.arm.velocity_index, self.arm.actuator_index
        for name, values in self._nominal.items():
            getattr(model, name)[:] = values
        model.actuator_gainprm[drives, 0] *= plant.servo.gain_factor
        model.actuator_biasprm[drives, 1] *= plant.servo.gain_factor
        model.actuator_biasprm[drives, 2] *= plant.servo.damping_factor
        model.actuator_forcerange[drives] *= plant.servo.effort_factor
        model.jnt_actfrcrange[model.dof_jntid[dofs]] *= plant.servo.effort_factor
        model.dof_frictionloss[dofs] *= plant.joints.friction_factor
        model.dof_damping[dofs] *= plant.joints.damping_factor
        model.dof_armature[dofs] *= plant.joints.armature_factor
        model.body_mass[links] *= plant.mass_factor
        model.body_inertia[links] *= plant.mass_factor
        # MuJoCo compensates the weight that a body has; the controller knows the nominal one.
        model.body_gravcomp[links] /= plant.mass_factor
        if self._payload is not None:
            mass_kg = plant.payload.mass_kg
            radius = (3.0 * mass_kg / (4.0 * math.pi * _WATER_KG_M3)) ** (1.0 / 3.0)
            model.body_mass[self._payload] = mass_kg
            model.body_inertia[self._payload] = 0.4 * mass_kg * radius**2
            model.body_ipos[self._payload] = plant.payload.offset_m
        if adjust is not None:
            adjust(model)
        mujoco.mj_setConst(model, self._scratch)


def _of_arm(arm: ArmModel) -> NDArray[np.bool_]:
    """Which bodies [nbody] hang on the arm's base, payload included."""
    roots = arm.model.body_rootid
    return np.isin(roots, roots[arm.model.dof_bodyid[arm.velocity_index]])


def _tilt_force(arm: ArmModel, tilt_rad: tuple[float, float]) -> FloatArray:
    """Forces [nbody, 3] (N) that turn the level base's weights into those on a tilted one.

    The gravity of the model stays, because gravity compensation is computed from it.
    """
    model = arm.model
    (cx, sx), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in tilt_rad)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    gravity = model.opt.gravity
    seen_from_base = (about_y @ about_x).T @ gravity
    return (model.body_mass * _of_arm(arm))[:, None] * (seen_from_base - gravity)


class PlantArm(SimulatedArm):
    """A simulated arm whose commands and joint states go through a plant.

    The properties of ``SimulatedArm`` tell the truth; ``measured_*`` what the computer knows,
    once ``sample`` was called after the control period. Not thread-safe.

    Args:
        robot: which arm.
        plant: what is wrong with it.
        timestep_s: of the physics; by default the MJCF's own.
        payload: whether a later plant may have one though this one has none.
        change: of the scene.
    """

    def __init__(
        self,
        robot: RobotConfig,
        plant: Plant,
        timestep_s: float | None = None,
        payload: bool = False,
        change: Change | None = None,
    ) -> None:
        self._plant_model = PlantModel(robot, payload or plant.payload.mass_kg > 0.0, change)
        arm = self._plant_model.arm
        arm.model.opt.timestep = timestep_s or arm.timestep_s
        timestep_s, n = arm.timestep_s, len(robot.joints)
        period_steps = round(1.0 / (robot.control_rate_hz * timestep_s))
        self._rng = np.random.default_rng(0)
        self._commands = DelayLine(plant.command, timestep_s, period_steps)
        self._states = DelayLine(plant.state, timestep_s, period_steps)
        self._encoder = EncoderModel(plant.encoder, n)
        self._target: FloatArray = np.zeros(n)
        self._step = self._read_at = 0
        self._arrivals: list[Reading] = []
        self._take(plant)
        super().__init__(arm)

    def reset(self, q: ArrayLike, seed: int | None = None) -> None:
        """Stand still at ``q`` [n] (rad); a ``seed`` begins the randomness anew."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        super().reset(q)
        self._apply_tilt()
        self._target = self.data.ctrl[self._u].copy()
        self._step = self._read_at = 0
        self._commands.clear()
        self._states.clear()
        self._encoder.reset(self.joint_position, self._rng)
        self._reading = self._read()
        self._arrivals = [self._reading]

    def command_position(self, q: ArrayLike) -> None:
        """Send servo references [n] (rad) on their way."""
        self._commands.send(self._step, [0.0, *self._checked(q).tolist()], self._rng)

    def command_velocity(self, velocity: ArrayLike) -> None:
        """Send velocities of the servo references [n] (rad/s) on their way."""
        self._commands.send(self._step, [1.0, *self._checked(velocity).tolist()], self._rng)

    def step(self, dt_s: float | None = None) -> None:
        """Advance by ``dt_s`` (default: one physics step), as ``SimulatedArm.step`` does."""
        touched: set[ContactPair] = set()
        for _ in range(self._steps(dt_s)):
            for moving, *values in self._commands.receive(self._step, self._rng):
                if moving:
                    super().command_velocity(values)
                else:
                    super().command_position(values)
            super().step()
            touched.update(self._pairs)
            self._step += 1
        self._pairs = tuple(sorted(touched))

    def sample(self) -> None:
        """Read the encoders and take what has arrived; once a control period, after ``step``."""
        if self._step == self._read_at:
            return
        elapsed_s = (self._step - self._read_at) * self.arm.timestep_s
        self._read_at = self._step
        self._encoder.read(self.joint_position, self.joint_velocity, elapsed_s, self._rng)
        self._states.send(self._step, _values(self._read()), self._rng)
        self._arrivals = [_reading(m) for m in self._states.receive(self._step, self._rng)]
        for arrival in self._arrivals:
            if arrival.time_s > self._reading.time_s:
                self._reading = arrival

    @property
    def arrivals(self) -> list[Reading]:
        """Joint states that arrived at the last ``sample``: perhaps none, or old ones again."""
        return self._arrivals

    @property
    def measured_position(self) -> FloatArray:
        """Newest joint positions [n] (rad) that have arrived."""
        return self._reading.position

    @property
    def measured_velocity(self) -> FloatArray:
        """Newest joint velocities [n] (rad/s) that have arrived."""
        return self._reading.velocity

    @property
    def measured_effort(self) -> FloatArray:
        """Newest drive torques [n] (N m) that have arrived."""
        return self._reading.effort

    @property
    def reference_position(self) -> FloatArray:
        """Servo references [n] (rad), on the motors' side of the play."""
        return self._target

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on to the bit."""
        encoder = self._encoder
        plant = {
            "rng": self._rng.bit_generator.state,
            "commands": self._commands.state(),
            "states": self._states.state(),
            "encoder": [v.tolist() for v in (encoder.bias, encoder.position, encoder.velocity)],
            "target": self._target.tolist(),
            "steps": [self._step, self._read_at],
            "reading": _values(self._reading),
        }
        return {**super().snapshot(), "plant": json.dumps(plant)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a ``snapshot`` of an arm with the same MJCF and plant."""
        super().restore(snapshot)
        plant = json.loads(str(snapshot["plant"]))
        self._rng.bit_generator.state = plant["rng"]
        self._commands.restore(plant["commands"])
        self._states.restore(plant["states"])
        encoder = self._encoder
        encoder.bias, encoder.position, encoder.velocity = map(np.array, plant["encoder"])
        self._target = np.array(plant["target"])
        self._step, self._read_at = plant["steps"]
        self._reading = _reading(plant["reading"])

    def _take(self, plant: Plant, adjust: Callable[[mujoco.MjModel], None] | None = None) -> None:
        """Be behind ``plant`` from now on. What is on its way arrives as it was sent."""
        self.plant = plant
        self._plant_model.take(plant, adjust)
        self._commands.channel, self._states.channel = plant.command, plant.state
        self._encoder.encoder = plant.encoder
        self._play = plant.joints.backlash_rad / 2.0
        tilt = plant.base_tilt_rad
        self._tilt = _tilt_force(self._plant_model.arm, tilt) if any(tilt) else None

    def _move_servos(self, q: FloatArray) -> None:
        self._target = np.minimum(np.maximum(q, self._ctrl_low), self._ctrl_high)
        follows = self._target
        if self._play:
            # What the joint follows rests until a flank of the teeth comes to push it.
            before = self.data.ctrl[self._u]
            follows = np.minimum(np.maximum(before, follows - self._play), follows + self._play)
        self.data.ctrl[self._u] = follows

    def _apply_tilt(self) -> None:
        if self._tilt is not None:
            self.data.xfrc_applied[:, :3] = self._tilt

    def _read(self) -> Reading:
        encoder = self._encoder
        return Reading(self.time_s, encoder.position, encoder.velocity, self.joint_effort)


def _values(reading: Reading) -> list[float]:
    arrays = (reading.position, reading.velocity, reading.effort)
    return [reading.time_s, *(value for array in arrays for value in array.tolist())]


def _reading(values: list[float]) -> Reading:
    position, velocity, effort = np.array(values[1:]).reshape(3, -1)
    return Reading(values[0], position, velocity, effort)
