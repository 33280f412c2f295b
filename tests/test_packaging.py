# SPDX-License-Identifier: Apache-2.0
"""What pip and colcon make of the repository: every module and file arrives and can be imported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "smfp_core": "smfp_core",
    "smfp_sim": "sim",
    "smfp_control": "ros2_ws/src/smfp_control",
}
DATA = ("config", "launch", "sim/robots")
EXECUTABLES = {"policy_node", "sim_node", "sim_demo", "preflight", "view", "markers_node"}
SUPPORTED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# Run elsewhere than in the repository, so that nothing is found through the working folder.
IMPORTS = """
import json, smfp_core, smfp_sim, smfp_control, smfp_core.agents, smfp_sim.arm
from smfp_core.resources import share_path
files = [m.__file__ for m in (smfp_core, smfp_sim, smfp_control)]
print(json.dumps([files, str(share_path("config/robots/ur5e.yaml")),
                  str(share_path("sim/robots/ur5e/ur5e.xml"))]))
"""


def python_files() -> list[Path]:
    """Modules of the three packages, as paths below the repository's root."""
    return [
        path.relative_to(ROOT)
        for folder in FOLDERS.values()
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def data_files() -> list[Path]:
    """Files that a run needs and that are not modules."""
    return [
        path.relative_to(ROOT)
        for folder in DATA
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def import_name(path: Path) -> str:
    """``sim/tasks/reach.py`` -> ``smfp_sim/tasks/reach.py``."""
    for name, folder in FOLDERS.items():
        if path.is_relative_to(folder):
            return (name / path.relative_to(folder)).as_posix()
    raise AssertionError(f"{path} is in none of the packages")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository's sources, so that builds leave nothing in the real one."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("smfp_core", "sim", "ros2_ws", "config", "launch", "resource"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without traces of other workspaces."""
    names = ("PYTHONPATH", "AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH")
    return {k: v for k, v in os.environ.items() if k not in names} | extra


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_wheel_holds_every_module_and_data_file(checkout: Path, tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", tmp_path, "."),
        cwd=checkout,
    )
    (wheel,) = tmp_path.glob("smfp_control-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    modules = {import_name(path) for path in python_files()}
    assert modules <= names
    assert {f"{name}/py.typed" for name in FOLDERS} <= names
    (data_root,) = {name.split("/")[0] for name in names if ".data/" in name}
    share = f"{data_root}/data/share"
    assert {f"{share}/smfp_control/{path.as_posix()}" for path in data_files()} <= names
    assert f"{share}/smfp_control/package.xml" in names
    assert f"{share}/ament_index/resource_index/packages/smfp_control" in names


@pytest.mark.parametrize("mode", [[], ["--symlink-install"]], ids=["copied", "linked"])
def test_colcon_build_is_importable_and_has_executables(
    checkout: Path, tmp_path: Path, mode: list[str]
) -> None:
    colcon = shutil.which("colcon", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert colcon is not None, "colcon is missing: pip install -e '.[dev]'"
    assert "(ros.ament_python)" in run(colcon, "list", cwd=checkout)
    run(colcon, "build", *mode, cwd=checkout)

    prefix = checkout / "install" / "smfp_control"
    scripts = prefix / "lib" / "smfp_control"
    assert {path.name for path in scripts.iterdir()} == EXECUTABLES
    assert all(os.access(path, os.X_OK) for path in scripts.iterdir())
    for path in data_files():
        assert (prefix / "share" / "smfp_control" / path).is_file(), path

    script = f". {checkout}/install/setup.bash && exec {sys.executable} -c '{IMPORTS}'"
    output = json.loads(run("bash", "-c", script, cwd=tmp_path))
    modules, robot, model = output
    assert all(Path(module).is_relative_to(checkout) for module in modules)
    assert Path(robot).is_relative_to(checkout)
    assert Path(model).is_relative_to(checkout)


def test_installed_console_scripts_name_callables() -> None:
    scripts = metadata.distribution("smfp_control").entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == EXECUTABLES
    assert all(callable(script.load()) for script in scripts)


def test_package_manifest_agrees_with_the_python_metadata() -> None:
    manifest = parse_package(str(ROOT / "package.xml"))
    manifest.validate()
    distribution = metadata.metadata("smfp_control")
    assert manifest.get_build_type() == "ament_python"
    assert (manifest.name, manifest.version) == (distribution["Name"], distribution["Version"])
    assert manifest.licenses == ["Apache-2.0"]


def pins() -> dict[str, list[Requirement]]:
    """Lines of constraints.txt by normalised name."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(normalised(requirement.name), []).append(requirement)
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_every_requirement_has_one_fitting_pin(python: str) -> None:
    environment = dict(default_environment())
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    constraints = pins()
    wrong = []
    for text in metadata.requires("smfp_control") or []:
        requirement = Requirement(text)
        extras = ("", "ros", "view", "train", "dev", "peers", "cluster")
        marker = requirement.marker
        if marker and not any(marker.evaluate(environment | {"extra": e}) for e in extras):
            continue
        fitting = [
            pin
            for pin in constraints.get(normalised(requirement.name), [])
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        versions = [specifier for pin in fitting for specifier in pin.specifier]
        if (
            len(versions) != 1
            or versions[0].operator != "=="
            or not requirement.specifier.contains(versions[0].version, prereleases=True)
        ):
            wrong.append(f"{text}: pinned as {[str(pin) for pin in fitting]}")
    assert not wrong


def test_constraints_leave_the_build_of_torch_open() -> None:
    (pin,) = pins()["torch"]
    assert re.fullmatch(r"==\d+\.\d+\.\d+", str(pin.specifier))


def test_every_source_file_states_its_licence() -> None:
    header = "# SPDX-License-Identifier: Apache-2.0"
    folders = [*FOLDERS.values(), "launch", "tests", "benchmarks", "config"]
    missing = []
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml"} and header not in path.read_text()[:200]:
                missing.append(str(path.relative_to(ROOT)))
    assert not missing
