# SPDX-License-Identifier: Apache-2.0
"""A policy whose commands show at once which state they answer, for measuring latency.

    python benchmarks/loop_marker.py FOLDER

Writes FOLDER/marker.onnx, whose action for the last joint is proportional to the sign and size of
that joint's measured velocity, and FOLDER/robot.yaml, a UR5e that is sampled at every tick.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from smfp_core.export import write_policy_file
from smfp_core.policy_file import (
    SCHEMA,
    GoldenVectors,
    PolicyMetadata,
    RobotBinding,
    TrainingRecord,
)
from smfp_core.resources import share_path
from smfp_core.robot import load_robot
from smfp_core.specs import ControlAssumptions, ObservationField, ObservationSpec


def write_robot(path: Path) -> None:
    """The shipped UR5e with a policy period of one tick."""
    source = share_path("config/robots/ur5e.yaml")
    data = yaml.safe_load(source.read_text())
    data["mjcf"] = str((source.parent / data["mjcf"]).resolve())
    data["policy"]["period_s"] = 1.0 / data["control_rate_hz"]
    path.write_text(yaml.safe_dump(data))


def write_policy(path: Path, robot_path: Path) -> None:
    """clip(observation @ weight, -1, 1), where one weight is not zero."""
    robot = load_robot(robot_path)
    n = len(robot.joints)
    weight = np.zeros((n, n), np.float32)
    weight[-1, -1] = 1.0

    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", n])

    constants = {"weight": weight, "zero": 0.0, "low": -1.0, "high": 1.0}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "weight"], ["answer"]),
            helper.make_node("Mul", ["noise", "zero"], ["silence"]),
            helper.make_node("Add", ["answer", "silence"], ["sum"]),
            helper.make_node("Max", ["sum", "low"], ["bounded"]),
            helper.make_node("Min", ["bounded", "high"], ["action"]),
        ],
        "marker",
        [tensor("observation"), tensor("noise")],
        [tensor("action")],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    zeros = (0.0,) * n
    metadata = PolicyMetadata(
        schema=SCHEMA,
        observation=ObservationSpec((ObservationField("joint_velocity", n, "rad/s"),)),
        action=robot.action_spec(),
        robot=RobotBinding(robot.name, robot.mjcf_sha256, robot.tool_site),
        control=ControlAssumptions(0.0, "none"),
        deterministic_noise=zeros,
        training=TrainingRecord("marker", 0, 0, "unknown", {}),
        golden=GoldenVectors((zeros,), (zeros,), (zeros,)),
        sha256="",
    )
    write_policy_file(path, model, metadata)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_robot(folder / "robot.yaml")
    write_policy(folder / "marker.onnx", folder / "robot.yaml")


if __name__ == "__main__":
    main()
