# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yaml

from smfp_core.resources import share_path
from smfp_core.robot import Obstacle, RobotConfigError, load_robot, mjcf_sha256
from smfp_core.strict import ConfigError

SHIPPED = share_path("config/robots/ur5e.yaml")


def changed(tmp_path: Path, change: dict[str, Any]) -> Path:
    """The shipped YAML with dotted fields replaced (or removed, by None), and a stand-in MJCF."""
    data = yaml.safe_load(SHIPPED.read_text())
    data["mjcf"] = "arm.xml"
    (tmp_path / "arm.xml").write_text("<mujoco/>")
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        node = data
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_shipped_robot_loads_by_name_and_by_path():
    robot = load_robot("ur5e")
    assert robot == load_robot(SHIPPED)
    assert robot.mjcf.is_file()
    assert len(robot.joint_names) == 6
    np.testing.assert_allclose(robot.limits.position_max[2], np.pi - robot.position_margin_rad)


def test_an_empty_part_of_a_connection_is_as_described():
    robot = load_robot("ur5e")
    topics = robot.topics
    described = robot.connection()
    assert described.command_interface == robot.command_interface == "forward_position"
    assert described.joint_states_topic == topics.joint_states
    assert described.command_topic == topics.forward_position
    # The topic is that of the interface in use, not that of the description's.
    assert robot.connection("forward_velocity").command_topic == topics.forward_velocity
    given = robot.connection("joint_trajectory", "arm/joint_states", "arm/trajectory")
    assert dataclasses.astuple(given) == ("joint_trajectory", "arm/joint_states", "arm/trajectory")


def test_a_description_without_surroundings_loads(tmp_path: Path):
    robot = load_robot(changed(tmp_path, {"surroundings": None}))
    assert robot.surroundings.obstacles == () and robot.surroundings.workspace is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"joints.0.velocity_rad_s": None}, r"joints\[0\].velocity_rad_s: missing"),
        ({"joints.1.velocity_rad_s": -1.0}, r"joints\[1\]: velocity_rad_s: must be positive"),
        ({"joints.2.position_rad": [1.0, -1.0]}, r"joints\[2\]: position_rad"),
        ({"joints.2.home_rad": 9.0}, r"joints\[2\]: home_rad"),
        ({"joints.3.start_rad": [-9.0, 0.0]}, r"joints\[3\]: start_rad"),
        ({"joints.1.name": "shoulder_pan_joint"}, "joints: must be non-empty, with unique names"),
        ({"command_interface": "torque"}, "command_interface: must be one of"),
        ({"control_rate_hz": 0}, "control_rate_hz: must be positive"),
        ({"policy.velocity_rad_s": 9.0}, "policy.velocity_rad_s: exceeds"),
        ({"goals.radius_m": [1.0, 0.5]}, "goals: radius_m"),
        ({"position_margin_rad": 4.0}, "position_margin_rad: must lie in"),
        ({"schema": 3}, "schema: 3 is unknown"),
        ({"speed": 1}, "speed: unknown key"),
        ({"mjcf": "none.xml"}, "mjcf: no such file"),
        (
            {"surroundings.workspace": {"min_m": [0, 0, 0], "max_m": [1, 0, 1]}},
            "surroundings.workspace: max_m",
        ),
        (
            {"surroundings.obstacles": [{"name": "post", "center_m": [0, 0, 0]}]},
            r"surroundings.obstacles\[0\]: size_m: give either",
        ),
        (
            {"surroundings.obstacles": [{"name": "x", "center_m": [0, 0, 0], "radius_m": -1}]},
            r"surroundings.obstacles\[0\]: radius_m",
        ),
        (
            {"surroundings.obstacles": [{"name": "x", "center_m": [0, 0, 0], "radius_m": 1}] * 2},
            "surroundings: obstacles: names must be unique",
        ),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], text: str):
    with pytest.raises(RobotConfigError, match=text) as error:
        load_robot(changed(tmp_path, change))
    assert "robot.yaml" in str(error.value)


def test_a_description_may_say_only_what_differs_from_another(tmp_path: Path):
    changed(tmp_path, {})
    (tmp_path / "cells").mkdir()
    cell = tmp_path / "cells" / "cell.yaml"
    cell.write_text("extends: ../robot.yaml\nname: cell\ngoals: {height_m: [0.2, 0.4]}\n")
    robot, base = load_robot(cell), load_robot(tmp_path / "robot.yaml")
    assert robot.name == "cell" and robot.mjcf == base.mjcf
    goals = dataclasses.replace(base.goals, height_m=(0.2, 0.4))
    cell.write_text(cell.read_text().replace("../robot.yaml", "ur5e"))
    assert load_robot(cell) == dataclasses.replace(load_robot("ur5e"), name="cell", goals=goals)
    assert robot == dataclasses.replace(base, name="cell", goals=goals)


