# SPDX-License-Identifier: Apache-2.0
"""The control loop with all its checks, fed without DDS; run as a process of its own.

    python benchmarks/loop_rig.py ticks|period|memory POLICY ...

Prints one JSON object. ``control_loop.py`` calls it; each measurement gets a fresh process.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from loop_load import other_work
from sensor_msgs.msg import JointState

from smfp_control.control_loop import ControlLoop
from smfp_control.faults import FaultLatch
from smfp_control.noise import NoiseSource
from smfp_control.parameters import PolicyNodeParameters
from smfp_control.path_guard import PathGuard
from smfp_control.periodic import PeriodicThread
from smfp_control.policy_runner import PolicyRunner
from smfp_control.process import freeze_garbage
from smfp_control.realtime import RealtimeSettings
from smfp_control.safety import SafetyFilter, StateMonitor
from smfp_control.sim_driver import SimulatedDriver
from smfp_control.supervision import LoopSettings
from smfp_core.policy_file import PolicyFile
from smfp_core.reference import Reference
from smfp_core.robot import load_robot
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel

STAGES = ("observe", "policy", "filter")
_NEW_GOAL_TICKS = 1000
# Of the time of a measurement, for the same with an empty tick.
_BARE_SHARE = 0.5
# As the nodes set it; see smfp_control.process.
_SWITCH_INTERVAL_S = 5e-5


class Rig:
    """A loop with the node's default checks, on an arm that follows random goals.

    Args:
        policy: the policy file.
        simulated: whether MuJoCo's arm answers, or one that is always where it was commanded to.
    """

    def __init__(self, policy: Path, simulated: bool) -> None:
        self.robot = robot = load_robot("ur5e")
        self.period_s = 1.0 / robot.control_rate_hz
        self._driver = SimulatedDriver(robot, self.period_s) if simulated else None
        n = len(robot.joints)
        self._message = JointState(
            name=list(robot.joint_names), position=list(robot.home_rad), velocity=[0.0] * n
        )
        self._position = np.frombuffer(self._message.position, np.float64)
        self._velocity = np.frombuffer(self._message.velocity, np.float64)
        self._waiting = True
        self._rng = np.random.default_rng(0)
        self._latch = FaultLatch()
        defaults = PolicyNodeParameters()
        limits = robot.limits
        guard = PathGuard(
            ClearanceModel(robot),
            limits.acceleration,
            self.period_s,
            defaults.collision_margin_m,
            defaults.tool_speed_limit_m_s,
        )
        file = PolicyFile.load(policy, robot)
        self.policy = file
        self.loop = ControlLoop(
            robot,
            PolicyRunner(file, NoiseSource(file.deterministic_noise, 0.0, 0, "goal")),
            Kinematics(ArmModel(robot)),
            # Late ticks are what is measured here, so they must not stop the arm.
            LoopSettings(state_timeout_s=60.0, deadline_miss_limit=10**9, deadline_window_s=1.0),
            StateMonitor(
                robot,
                defaults.velocity_tolerance,
                defaults.tracking_error_rad,
                defaults.state_jump_rad,
            ),
            self._latch,
            self._take,
            self._send,
            safety_filter=SafetyFilter(limits, self.period_s, guard),
        )
        fault = self.loop.observe(time.monotonic_ns())
        if fault is not None:
            raise RuntimeError(fault.reason)
        self.loop.begin()

    def _take(self) -> JointState | None:
        waiting, self._waiting = self._waiting, False
        return self._message if waiting else None

    def _send(self, command: Reference) -> None:
        if self._driver is None:
            self._position[:] = command.position
            self._velocity[:] = command.velocity
        else:
            self._driver.take_position(command.position.tolist())

    def tick(self, now_ns: int) -> bool:
        """Let the arm move for a period, then tick."""
        if self.loop.statistics.ticks % _NEW_GOAL_TICKS == 0:
            self.loop.set_goal(self.robot.sample_goal(self._rng))
        if self._driver is not None:
            self._driver.advance()
            self._position[:] = self._driver.arm.joint_position
            self._velocity[:] = self._driver.arm.joint_velocity
        self._waiting = True
        return self.loop.tick(now_ns)

    def run(self, ticks: int) -> None:
        """Tick back to back.

        Raises:
            RuntimeError: a fault stopped the arm, so that something else would be measured.
        """
        for _ in range(ticks):
            self.tick(time.monotonic_ns())
        self.check()

    def check(self) -> None:
        """Raise if a fault stopped the arm."""
        if self._latch.fault is not None:
            raise RuntimeError(f"the arm was stopped: {self._latch.fault.reason}")


def percentiles(values: Any, scale: float) -> dict[str, float]:
    """p50 and p99 of ``values`` in units of ``1 / scale``."""
    p50, p99 = np.percentile(values, (50, 99)) * scale
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def measure_ticks(policy: Path, ticks: int) -> dict[str, Any]:
    """Cost of a tick by stage and of one policy step, microseconds."""
    rig = Rig(policy, simulated=True)
    rig.run(200)
    freeze_garbage()
    costs: dict[str, list[int]] = {stage: [] for stage in STAGES}
    rings = rig.loop.statistics.cost_ns
    for _ in range(ticks):
        rig.tick(time.monotonic_ns())
        for stage in STAGES:
            costs[stage].append(rings[stage].last)
    rig.check()
    file = rig.policy
    observation = np.zeros(file.observation.size, np.float32)
    noise = file.deterministic_noise
    clock = time.perf_counter_ns
    steps = np.empty(ticks)
    for i in range(ticks):
        start = clock()
        file.sample(observation, noise)
        steps[i] = clock() - start
    return {
        "policy_step_us": percentiles(steps, 1e-3),
        "tick_us": percentiles(np.sum(list(costs.values()), axis=0), 1e-3),
        "stages": {stage: percentiles(values, 1e-3) for stage, values in costs.items()},
    }


def _nothing(now_ns: int) -> bool:
    return True


def measure_period(
    policy: Path, rates_hz: list[float], seconds: float, fifo: bool, loaded: bool
) -> dict[str, Any]:
    """Error of the control thread's period at each rate, and of an empty one; milliseconds."""
    rig = Rig(policy, simulated=False)
    rig.run(200)
    freeze_garbage()
    realtime = RealtimeSettings(80 if fifo else 0, "", fifo)
    problems: list[str] = []
    rows = []

    def prepare() -> bool:
        problems[:] = realtime.apply()
        return not problems

    with other_work(loaded):
        for rate_hz in rates_hz:
            row: dict[str, float] = {"rate_hz": rate_hz}
            # What this machine and this Python add by themselves: a thread with nothing to do.
            for prefix, tick, share in (("", rig.tick, 1.0), ("bare_", _nothing, _BARE_SHARE)):
                thread = PeriodicThread("control", 1.0 / rate_hz, tick, prepare=prepare)
                if not thread.start():
                    return {"refused": "; ".join(problems)}
                time.sleep(seconds * share)
                thread.stop(5.0)
                errors = thread.period_error_ns.percentiles(50, 99, 100) * 1e-6
                names = (f"{prefix}{name}_ms" for name in ("p50", "p99", "max"))
                row |= dict(zip(names, map(float, errors), strict=True))
                row |= {f"{prefix}misses": thread.misses, f"{prefix}ticks": thread.ticks}
            rows.append(row)
    rig.check()
    return {"rows": rows}


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure_memory(policy: Path, ticks: int) -> dict[str, Any]:
    """Resident memory after 10,000 ticks and after ``ticks``."""
    rig = Rig(policy, simulated=False)
    freeze_garbage()
    rows = []
    done = 0
    for count in (10_000, ticks):
        rig.run(count - done)
        done = count
        gc.collect()
        rows.append({"ticks": count, "resident_mb": round(resident_mb(), 3)})
    return {"rows": rows}


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("ticks", "period", "memory"))
    parser.add_argument("policy", type=Path)
    parser.add_argument("--ticks", type=int, default=10_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[500.0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--fifo", action="store_true")
    parser.add_argument("--loaded", action="store_true")
    given = parser.parse_args()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if given.what == "ticks":
        result = measure_ticks(given.policy, given.ticks)
    elif given.what == "period":
        result = measure_period(given.policy, given.rates, given.seconds, given.fifo, given.loaded)
    else:
        result = measure_memory(given.policy, given.ticks)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
