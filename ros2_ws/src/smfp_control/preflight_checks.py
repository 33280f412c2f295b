# SPDX-License-Identifier: Apache-2.0
"""What has to hold of policy and joint states before an arm is activated.

No ROS in here: :mod:`smfp_control.preflight` collects what is seen on the topics, this module and
:mod:`smfp_control.preflight_commands` judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smfp_control.faults import Fault
from smfp_control.joint_state import JointStateMessage, JointStateReader
from smfp_control.path_guard import PathGuard
from smfp_core.policy_file import PolicyFile
from smfp_core.robot import RobotConfig
from smfp_core.specs import FloatArray
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel

Verdict = Literal["go", "note", "no-go"]

# States slower than half the control rate are no feedback; a tenth may get lost on a best-effort
# topic.
_LEAST_RATE, _USUAL_RATE = 0.5, 0.9
# Beyond the first, logs of two computers cannot be matched; beyond the second, something is wrong.
_CLOCK_NOTE_S, _CLOCK_LIMIT_S = 0.005, 0.05
_AT_REST_RAD, _AT_REST_RAD_S = 0.01, 0.01
_VELOCITY_ERROR_RAD_S = 0.05


@dataclass(frozen=True)
class Row:
    """One line of the table: what was checked, the verdict, what was found, what to do."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscriber; ``mismatch`` says why its QoS does not go with the node's."""

    node: str
    type: str
    mismatch: str = ""


@dataclass(frozen=True)
class Controller:
    """What the subscriber of the commands says of itself; empty where it does not say."""

    joints: tuple[str, ...] = ()
    interface: str = ""


@dataclass(frozen=True)
class Observed:
    """What was seen on the live topics.

    Attributes:
        states: (system time of reception in ns, message) of every joint state, in order.
        watched_ns: system time (ns) at which watching them began and ended.
        state_publishers, command_subscribers: endpoints of the two topics.
        foreign_publishers: (topic, node) of others that publish commands to this arm.
        policy_node: its parameters of ``NODE_PARAMETERS``; None: it is not there, empty: it does
            not tell.
    """

    joint_states_topic: str
    command_topic: str
    command_type: str
    states: Sequence[tuple[int, JointStateMessage]] = ()
    watched_ns: tuple[int, int] = (0, 0)
    state_publishers: Sequence[Endpoint] = ()
    command_subscribers: Sequence[Endpoint] = ()
    foreign_publishers: Sequence[tuple[str, str]] = ()
    controller: Controller | None = None
    policy_node: Mapping[str, Any] | None = None


@dataclass
class Motion:
    """The joint states as the node would read them; arrays in the robot's joint order.

    Times (s) count from when watching began; ``watched_s`` is when it ended. ``name_lists`` are
    the joints of each kind of message, ``arm_lists`` those of them that have all of the robot's.
    """

    watched_s: float
    received_s: FloatArray
    stamp_s: FloatArray
    position: FloatArray
    velocity: FloatArray
    refused: list[Fault] = field(default_factory=list)
    name_lists: set[tuple[str, ...]] = field(default_factory=set)
    arm_lists: list[tuple[str, ...]] = field(default_factory=list)
    out_of_order: int = 0
    with_velocity: int = 0

    @classmethod
    def of(cls, robot: RobotConfig, observed: Observed) -> Motion:
        """Read messages with the node's own reader, which decides what it would refuse."""
        reader = JointStateReader(robot.joint_names)
        times: list[tuple[int, int]] = []
        position, velocity = [], []
        # Whole seconds go first: what is left keeps its nanoseconds as a double.
        zero, end = observed.watched_ns
        empty = np.zeros((0, 0))
        motion = cls(1e-9 * (end - zero), np.zeros(0), np.zeros(0), empty, empty)
        for received_ns, message in observed.states:
            motion.name_lists.add(tuple(message.name))
            accepted = reader.accepted
            fault = reader.accept(message, received_ns)
            if fault is not None:
                motion.refused.append(fault)
            if reader.accepted == accepted:
                continue
            stamp = message.header.stamp
            times.append((received_ns, stamp.sec * 10**9 + stamp.nanosec))
            position.append(reader.position.copy())
            velocity.append(reader.velocity.copy())
            motion.with_velocity += bool(len(message.velocity))
        joints = set(robot.joint_names)
        motion.arm_lists = [names for names in motion.name_lists if joints <= set(names)]
        motion.received_s = np.array([1e-9 * (received - zero) for received, _ in times])
        motion.stamp_s = np.array(
            [1e-9 * (stamp - zero) if stamp else np.nan for _, stamp in times]
        )
        motion.position = np.array(position).reshape(len(times), len(robot.joints))
        motion.velocity = np.array(velocity).reshape(len(times), len(robot.joints))
        motion.out_of_order = reader.out_of_order
        return motion


