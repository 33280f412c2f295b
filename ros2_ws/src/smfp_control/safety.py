# SPDX-License-Identifier: Apache-2.0
"""The safety filter on every command, and the checks on the measured arm. No ROS in here."""

from __future__ import annotations

import enum

import numpy as np

from smfp_control.faults import Fault, FaultKind
from smfp_core.reference import Reference, ReferenceLimits, admissible_velocity
from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray

# Counting tolerance, rad/s: two ways of computing one bound differ by rounding alone.
_ROUNDING = 1e-9


class Intervention(enum.IntFlag):
    """What the filter had to change; several may apply to one command."""

    NONE = 0
    NON_FINITE = enum.auto()
    POSITION = enum.auto()
    VELOCITY = enum.auto()
    ACCELERATION = enum.auto()


KINDS = tuple(kind for kind in Intervention if kind is not Intervention.NONE)


def filter_command(
    limits: ReferenceLimits, command: Reference, desired_velocity: FloatArray, dt: float
) -> Intervention:
    """Advance ``command`` in place by one tick, as near to ``desired_velocity`` as limits allow.

    Whatever comes in (NaN, infinities, jumps), the result keeps to the limits in position,
    velocity and acceleration, and from it the arm can always brake within them. A command that
    starts beyond a position limit is led back, never further out.

    Args:
        limits: of the robot, [n].
        command: the last command sent, finite; becomes the next one.
        desired_velocity: rad/s [n]; where not finite, the arm is braked.
        dt: control period, s.

    Returns:
        What had to be changed, ``Intervention.NONE`` for a command that passed untouched.
    """
    kinds = Intervention.NONE
    if not np.isfinite(desired_velocity).all():
        kinds |= Intervention.NON_FINITE
        desired_velocity = np.where(np.isfinite(desired_velocity), desired_velocity, 0.0)
    low, high = admissible_velocity(limits, command, dt)
    if (desired_velocity < low - _ROUNDING).any() or (desired_velocity > high + _ROUNDING).any():
        kinds |= _classify(limits, command, desired_velocity, low, high, dt)
    np.minimum(np.maximum(desired_velocity, low), high, out=command.velocity)
    command.position += command.velocity * dt
    return kinds


def _classify(
    limits: ReferenceLimits,
    command: Reference,
    desired: FloatArray,
    low: FloatArray,
    high: FloatArray,
    dt: float,
) -> Intervention:
    kinds = Intervention.NONE
    changed = (desired < low - _ROUNDING) | (desired > high + _ROUNDING)
    too_fast = np.abs(desired) > limits.velocity + _ROUNDING
    # The same rounding as in admissible_velocity: its bounds are v -+ step, not their difference.
    step = limits.acceleration * dt
    too_sudden = (desired > command.velocity + step + _ROUNDING) | (
        desired < command.velocity - step - _ROUNDING
    )
    if (changed & too_fast).any():
        kinds |= Intervention.VELOCITY
    if (changed & too_sudden).any():
        kinds |= Intervention.ACCELERATION
    # Bounds tighter than velocity and acceleration explain come from the room left for braking.
    upper = np.minimum(limits.velocity, command.velocity + step)
    lower = np.maximum(-limits.velocity, command.velocity - step)
    braking = ((desired > high) & (high < upper - _ROUNDING)) | (
        (desired < low) & (low > lower + _ROUNDING)
    )
    if (changed & braking).any():
        kinds |= Intervention.POSITION
    return kinds


class StateMonitor:
    """Checks that the measured arm is where and as fast as it can be. No allocation when it is.

    Args:
        robot: gives names and hard limits (data sheet, without the margin of commands).
        velocity_tolerance: part of the velocity limit that a measurement may exceed it by.
        tracking_error_rad: greatest distance between commanded and measured position.
        jump_rad: what two successive states may differ by beyond motion at the velocity limit.
    """

    def __init__(
        self,
        robot: RobotConfig,
        velocity_tolerance: float,
        tracking_error_rad: float,
        jump_rad: float,
    ) -> None:
        self._names = robot.joint_names
        self._low = np.array([joint.position_rad[0] for joint in robot.joints])
        self._high = np.array([joint.position_rad[1] for joint in robot.joints])
        self._velocity = np.array([joint.velocity_rad_s for joint in robot.joints])
        self._velocity *= 1.0 + velocity_tolerance
        self._tracking_error = tracking_error_rad
        self._jump = jump_rad
        self._difference = np.empty(len(robot.joints))

    def check_jump(self, before: FloatArray, after: FloatArray, elapsed_s: float) -> Fault | None:
        """Two successive positions [n] (rad), received ``elapsed_s`` apart."""
        np.subtract(after, before, out=self._difference)
        np.abs(self._difference, out=self._difference)
        bound = self._jump + self._velocity * elapsed_s
        if (self._difference <= bound).all():
            return None
        i = int(np.argmax(self._difference - bound))
        return Fault(
            FaultKind.STATE_JUMP,
            f"{self._names[i]} jumped by {self._difference[i]:.3f} rad in {elapsed_s * 1e3:.1f} ms"
            " between two joint states: two publishers, or a driver that restarted?",
        )

    def check_measured(self, position: FloatArray, velocity: FloatArray) -> Fault | None:
        """Measured position and velocity [n] against the hard limits."""
        if (position < self._low).any() or (position > self._high).any():
            i = int(np.argmax(np.maximum(self._low - position, position - self._high)))
            return Fault(
                FaultKind.POSITION_LIMIT,
                f"{self._names[i]} is at {position[i]:.4f} rad, outside its limits "
                f"[{self._low[i]:.4f}, {self._high[i]:.4f}]: move it back with the robot's pendant",
            )
        np.abs(velocity, out=self._difference)
        if (self._difference > self._velocity).any():
            i = int(np.argmax(self._difference - self._velocity))
            return Fault(
                FaultKind.VELOCITY_LIMIT,
                f"{self._names[i]} moves at {velocity[i]:.3f} rad/s, "
                f"above {self._velocity[i]:.3f} rad/s",
            )
        return None

    def check_tracking(self, commanded: FloatArray, measured: FloatArray) -> Fault | None:
        """Commanded against measured position [n], rad."""
        np.subtract(commanded, measured, out=self._difference)
        np.abs(self._difference, out=self._difference)
        if (self._difference <= self._tracking_error).all():
            return None
        i = int(np.argmax(self._difference))
        return Fault(
            FaultKind.TRACKING_ERROR,
            f"{self._names[i]} is {self._difference[i]:.3f} rad from its command "
            f"(limit {self._tracking_error:g}): does the controller take the commands, is the arm "
            "free? Deactivate, reset and activate to start again from where it is",
        )
