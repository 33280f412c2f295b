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

_END_S = 20.0


@dataclass(frozen=True)
class Motion:
    """What the arm did, by its own account.

    Attributes:
        time_s: [t], monotonic clock of this computer.
        position, velocity, target: [t, n], in the order of ``joints``.
        taken, ignored: counts of command messages over all controllers.
    """

    joints: tuple[str, ...]
    time_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    target: np.ndarray
    taken: int
    ignored: int

    def smooth_acceleration(self, window_s: float) -> np.ndarray:
        """Mean acceleration [t', n] over windows of this length, rad/s^2.

        A servo turns the jitter of commands into spikes of single periods; what the mass of an
        arm would see of it is the mean.
        """
        n = round(window_s / (self.time_s[1] - self.time_s[0]))
        return (self.velocity[n:] - self.velocity[:-n]) / window_s


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
