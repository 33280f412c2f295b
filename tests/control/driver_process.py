# SPDX-License-Identifier: Apache-2.0
"""The fake driver as a process, and the motion that its arm made."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench import Bench
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from smfp_control.isolation import Child
from smfp_core.robot import RobotConfig

_END_S = 20.0


@dataclass(frozen=True)
class Motion:
    """What the arm did, by its own account.

    Attributes:
        time_s: [t], monotonic clock of this computer.
        position, velocity, target: [t, n], in the order of ``joints``.
        commands, numbers: [m, n] and [m], the values of each command that was taken, and the number
            that its publisher gave it.
        taken, ignored: counts of command messages over all controllers.
    """

    joints: tuple[str, ...]
    time_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    target: np.ndarray
    commands: np.ndarray
    numbers: np.ndarray
    taken: int
    ignored: int


def assert_commands_ramp(robot: RobotConfig, motion: Motion, velocities: bool = False) -> None:
    """From each command to the next the acceleration kept to the limits of ``robot``.

    A node numbers its commands, one each tick, so this holds exactly on whatever machine. Positions
    may begin anew elsewhere, from rest to rest: where the arm is then.
    """
    dt = 1.0 / robot.control_rate_hz
    follows = np.diff(motion.numbers.astype(np.int64)) == 1
    assert follows.mean() > 0.5, "most commands were lost"
    if velocities:
        change = np.diff(motion.commands, axis=0)[follows]
    else:
        velocity = np.diff(motion.commands, axis=0) / dt
        moves = velocity.any(axis=1)
        anew = np.flatnonzero(moves[1:-1] & ~moves[:-2] & ~moves[2:]) + 1
        velocity[anew] = 0.0
        change = np.diff(velocity, axis=0)[follows[1:] & follows[:-1]]
    # Of positions: their rounding, 1e-16 rad, divided by the squared period.
    assert (np.abs(change) <= (robot.limits.acceleration + 1e-6) * dt).all()


class DriverProcess:
    """``fake_driver.py`` with options; ``motion`` ends it.

    Args:
        folder: where the motion is logged.
        domain_id: ROS domain.
        options: of its command line.
    """

    def __init__(self, folder: Path, domain_id: int, *options: str) -> None:
        self._log = folder / f"motion_{id(self):x}.npz"
        environment = {
            "ROS_DOMAIN_ID": str(domain_id),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        self.child = Child("fake_driver", ["--log", str(self._log), *options], environment)

    def motion(self) -> Motion:
        """End the driver; what its arm did."""
        self.child.signal(signal.SIGTERM)
        assert self.child.wait(_END_S) == 0, self.child.output()
        with np.load(self._log) as log:
            return Motion(
                tuple(log["joints"]),
                *(log[name] for name in ("time_s", "position", "velocity", "target")),
                *(log[name] for name in ("commands", "numbers")),
                taken=int(log["taken"].sum()),
                ignored=int(log["ignored"].sum()),
            )


def start_driver(bench: Bench, folder: Path, *options: str) -> DriverProcess:
    """A driver on the bench's domain, which ends with the bench."""
    driver = DriverProcess(folder, bench.domain_id, *options)
    bench.children.append(driver.child)
    return driver


def set_faults(bench: Bench, **faults: object) -> None:
    """Change the faults of a running driver."""
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in faults.items()]
    request = SetParameters.Request(parameters=parameters)
    answer = bench.call(SetParameters, "fake_driver/set_parameters", request)
    assert all(result.successful for result in answer.results)