def check_policy(
    load: Callable[[], PolicyFile], errors: tuple[type[Exception], ...]
) -> tuple[PolicyFile | None, Row]:
    """Whether the policy file is whole and belongs to this arm."""
    try:
        policy = load()
    except errors as error:
        return None, Row("policy file", "no-go", str(error), "give --policy a file for this robot")
    return policy, Row("policy file", "go", f"{policy.path.name}, sha256 {policy.sha256[:12]}")


def check_states(
    robot: RobotConfig, observed: Observed, policy: PolicyFile | None, state_timeout_s: float
) -> list[Row]:
    """Publisher, QoS, names, velocities, rate, gaps, clock, pose and rest of the joint states."""
    topic, publishers = observed.joint_states_topic, observed.state_publishers
    motion = Motion.of(robot, observed)
    rows = [_publishers(topic, publishers, motion, len(observed.states))]
    if publishers:
        rows.append(check_qos("joint states QoS", publishers))
    if not observed.states:
        return rows
    rows.append(_names(robot, motion, len(observed.states)))
    if not len(motion.received_s):  # of which the names, or what they are refused for, tell
        return rows
    if len(motion.received_s) < 2:
        found = f"one message in {motion.watched_s:.1f} s"
        return [*rows, Row("state rate", "no-go", found, "does the driver still run?")]
    needs_velocity = policy is None or any(
        item.name == "joint_velocity" for item in policy.observation.fields
    )
    return [
        *rows,
        _velocities(robot, motion, needs_velocity),
        _rate(robot, motion),
        _gaps(motion, state_timeout_s),
        _clock(motion),
        _pose(robot, motion.position[-1]),
        _surroundings(robot, motion.position[-1]),
        _rest(robot, motion),
    ]


def _publishers(topic: str, publishers: Sequence[Endpoint], motion: Motion, messages: int) -> Row:
    check, names = "joint states", ", ".join(end.node for end in publishers)
    if not publishers:
        return Row(
            check,
            "no-go",
            f"nobody publishes {topic}",
            "start the driver; is it on this ROS_DOMAIN_ID, is the topic another one "
            "(--joint-states-topic, --namespace)?",
        )
    wrong = [end for end in publishers if end.type != "sensor_msgs/msg/JointState"]
    if wrong:
        return Row(check, "no-go", f"{topic} is of type {wrong[0].type}", "give the right topic")
    if not messages:
        return Row(
            check,
            "no-go",
            f"{names} publishes {topic}, but no message came",
            "is joint_state_broadcaster active, does the network let data through?",
        )
    # A gripper's driver may publish beside the arm's: then there are as many sets of names, of
    # which one has the arm's. A second one is a republisher that adds the gripper's.
    sets, of_arm = (set(map(frozenset, x)) for x in (motion.name_lists, motion.arm_lists))
    if len(publishers) > len(sets) or (len(publishers) > 1 and len(of_arm) > 1):
        return Row(
            check,
            "no-go",
            f"{len(publishers)} publish the same joints on {topic}: {names}",
            "stop all but the arm's driver",
        )
    return Row(check, "go", f"{topic} from {names}")