def test_an_error_in_the_file_that_is_extended_is_found_there(tmp_path: Path) -> None:
    text = share_path("config/robots/ur5e.yaml").read_text()
    (tmp_path / "base.yaml").write_text(text.replace("height_m: [", "height_m: [unknown, "))
    cell = tmp_path / "cell.yaml"
    cell.write_text("extends: base.yaml\nname: cell\ngoals: {axis_clearance_m: 0.2}\n")
    with pytest.raises(RobotConfigError, match=r"base\.yaml:\d+: goals.height_m: "):
        load_robot(cell)
    cell.write_text("extends: base.yaml\ngoals: {height_m: [0]}\n")
    with pytest.raises(RobotConfigError, match=r"cell\.yaml:2: goals.height_m: "):
        load_robot(cell)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("extends: nowhere.yaml", r"nowhere\.yaml: cannot be read"),
        ("extends: ur99", "robot 'ur99': not a shipped robot"),
        ("extends: [robot.yaml]", "extends: must be a robot's name or the path"),
        ("extends: twice.yaml", r"extends: twice\.yaml extends another robot itself"),
        ("extends: robot.yaml\ngoals: {hight_m: [0, 1]}", r"cell\.yaml:2: goals.hight_m: unknown"),
        ("extends: robot.yaml\nmjcf: none.xml", r"cell\.yaml: mjcf: no such file"),
    ],
)
def test_a_wrong_extension_is_named(tmp_path: Path, text: str, error: str):
    changed(tmp_path, {})
    (tmp_path / "twice.yaml").write_text("extends: robot.yaml")
    (tmp_path / "cell.yaml").write_text(text)
    with pytest.raises(RobotConfigError, match=error):
        load_robot(tmp_path / "cell.yaml")


def test_distance_from_an_obstacle_is_that_to_its_surface():
    box = Obstacle("box", (1.0, 0.0, 0.0), size_m=(0.4, 0.2, 0.2), yaw_rad=np.pi / 2)
    assert box.distance_m(np.array([1.0, 0.19, 0.05])) == 0.0
    assert box.distance_m(np.array([1.0, 0.5, 0.0])) == pytest.approx(0.3)
    assert box.distance_m(np.array([1.4, 0.6, 0.0])) == pytest.approx(0.5)
    ball = Obstacle("ball", (0.0, 0.0, 1.0), radius_m=0.5)
    assert ball.distance_m(np.array([0.0, 0.0, 0.6])) == 0.0
    assert ball.distance_m(np.array([0.0, 0.0, 2.0])) == pytest.approx(0.5)


def test_goals_keep_away_from_obstacles():
    robot, rng = load_robot("ur5e_post"), np.random.default_rng(0)
    (post,) = robot.surroundings.obstacles
    clearance_m = robot.goals.obstacle_clearance_m
    goals = [robot.sample_goal(rng) for _ in range(300)]
    assert min(post.distance_m(goal) for goal in goals) >= clearance_m > 0.0
    beside = np.array([0.5, 0.06 + clearance_m / 2, 0.3])
    assert "from the obstacle 'post'" in str(robot.goal_refusal(beside))


def test_missing_or_malformed_file_is_named(tmp_path: Path):
    with pytest.raises(RobotConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_robot(tmp_path / "nowhere.yaml")
    with pytest.raises(RobotConfigError, match="robot 'ur99': not a shipped robot"):
        load_robot("ur99")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RobotConfigError, match="not valid YAML"):
        load_robot(tmp_path / "bad.yaml")


@pytest.mark.parametrize("include", ['file="part.xml"', "file = 'part.xml'"])
def test_model_digest_covers_included_files(tmp_path: Path, include: str):
    (tmp_path / "part.xml").write_text("<mujocoinclude/>")
    commented = '<!-- <include file="gone.xml"/>\n -->'
    (tmp_path / "arm.xml").write_text(f"<mujoco>{commented}<include {include}/></mujoco>")
    before = mjcf_sha256(tmp_path / "arm.xml")
    (tmp_path / "part.xml").write_text("<mujocoinclude> </mujocoinclude>")
    assert mjcf_sha256(tmp_path / "arm.xml") != before
    (tmp_path / "part.xml").unlink()
    with pytest.raises(RobotConfigError, match=r"mjcf: .*part\.xml cannot be read"):
        mjcf_sha256(tmp_path / "arm.xml")


