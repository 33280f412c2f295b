# SPDX-License-Identifier: Apache-2.0
"""The policy node and what a policy's file says of the delay and filtering it was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import Bench
from crafted import towards_goal, write_policy

from smfp_core.robot import RobotConfig
from smfp_core.specs import ControlAssumptions

pytestmark = pytest.mark.process


def test_the_node_says_what_was_trained_and_warns_of_later_states(
    bench: Bench, robot: RobotConfig, tmp_path: Path
) -> None:
    # No state is as prompt as the promptest, so all are later than this training's.
    trained = ControlAssumptions(0.02, "velocity_low_pass", 0.0, 0.03)
    file = write_policy(tmp_path / "p.onnx", robot, towards_goal(robot), control=trained)
    bench.start("sim_node", randomization="realistic", seed=3)
    node = bench.start_policy_node(file, autostart=True)
    bench.until_state("hold")
    text = "trained with commands up to 20 ms and joint states up to 0 ms late, velocities behind"
    assert text in node.output()
    bench.until(lambda: "and the policy was trained with up to 0 ms" in node.output(), "a warning")


def test_a_file_that_says_nothing_is_not_held_to_it(
    bench: Bench, robot: RobotConfig, tmp_path: Path
) -> None:
    file = write_policy(tmp_path / "p.onnx", robot, towards_goal(robot))
    bench.start("sim_node", plant="realistic_delay")
    node = bench.start_policy_node(file, autostart=True)
    bench.until_state("hold")
    bench.spin(1.0)
    assert "trained with" not in node.output()