def check_qos(check: str, endpoints: Sequence[Endpoint]) -> Row:
    """Whether messages can pass between the node and these endpoints."""
    wrong = [f"{end.node}: {end.mismatch}" for end in endpoints if end.mismatch]
    if wrong:
        return Row(check, "no-go", "; ".join(wrong), "change the QoS of that node")
    return Row(check, "go", "compatible")


def _names(robot: RobotConfig, motion: Motion, messages: int) -> Row:
    check = "joint names"
    if motion.refused:
        share = f"{len(motion.refused)} of {messages} messages refused: {motion.refused[-1].reason}"
        return Row(check, "no-go", share, "every joint of the robot must be in one message, finite")
    if not len(motion.position):
        return Row(
            check,
            "no-go",
            f"no message names {', '.join(robot.joint_names)}; seen: {_shown(motion.name_lists)}",
            "is it the right robot? A tf_prefix of the driver must not be set",
        )
    if motion.out_of_order:
        return Row(
            check,
            "no-go",
            f"{motion.out_of_order} of {messages} messages are older than the one before",
            "two publishers, or a clock that jumps",
        )
    arm = motion.arm_lists
    if len(arm) > 1:
        text = f"they change between messages: {_shown(arm)}"
        return Row(check, "note", text, "they are mapped by name; two publishers?")
    extra = [name for name in arm[0] if name not in robot.joint_names]
    same = list(arm[0]) == list(robot.joint_names)
    text = "complete" + ("" if same else ", in the driver's order (mapped by name)")
    return Row(check, "go", text + (f", beside {', '.join(extra)}" if extra else ""))


def _velocities(robot: RobotConfig, motion: Motion, needed: bool) -> Row:
    check = "velocities"
    if motion.with_velocity < len(motion.position):
        text = f"missing in {len(motion.position) - motion.with_velocity} messages"
        if needed:
            return Row(check, "no-go", text, "let joint_state_broadcaster publish velocities")
        return Row(check, "note", text, "they are differentiated; the policy does not see them")
    duration = motion.received_s[-1] - motion.received_s[0]
    travelled = (motion.position[-1] - motion.position[0]) / duration
    error = np.abs(motion.velocity.mean(axis=0) - travelled)
    i = int(np.argmax(error))
    if error[i] > _VELOCITY_ERROR_RAD_S:
        return Row(
            check,
            "no-go",
            f"{robot.joint_names[i]} reports {motion.velocity[:, i].mean():.3f} rad/s and moves at "
            f"{travelled[i]:.3f} rad/s",
            "the driver's velocities are wrong: units, or an offset?",
        )
    return Row(check, "go", f"agree with the positions within {error[i]:.3f} rad/s")


def _rate(robot: RobotConfig, motion: Motion) -> Row:
    check, wanted = "state rate", robot.control_rate_hz
    rate = len(motion.received_s) / motion.watched_s
    text = f"{rate:.0f} Hz, control at {wanted:g} Hz"
    if rate < _LEAST_RATE * wanted:
        return Row(
            check,
            "no-go",
            text,
            "update_rate of the controller manager; a topic that is republished slower?",
        )
    if rate < _USUAL_RATE * wanted:
        return Row(check, "note", text, "states are lost: is this computer or the network busy?")
    return Row(check, "go", text)


def _gaps(motion: Motion, timeout_s: float) -> Row:
    # The silence before the first and after the last state is one as well: a driver may be dead.
    gaps = np.diff([0.0, *motion.received_s, motion.watched_s])
    p50, p99, longest = np.percentile(gaps, [50, 99, 100]) * 1e3
    text = f"p50 {p50:.2f}, p99 {p99:.2f}, longest {longest:.1f} ms"
    if longest > timeout_s * 1e3:
        return Row(
            "state gaps",
            "no-go",
            f"{text}; the node stops the arm at {timeout_s * 1e3:g} ms",
            "a wired network, a real-time kernel, less load on this computer",
        )
    return Row("state gaps", "go", text)


