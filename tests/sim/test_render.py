# SPDX-License-Identifier: Apache-2.0
"""Pictures of the arm. They need OpenGL; without it the renderer's own error says how to get it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import smfp_sim.tasks  # noqa: F401 - registers the tasks
from smfp_core.robot import load_robot
from smfp_sim.arm import ArmModel
from smfp_sim.render import RenderingUnavailable, SceneRenderer


@pytest.fixture(scope="module")
def renderer() -> Iterator[SceneRenderer]:
    try:
        scene = SceneRenderer(ArmModel(load_robot("ur5e")), width=320, height=240)
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    yield scene
    scene.close()


def goal_pixels(picture: np.ndarray) -> int:
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return int(np.sum((green > 1.5 * red) & (green > 1.5 * blue) & (green > 60)))


def test_the_goal_shows_where_it_is_and_only_then(renderer: SceneRenderer) -> None:
    home = load_robot("ur5e").home_rad
    assert goal_pixels(renderer.frame(home)) == 0
    high = renderer.frame(home, goal=np.array([0.5, -0.4, 0.7]))
    low = renderer.frame(home, goal=np.array([0.5, -0.4, 0.1]))
    assert goal_pixels(high) > 20
    # Rows count from the top.
    assert _row(high) < _row(low)


def test_a_goal_with_an_orientation_shows_its_axes(renderer: SceneRenderer) -> None:
    home, place = load_robot("ur5e").home_rad, [0.5, -0.4, 0.7]
    plain = renderer.frame(home, goal=np.array(place))
    one = renderer.frame(home, goal=np.array([*place, 0.0, 0.0, 0.0, 1.0]))
    other = renderer.frame(home, goal=np.array([*place, 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)]))
    for a, b in ((plain, one), (plain, other), (one, other)):
        assert np.sum(np.any(a != b, axis=-1)) > 20


def _row(picture: np.ndarray) -> float:
    red, green = picture[..., 0].astype(int), picture[..., 1].astype(int)
    return float(np.argwhere(green > 1.5 * red)[:, 0].mean())


def test_the_picture_changes_with_the_pose(renderer: SceneRenderer) -> None:
    home = load_robot("ur5e").home_rad
    one, two = renderer.frame(home), renderer.frame(home + 0.5)
    assert one.shape == (240, 320, 3)
    assert np.mean(np.any(one != two, axis=-1)) > 0.02
    np.testing.assert_array_equal(one, renderer.frame(home))


def test_the_task_renders_through_gymnasium(renderer: SceneRenderer) -> None:
    env = gymnasium.make("smfp_sim:smfp/Reach-v0", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8 and picture.shape == (480, 640, 3)
    env.close()


def test_the_command_writes_an_image(renderer: SceneRenderer, tmp_path: Path) -> None:
    image = tmp_path / "arm.png"
    command = [sys.executable, "-m", "smfp_sim.render", str(image), "--goal", "0.4", "0", "0.4"]
    subprocess.run(command, check=True)
    assert image.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("{folder}/b.png", "--size", "0", "0"), "--size: must be at least 1 1"),
        (("{folder}/arm.xyz",), "error: "),
        (("{folder}/arm",), "output: needs the ending"),
    ],
    ids=["size", "suffix", "no suffix"],
)
def test_a_picture_that_cannot_be_written_leaves_nothing(
    renderer: SceneRenderer, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    command = [sys.executable, "-m", "smfp_sim.render", *given]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert text.format(folder=tmp_path) in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_opengl_the_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(RenderingUnavailable, match="apt-get install libegl1"):
        SceneRenderer(ArmModel(load_robot("ur5e")))
