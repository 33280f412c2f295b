# SPDX-License-Identifier: Apache-2.0
"""Episodes of a policy over ROS 2 in lock-step: the half of the transfer report that needs ROS.

    python -m smfp_control.transfer POLICY --plant config/plants/bad.yaml < cases.json

Reads a JSON list of episodes (``joint_position`` in rad, ``goal`` [3] in m or [7] with a
quaternion x, y, z, w, ``plant_seed``) and writes a JSON object with one result for each, in order,
and how often the safety filter intervened in each and in all.
The simulation is a ``SimNode`` in this process, the policy a ``policy_node`` process of its own;
they meet over DDS.
"""

from __future__ import annotations

import smfp_control.environment  # noqa: F401 isort: skip

import argparse
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from smfp_control.goals import goal_message
from smfp_control.isolation import Child, local_environment, stop_children
from smfp_control.parameters import ParameterError
from smfp_control.process import interruptible
from smfp_control.sim_node import SimNode
from smfp_control.status import STATUS_QOS, diagnostics_of
from smfp_core.policy_file import PolicyFileError
from smfp_core.rotation import angle
from smfp_core.specs import FloatArray
from smfp_core.strict import ConfigError
from smfp_sim.arm import Kinematics
from smfp_sim.episode import Settling, Trajectory

_PATIENCE_S = 60.0
_ATTEMPTS = 3


class TransferError(RuntimeError):
    """An episode could not be run; the text says why."""


@dataclass(frozen=True)
class Result:
    """What became of one episode; ``wall_s`` without activation, ``fault`` empty if none."""

    success: bool
    error_m: float
    contact: bool
    ticks: int
    peak_velocity_rad_s: float
    peak_acceleration_rad_s2: float
    sha256: str
    fault: str
    wall_s: float


class Episode:
    """Judges one episode, period by period, in the simulation's thread.

    Args:
        node: the simulation.
        goal: [3] (m, base frame), or [7] with a quaternion x, y, z, w.
        steps: policy steps to the time limit.
    """

    def __init__(self, node: SimNode, goal: FloatArray, steps: int) -> None:
        robot, arm = node.driver.robot, node.driver.arm
        self._arm, self._goal = arm, goal
        self._kinematics = Kinematics(arm.arm)
        self._per_step = robot.action_spec().ticks_per_action
        # The first command answers the state that activation saw: the goal comes after it.
        self._last = 1 + steps * self._per_step
        self._settling = Settling(robot.policy.period_s)
        self.trajectory = Trajectory(1.0 / robot.control_rate_hz)
        self.over = threading.Event()
        self.error_m = math.nan
        self.contact = False

    @property
    def success(self) -> bool:
        """Whether the tool settled on the goal."""
        return self._settling.reached

    def on_period(self) -> bool:
        """Note the arm after a control period; False at the end."""
        self.trajectory.add(self._arm)
        done = len(self.trajectory)
        if done > 1:
            self.contact = self.contact or self._arm.in_contact
            if (done - 1) % self._per_step == 0:
                tool = self._kinematics.tool_position(self._arm.joint_position)
                self.error_m = float(np.linalg.norm(self._goal[:3] - tool))
                self._settling.add(self.error_m, self.contact, self._angle_rad())
                if self.contact or done == self._last:
                    self.over.set()
        return not self.over.is_set()

    def _angle_rad(self) -> float:
        if len(self._goal) == 3:
            return 0.0
        turned = self._kinematics.tool_orientation(self._arm.joint_position)
        return angle(turned.tolist(), self._goal[3:].tolist())


