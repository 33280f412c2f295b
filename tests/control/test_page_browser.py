# SPDX-License-Identifier: Apache-2.0
"""The live page as a person uses it: a real browser, a real mouse, the real nodes."""

from __future__ import annotations

import math
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
from bench import Bench
from crafted import towards_goal, write_policy

from smfp_control.isolation import Child
from smfp_control.page.scene import CAMERA_FOV_RAD, CAMERA_LOOK_AT, CAMERA_POSITION
from smfp_sim.arm import ArmModel, Kinematics

playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[dev]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
]

WIDTH, HEIGHT = 860, 500
# A browser that draws without a GPU, beside other work.
PATIENCE_MS = 120_000


def pixel(point: np.ndarray) -> tuple[float, float]:
    """Where the page's first camera sees ``point`` [3] (m): a pinhole that looks along z."""
    eye = np.array(CAMERA_POSITION)
    forward = np.array(CAMERA_LOOK_AT) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    offset = point - eye
    scale = HEIGHT / 2 / math.tan(CAMERA_FOV_RAD / 2) / (offset @ forward)
    up = np.cross(right, forward)
    return WIDTH / 2 + scale * (offset @ right), HEIGHT / 2 - scale * (offset @ up)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    # It draws without a GPU, which takes all the cores there are; the nodes come first.
    gentle = tmp_path / "gentle"
    gentle.write_text(f'#!/bin/sh\nexec nice -n 5 {CHROMIUM} "$@"\n')
    gentle.chmod(0o755)
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(
            executable_path=gentle,
            # Without a GPU, and as root in a container.
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield browser
        browser.close()


def start_page(bench: Bench) -> tuple[Child, str]:
    """The page as a process on the bench's domain, and its address."""
    child = Child("smfp_control.view", (), {"ROS_DOMAIN_ID": str(bench.domain_id)})
    bench.children.append(child)
    bench.until(lambda: re.search(r"http://\S+", child.output()), "the page's address")
    return child, re.findall(r"http://\S+", child.output())[0]


class Person:
    """Looks at the page and uses the mouse."""

    def __init__(self, bench: Bench, browser: Any, address: str) -> None:
        self._bench = bench
        self.page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        self.page.set_default_timeout(PATIENCE_MS)
        self._address = address
        self.opens()

    def opens(self) -> None:
        """Load the page, perhaps again; the camera is where it is at first."""
        self.page.goto(self._address)
        self.sees("E-STOP")
        self.sees(re.compile("state"))

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def clicks(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def drags(self, handle: np.ndarray, way: np.ndarray, done: Callable[[], Any]) -> None:
        """Pull the handle's arrow of an axis by ``way`` along that axis, [3] m each.

        Who misses the arrow, because the picture was not up to date, turns the camera instead;
        they begin anew.
        """
        for attempt in range(3):
            if attempt:
                self.opens()
            self._pulls(handle, way)
            end = time.monotonic() + 10.0
            while time.monotonic() < end:
                self._bench.spin(0.1)
                if done():
                    return
        raise AssertionError(f"dragged in vain; status {self._bench.status}")

    def _pulls(self, handle: np.ndarray, way: np.ndarray) -> None:
        # There are no arrows against the axes.
        grip = handle + 0.15 * np.abs(way) / np.linalg.norm(way)
        mouse = self.page.mouse
        mouse.move(*pixel(grip))
        # The arrow under the mouse is found when a picture is drawn, and those are slow here.
        self.page.wait_for_timeout(1000)
        mouse.down()
        self.page.wait_for_timeout(500)
        for share in np.linspace(0.1, 1.0, 10):
            mouse.move(*pixel(grip + share * way))
            self.page.wait_for_timeout(50)
        self.page.wait_for_timeout(500)
        mouse.up()

    def picture(self) -> np.ndarray:
        """What is left of the panel and below the notices."""
        area = {"x": 0, "y": 190, "width": 510, "height": HEIGHT - 190}
        return imageio.imread(self.page.screenshot(clip=area), extension=".png").astype(float)


def goal_of(bench: Bench) -> np.ndarray:
    bench.until(lambda: bench.status["goal_m"], "a goal")
    return np.array(bench.status["goal_m"].split(), float)


def test_a_person_drags_the_goal_and_the_arm_goes_there_until_they_stop_it(
    bench: Bench, browser: Any, tmp_path: Path
) -> None:
    # Slow, so that a person is in time to stop it.
    policy = write_policy(tmp_path / "slow.onnx", bench.robot, towards_goal(bench.robot, 0.3))
    tool = Kinematics(ArmModel(bench.robot)).tool_position(bench.robot.home_rad)
    up, outwards = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    bench.start("sim_node")
    bench.start_policy_node(policy, autostart=True)
    child, address = start_page(bench)
    person = Person(bench, browser, address)
    person.sees(re.compile("hold, active"))
    person.sees(re.compile("no emergency"))
    bench.until_state("hold")
    assert bench.status["goal_m"] == "", "opening the page sent a goal"
    before = person.picture()

    person.drags(tool, 0.07 * up, lambda: bench.status["goal_m"])
    goal = goal_of(bench)
    assert goal == pytest.approx(tool + 0.07 * up, abs=0.02)
    bench.until(lambda: bench.goal_error_m(goal) < 0.02, "the arm at the goal")
    assert np.abs(person.picture() - before).max() > 50, "the page does not show that it moved"

    unreachable = person.page.get_by_text(re.compile("not a goal: goal out of reach"))
    person.drags(goal, 0.6 * outwards, lambda: unreachable.first.is_visible())
    bench.spin(0.5)
    assert goal_of(bench) == pytest.approx(goal, abs=1e-3), "an unreachable goal was sent"

    person.drags(goal, -0.15 * up, lambda: goal_of(bench)[2] < goal[2] - 0.08)
    lower = goal_of(bench)
    person.clicks("Pause")
    bench.until(lambda: not bench.status["goal_m"], "the goal given up")
    person.clicks("Go on")
    assert goal_of(bench) == pytest.approx(lower, abs=1e-5)
    person.clicks("E-STOP")
    bench.until_state("estop")
    person.sees(re.compile("FAULT estop"))
    # The reference stands still then, and the servos settle on it.
    bench.spin(0.5)
    rest = bench.joint_position()
    bench.send_goal(goal)
    bench.spin(1.0)
    assert bench.joint_position() == pytest.approx(rest, abs=1e-3)
    assert bench.goal_error_m(lower) > 0.02, "the arm had arrived before it was stopped"

    person.clicks("Release e-stop")
    person.clicks("Reset fault")
    bench.until_state("hold")
    assert bench.status["goal_m"] == "", "a reset set the arm in motion"

    # An open tab does not hold it up.
    child.signal(signal.SIGINT)
    started = time.monotonic()
    assert bench.until_exit(child) == 0
    # Two seconds are promised; a machine that runs other tests gets a little more.
    assert time.monotonic() - started < 4.0