def test_model_digest_follows_nested_includes_as_mujoco_does(tmp_path: Path):
    folder = tmp_path / "sub"
    folder.mkdir()
    inner = "<mujocoinclude><body name='{}'><geom size='1'/></body></mujocoinclude>"
    (tmp_path / "arm.xml").write_text(
        "<mujoco><worldbody><include file='sub/b.xml'/></worldbody></mujoco>"
    )
    (folder / "b.xml").write_text("<mujocoinclude><include file='c.xml'/></mujocoinclude>")
    digests = []
    # Beside who includes it, until there is one beside the whole model, which goes first.
    for place, name in ((folder, "one"), (folder, "two"), (tmp_path, "three"), (folder, "four")):
        (place / "c.xml").write_text(inner.format(name))
        model = mujoco.MjModel.from_xml_path(str(tmp_path / "arm.xml"))
        digests.append((model.body(1).name, mjcf_sha256(tmp_path / "arm.xml")))
    assert [name for name, _ in digests] == ["one", "two", "three", "three"]
    assert len(set(digests)) == 3
    (folder / "b.xml").write_text("<mujocoinclude><include file='sub/d.xml'/></mujocoinclude>")
    (folder / "d.xml").write_text(inner.format("five"))
    assert mjcf_sha256(tmp_path / "arm.xml") not in dict(digests).values()


def test_goals_are_drawn_where_they_are_accepted():
    shell = load_robot("ur5e").goals
    rng = np.random.default_rng(0)
    goals = np.array([shell.sample(rng) for _ in range(500)])
    assert all(shell.refusal(goal) is None for goal in goals)
    radius = np.linalg.norm(goals - shell.center_m, axis=1)
    assert radius.min() >= shell.radius_m[0]
    assert radius.max() <= shell.radius_m[1]
    # Uniform in volume: in front and at both sides.
    assert (goals[:, 1] > 0.2).mean() > 0.2
    assert (goals[:, 1] < -0.2).mean() > 0.2


def test_a_description_that_leaves_no_goal_is_named_and_not_searched_for_ever():
    robot = load_robot("ur5e")
    shell = dataclasses.replace(robot.goals, axis_clearance_m=2.0)
    with pytest.raises(ConfigError, match=r"goals: .* axis_clearance_m"):
        shell.sample(np.random.default_rng(0))
    filled = dataclasses.replace(
        robot.surroundings, obstacles=(Obstacle("all", (0.0, 0.0, 0.0), radius_m=3.0),)
    )
    with pytest.raises(ConfigError, match=r"goals: .*inside the obstacle 'all'"):
        dataclasses.replace(robot, surroundings=filled).sample_goal(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        ([2.0, 0.0, 0.3], "distance from the shoulder"),
        ([0.5, 0.0, -0.2], "height"),
        ([-0.6, 0.01, 0.3], "azimuth"),
        ([0.1, 0.0, 0.6], "base axis"),
        ([np.nan, 0.0, 0.3], "not finite"),
    ],
)
def test_goal_out_of_reach_is_refused_with_the_reason(goal: list[float], text: str):
    assert text in (load_robot("ur5e").goals.refusal(np.array(goal)) or "")


@pytest.mark.parametrize("azimuth", [2.0, 3.7, -2.6, 4.2])
def test_goals_behind_the_base_are_within_a_range_that_goes_beyond_pi(azimuth: float) -> None:
    shell = dataclasses.replace(load_robot("ur5e").goals, azimuth_rad=(2.0, 4.2))

    def refusal(angle: float) -> str | None:
        x, y, z = shell.center_m
        flat = np.mean(shell.radius_m)
        height = np.mean(shell.height_m)
        flat = math.sqrt(flat**2 - (height - z) ** 2)
        return shell.refusal(
            np.array([x + flat * math.cos(angle), y + flat * math.sin(angle), height])
        )

    assert refusal(azimuth) is None
    assert "azimuth 4.300 rad not in [2.0, 4.2]" in (refusal(4.3) or "")
    assert "azimuth" in (refusal(0.0) or "") and "azimuth" in (refusal(1.9) or "")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"control_rate_hz": 125.0}, "policy.period_s: must be a whole number of control periods"),
        ({"control_rate_hz": 30.0}, "policy.period_s"),
    ],
)
def test_a_policy_period_that_no_control_period_fits_is_refused(
    change: dict[str, float], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(load_robot("ur5e"), **change)


@pytest.mark.parametrize("topic", ["bad-topic", "a//b", "/1x", "joint states", "a/"])
def test_names_that_are_no_topics_are_refused_by_their_field(topic: str) -> None:
    robot = load_robot("ur5e")
    with pytest.raises(ConfigError, match=r"^joint_states_topic: '.*' is no name of a topic"):
        robot.connection(joint_states_topic=topic)
    with pytest.raises(ConfigError, match=r"^forward_position: "):
        dataclasses.replace(robot.topics, forward_position=topic)
    assert robot.connection("", "/left/joint_states", "~/c_2").command_topic == "~/c_2"