class Rig:
    """A simulation in lock-step with a ``policy_node`` process, over and over.

    Args:
        policy: name or path of the policy file.
        robot: name or path of its robot.
        plant: name or path of the plant.
        parameters: of the policy node, beyond those that make it act as in training.
    """

    def __init__(
        self, policy: str, robot: str = "ur5e", plant: str = "ideal", **parameters: object
    ) -> None:
        self.status: dict[str, str] = {}
        self._diagnostics: dict[str, str] = {}
        self._diagnosed_ns = 0
        self._clients: dict[str, Client] = {}
        settings = {"robot": robot, "plant": plant, "lockstep": "true"}
        rclpy.init(args=_ros_arguments(settings), signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor()
        self.simulation = SimNode(threading.Event())
        self.simulation.pause(True)
        self._node = rclpy.create_node("transfer", use_global_arguments=False)
        for node in (self.simulation, self._node):
            self._executor.add_node(node)
        self._node.create_subscription(
            DiagnosticStatus, "policy_node/status", self._on_status, STATUS_QOS
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._goals = self._node.create_publisher(PoseStamped, "policy_node/goal", 10)
        defaults: dict[str, object] = {
            "robot": robot,
            "policy_path": policy,
            "lockstep": "true",
            # As in training: at full speed from the start. Every other bound is the default's,
            # but for those of waiting, which depend on how busy the computer is.
            "blend_ratio": 1.0,
            "tool_speed_limit_m_s": 0.0,
            "tracking_error_rad": 0.6,
            "state_timeout_s": 1.0,
            "state_delay_limit_s": 0.0,
            "activation_timeout_s": 10.0,
        }
        self._child = Child("smfp_control.policy_node", _ros_arguments(defaults | parameters), {})
        try:
            self._transition(Transition.TRANSITION_CONFIGURE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process and leave the graph."""
        stop_children([self._child], 5.0)
        self.simulation.close()
        self._executor.shutdown()
        for node in (self.simulation, self._node):
            node.destroy_node()
        rclpy.try_shutdown()

    def run(
        self, start: FloatArray, goal: FloatArray, plant_seed: int | None, steps: int
    ) -> Result:
        """One episode of at most ``steps`` policy steps, from rest at ``start`` [n], rad.

        Raises:
            TransferError: the policy node refuses, or does not answer.
        """
        episode = Episode(self.simulation, goal, steps)
        self._activate(start, plant_seed)
        message = goal_message(self._node, self.simulation.driver.robot.base_frame, goal)
        self._until(self._goals.get_subscription_count, "the policy node to take goals")
        self._goals.publish(message)
        self._until(lambda: self.status.get("goal_m") or self._refusal(), "the goal to be taken")
        if self._refusal():
            raise TransferError(self._refusal())
        self.simulation.on_period = episode.on_period
        started = time.monotonic()
        self.simulation.pause(False)
        # Not spinning meanwhile: this thread would take the interpreter from the simulation's.
        if not episode.over.wait(_PATIENCE_S):
            raise TransferError(f"the episode does not end: {self._child.output()}")
        wall_s = time.monotonic() - started
        self._transition(Transition.TRANSITION_DEACTIVATE)
        fault = self.status.get("fault", "none")
        if fault != "none":
            self._call(Trigger, "policy_node/reset", Trigger.Request())
        trajectory = episode.trajectory
        return Result(
            episode.success,
            episode.error_m,
            episode.contact,
            len(trajectory),
            trajectory.peak_velocity_rad_s(),
            trajectory.peak_acceleration_rad_s2(),
            trajectory.sha256(),
            "" if fault == "none" else fault,
            wall_s,
        )

    def interventions(self) -> int:
        """Of the safety filter, in all episodes so far; takes up to a second."""
        # What was published during an episode still waits to be read, and is not of all of it.
        now_ns = self._node.get_clock().now().nanoseconds
        self._until(lambda: self._diagnosed_ns > now_ns, "diagnostics")
        return int(self._diagnostics["safety_interventions"])

    def _activate(self, start: FloatArray, plant_seed: int | None) -> None:
        """Put the arm at ``start`` and let the policy node hold it, with its answer waiting."""
        simulation = self.simulation
        for _ in range(_ATTEMPTS):
            simulation.start_at(start, plant_seed)
            self._transition(Transition.TRANSITION_ACTIVATE)
            self._until(lambda: simulation.answer, "the first command")
            # A late message of the episode before could stand where this one's belongs.
            if simulation.answer == simulation.driver.arm.measured_position.tolist():
                return
            self._transition(Transition.TRANSITION_DEACTIVATE)
        raise TransferError("the policy node does not begin where the arm is")

    def _refusal(self) -> str:
        return self.status.get("refusal", "")

    def _transition(self, number: int) -> None:
        request = ChangeState.Request(transition=Transition(id=number))
        if not self._call(ChangeState, "policy_node/change_state", request).success:
            self._spin(0.5)
            raise TransferError(self._refusal() or f"transition {number} refused")

    def _call(self, kind: type, name: str, request: Any) -> Any:
        client = self._clients.get(name) or self._node.create_client(kind, name)
        self._clients[name] = client
        self._until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self._until(future.done, f"the answer of {name}")
        return future.result()

    def _until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            self._spin(0.02)
            if self._child.process.poll() is not None or time.monotonic() > end:
                raise TransferError(f"waited in vain for {what}: {self._child.output()}")

    def _spin(self, seconds: float) -> None:
        self._executor.spin_once(seconds)

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.status = {item.key: item.value for item in message.values}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = diagnostics_of(message, self._node.resolve_topic_name("policy_node"))
        if values is None:
            return
        self._diagnostics = values
        stamp = message.header.stamp
        self._diagnosed_ns = stamp.sec * 10**9 + stamp.nanosec


def _ros_arguments(parameters: Mapping[str, object]) -> list[str]:
    given = (("-p", f"{name}:={value}") for name, value in parameters.items())
    return ["--ros-args", *(part for pair in given for part in pair)]


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m smfp_control.transfer``."""
    parser = argparse.ArgumentParser(prog="python -m smfp_control.transfer", description=__doc__)
    parser.add_argument("policy", help="name or path of a policy file")
    parser.add_argument("--robot", default="ur5e", help="name or path of its robot")
    parser.add_argument("--plant", default="ideal", help="name or path of a plant")
    parser.add_argument("--steps", type=int, default=250, help="policy steps of an episode")
    options = parser.parse_args(args)
    sys.setswitchinterval(5e-5)
    os.environ.update(local_environment())
    rig = None
    try:
        with interruptible():
            rig = Rig(options.policy, options.robot, options.plant)
            results, interventions = [], 0
            for case in json.load(sys.stdin):
                result = rig.run(
                    np.array(case["joint_position"]),
                    np.array(case["goal"]),
                    case["plant_seed"],
                    options.steps,
                )
                before, interventions = interventions, rig.interventions()
                results.append(asdict(result) | {"interventions": interventions - before})
    except (TransferError, ConfigError, ParameterError, PolicyFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if rig is not None:
            rig.close()
    print(json.dumps({"results": results, "interventions": interventions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
