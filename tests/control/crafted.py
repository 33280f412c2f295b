# SPDX-License-Identifier: Apache-2.0
"""Policy files made by hand, whose behaviour is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from smfp_core.policy_file import (
    SCHEMA,
    GoldenVectors,
    PolicyMetadata,
    RobotBinding,
    TrainingRecord,
)
from smfp_core.robot import RobotConfig
from smfp_core.specs import ActionSpec, ControlAssumptions, ObservationField, ObservationSpec


def observation_of(robot: RobotConfig) -> ObservationSpec:
    """What a crafted policy sees."""
    n = len(robot.joints)
    return ObservationSpec(
        (
            ObservationField("joint_position", n, "rad"),
            ObservationField("joint_velocity", n, "rad/s"),
            ObservationField("goal_offset", 3, "m", robot.base_frame),
        )
    )


def linear_graph(weight: np.ndarray, noise_gain: float, spoilt: bool = False) -> onnx.ModelProto:
    """clip(observation @ weight + noise_gain * noise, -1, 1); ``spoilt``: NaN unless that is 0."""

    def tensor(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size])

    constants = {"weight": weight, "gain": noise_gain, "low": -1.0, "high": 1.0}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "weight"], ["linear"]),
            helper.make_node("Mul", ["noise", "gain"], ["shaken"]),
            helper.make_node("Add", ["linear", "shaken"], ["sum"]),
            *(
                [
                    helper.make_node("Mul", ["sum", "sum"], ["square"]),
                    helper.make_node("Neg", ["square"], ["negative"]),
                    helper.make_node("Sqrt", ["negative"], ["root"]),
                ]
                if spoilt
                else [helper.make_node("Identity", ["sum"], ["root"])]
            ),
            helper.make_node("Max", ["root", "low"], ["bounded"]),
            helper.make_node("Min", ["bounded", "high"], ["action"]),
        ],
        "linear",
        [tensor("observation", weight.shape[0]), tensor("noise", weight.shape[1])],
        [tensor("action", weight.shape[1])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def write_policy(
    path: Path,
    robot: RobotConfig,
    weight: np.ndarray,
    *,
    noise_gain: float = 0.0,
    spoilt: bool = False,
    action: ActionSpec | None = None,
    robot_name: str | None = None,
    control: ControlAssumptions | None = None,
    observation: ObservationSpec | None = None,
) -> Path:
    """Seal a linear policy [n_obs, n_act] for ``robot`` as a file."""
    # torch comes with this import, and is wanted only where files are written.
    from smfp_core.export import write_policy_file

    n_obs, n_act = weight.shape
    metadata = PolicyMetadata(
        schema=SCHEMA,
        observation=observation or observation_of(robot),
        action=action or robot.action_spec(),
        robot=RobotBinding(robot_name or robot.name, robot.mjcf_sha256, robot.tool_site),
        control=control or ControlAssumptions(0.0, "none"),
        deterministic_noise=(0.0,) * n_act,
        training=TrainingRecord("crafted", 0, 0, "unknown", {}),
        # All zeros in, all zeros out: every linear policy passes its own check.
        golden=GoldenVectors(((0.0,) * n_obs,), ((0.0,) * n_act,), ((0.0,) * n_act,)),
        sha256="",
    )
    write_policy_file(path, linear_graph(weight, noise_gain, spoilt), metadata)
    return path


def towards_goal(robot: RobotConfig, gain_per_s: float = 3.0) -> np.ndarray:
    """Weights of a resolved-rate controller, exact at home and good within 0.2 m about it."""
    from smfp_sim.arm import ArmModel, Kinematics

    jacobian = Kinematics(ArmModel(robot)).tool_jacobian(robot.home_rad)
    weight = np.zeros((observation_of(robot).size, len(robot.joints)), np.float32)
    weight[-3:] = (gain_per_s * np.linalg.pinv(jacobian)).T / robot.policy.velocity_rad_s
    return weight


def write_pose_policy(path: Path, robot: RobotConfig) -> Path:
    """A policy that follows ``goal_step``, which is inverse kinematics, one step at a time."""
    # gymnasium comes with this import.
    from smfp_sim.tasks.reach_pose import ReachPoseEnv

    n, spec = len(robot.joints), ReachPoseEnv.describe(robot)
    assert spec.fields[-1].name == "goal_step"
    weight = np.zeros((spec.size, n), np.float32)
    weight[-n:] = np.eye(n)
    return write_policy(path, robot, weight, observation=spec)