def _clock(motion: Motion) -> Row:
    check = "clock offset"
    age = motion.received_s - motion.stamp_s
    if np.isnan(age).any():
        text = f"{int(np.isnan(age).sum())} messages without a stamp"
        return Row(check, "note", text, "late and repeated messages cannot be told apart")
    offset = float(np.median(age))
    text = f"stamps are {abs(offset) * 1e3:.2f} ms {'old' if offset >= 0 else 'ahead'} on arrival"
    if abs(offset) > _CLOCK_LIMIT_S:
        return Row(
            check,
            "no-go",
            text,
            "synchronise the clocks (chrony, PTP); simulated time is no hardware's",
        )
    if abs(offset) > _CLOCK_NOTE_S:
        return Row(check, "note", text, "synchronise the clocks (chrony, PTP)")
    return Row(check, "go", text)


def _pose(robot: RobotConfig, position: FloatArray) -> Row:
    check, limits = "pose in limits", robot.limits
    hard = np.array([joint.position_rad for joint in robot.joints])
    outside = np.maximum(hard[:, 0] - position, position - hard[:, 1])
    i = int(np.argmax(outside))
    if outside[i] > 0.0:
        return Row(
            check,
            "no-go",
            f"{_joint(robot, position, i)} is outside [{hard[i, 0]:.4f}, {hard[i, 1]:.4f}]",
            "move it back with the robot's pendant; are these the right units and robot?",
        )
    beyond = np.maximum(limits.position_min - position, position - limits.position_max)
    i = int(np.argmax(beyond))
    if beyond[i] > 0.0:
        text = f"{_joint(robot, position, i)} is within the margin that commands keep free"
        return Row(check, "note", text, "no command leads further out; better move it back before")
    return Row(check, "go", f"closest limit {-beyond[i]:.2f} rad away ({robot.joint_names[i]})")


def _surroundings(robot: RobotConfig, position: FloatArray) -> Row:
    check, arm = "collision", ArmModel(robot)
    pairs = Kinematics(arm).contacts(position)
    if pairs:
        return Row(
            check,
            "no-go",
            "the model touches here: " + ", ".join(f"{a} and {b}" for a, b in pairs[:3]),
            "move the arm apart with the pendant; does the model's floor fit the table?",
        )
    guard = PathGuard(
        ClearanceModel(robot, arm.model), robot.limits.acceleration, 1.0 / robot.control_rate_hz
    )
    refusal = guard.refusal(position)
    if refusal is not None:
        return Row(
            check,
            "no-go",
            refusal,
            "move the arm there with the pendant; does the YAML's workspace fit the cell?",
        )
    return Row(check, "go", "none, and within the workspace, as model and YAML have them")


def _rest(robot: RobotConfig, motion: Motion) -> Row:
    spread: FloatArray = np.ptp(motion.position, axis=0)
    i = int(np.argmax(spread))
    duration = motion.received_s[-1] - motion.received_s[0]
    text = f"{robot.joint_names[i]} moved by {spread[i]:.4f} rad in {duration:.1f} s"
    if spread[i] > max(_AT_REST_RAD, _AT_REST_RAD_S * duration):
        return Row("at rest", "no-go", text, "stop whatever moves the arm")
    return Row("at rest", "go", text)


def _joint(robot: RobotConfig, position: NDArray[np.float64], i: int) -> str:
    return f"{robot.joint_names[i]} at {position[i]:.4f} rad"


def _shown(lists: Iterable[tuple[str, ...]]) -> str:
    return " | ".join(", ".join(names[:8]) for names in sorted(lists)[:3])
