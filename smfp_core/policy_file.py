# SPDX-License-Identifier: Apache-2.0
"""The policy file: one ONNX model that carries its own specification.

Graph: ``observation`` [B, n_obs] and ``noise`` [B, n_act], float32, to ``action`` [B, n_act] in
[-1, 1]. The JSON under ``metadata_props["smfp"]`` says what each number means. It holds a
SHA-256 over every byte of the file with the digest's own 64 characters set to zero, so weights
and metadata cannot part. Reading and running one needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from smfp_core.digest import sha256
from smfp_core.robot import RobotConfig
from smfp_core.specs import (
    SCALAR_FIELDS,
    SPATIAL_FIELDS,
    ActionSpec,
    ControlAssumptions,
    Float32,
    ObservationSpec,
)
from smfp_core.strict import ConfigError, from_mapping

SCHEMA = 1
METADATA_KEY = "smfp"
GOLDEN_TOLERANCE = 1e-5
_DIGEST = re.compile(rb'"sha256": "([0-9a-f]{64})"')


class PolicyFileError(ValueError):
    """A policy file was refused. ``field`` names what is wrong with it."""

    def __init__(self, path: str | Path, field: str, reason: str) -> None:
        super().__init__(f"policy file {path}: {field}: {reason}")
        self.field = field


@dataclass(frozen=True)
class RobotBinding:
    """The arm that a policy was trained for."""

    name: str
    mjcf_sha256: str
    tool_site: str = ""
    """Site of the model that goals and errors are of; empty in files that were made before it was
    recorded, of which it cannot be checked."""


@dataclass(frozen=True)
class TrainingRecord:
    """Where the weights come from."""

    env_id: str
    env_steps: int
    seed: int
    git_revision: str
    config: dict[str, Any]


@dataclass(frozen=True)
class GoldenVectors:
    """Inputs and the outputs that training saw for them: rows of float32 values."""

    observation: tuple[tuple[float, ...], ...]
    noise: tuple[tuple[float, ...], ...]
    action: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class PolicyMetadata:
    """The JSON of a policy file, schema 1.

    ``deterministic_noise`` [n_act] is the noise of the deterministic mode: between the modes of
    a multimodal policy zero noise may be no good action, so the exporter chooses a good one.
    """

    schema: int
    observation: ObservationSpec
    action: ActionSpec
    robot: RobotBinding
    control: ControlAssumptions
    deterministic_noise: tuple[float, ...]
    training: TrainingRecord
    golden: GoldenVectors
    sha256: str


def digest(data: bytes) -> str:
    """SHA-256 of a policy file's bytes with its recorded digest set to zeros."""
    return sha256(_DIGEST.sub(b'"sha256": "' + b"0" * 64 + b'"', data, count=1)).hexdigest()


def seal(data: bytes) -> bytes:
    """Write the digest into the bytes of a model whose metadata has 64 zeros in its place."""
    return _DIGEST.sub(b'"sha256": "' + digest(data).encode() + b'"', data, count=1)


class PolicyFile:
    """A loaded policy: specification and a one-step sampler.

    Not thread safe: ``sample`` writes into buffers of its own. One thread owns an instance.
    """

    def __init__(
        self,
        path: Path,
        metadata: PolicyMetadata,
        session: onnxruntime.InferenceSession,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.observation = metadata.observation
        self.action = metadata.action
        self.deterministic_noise: Float32 = np.array(metadata.deterministic_noise, np.float32)
        self._session = session
        self._observation = np.zeros((1, self.observation.size), np.float32)
        self._noise = np.zeros((1, self.action.size), np.float32)
        self._action = np.zeros((1, self.action.size), np.float32)
        # Binding the buffers once spares the copies and allocations of session.run.
        self._binding = session.io_binding()
        for name, array in (("observation", self._observation), ("noise", self._noise)):
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._binding.bind_output(
            "action", "cpu", 0, np.float32, self._action.shape, self._action.ctypes.data
        )

    @property
    def robot_name(self) -> str:
        """Name of the robot the policy was trained for."""
        return self.metadata.robot.name

    @property
    def sha256(self) -> str:
        """Digest that identifies the file."""
        return self.metadata.sha256

    @classmethod
    def load(cls, path: str | Path, robot: RobotConfig | None = None) -> PolicyFile:
        """Read, verify and warm up a policy file.

        Args:
            path: the file.
            robot: the arm that is to be moved; the policy must have been trained for it.

        Raises:
            PolicyFileError: names the field that is wrong: unreadable or truncated file, digest,
                unknown schema, missing or unknown key, shapes, golden vectors that are off by
                more than 1e-5, another robot, model, joint order or period.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PolicyFileError(path, "file", f"cannot be read ({error.strerror})") from error
        _check_digest(path, data)
        session = _open_session(path, data)
        metadata = _read_metadata(path, session)
        _check_consistency(path, metadata, session)
        policy = cls(path, metadata, session)
        policy._check_golden_vectors()
        if robot is not None:
            _check_robot(path, metadata, robot)
        return policy

    def sample(self, observation: NDArray[np.floating], noise: NDArray[np.floating]) -> Float32:
        """Draw one action with one network evaluation.

        Args:
            observation: [n_obs], as ``build_observation`` makes it.
            noise: [n_act], standard normal draws, or ``deterministic_noise``.

        Returns:
            float32 [n_act] in [-1, 1]: a view that the next call overwrites.
        """
        self._observation[0] = observation
        self._noise[0] = noise
        self._session.run_with_iobinding(self._binding)
        return self._action[0]

    def sample_batch(self, observation: Float32, noise: Float32) -> Float32:
        """Actions [B, n_act] for float32 observations [B, n_obs] and noise [B, n_act]."""
        (action,) = self._session.run(["action"], {"observation": observation, "noise": noise})
        return action

    def _check_golden_vectors(self) -> None:
        golden = self.metadata.golden
        inputs = zip(golden.observation, golden.noise, golden.action, strict=True)
        for i, (observation, noise, expected) in enumerate(inputs):
            action = self.sample(np.asarray(observation), np.asarray(noise))
            error = float(np.max(np.abs(action - np.asarray(expected, np.float32))))
            if not error <= GOLDEN_TOLERANCE:
                raise PolicyFileError(
                    self.path,
                    f"golden[{i}]",
                    f"this computer's output is off by {error:.3g}, more than {GOLDEN_TOLERANCE}",
                )


def _check_digest(path: Path, data: bytes) -> None:
    found = _DIGEST.findall(data)
    if len(found) != 1:
        raise PolicyFileError(
            path,
            "sha256",
            "no digest found: the file is truncated or is no policy file",
        )
    if digest(data) != found[0].decode():
        raise PolicyFileError(
            path,
            "sha256",
            "digest does not match: the file was damaged or changed; export anew",
        )


def _open_session(path: Path, data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One thread: a small network gains nothing from more, and spinning workers would take the
    # cores that the control loop's deadlines need.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise PolicyFileError(path, "graph", f"onnxruntime refuses it ({error})") from error


def _read_metadata(path: Path, session: onnxruntime.InferenceSession) -> PolicyMetadata:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise PolicyFileError(path, f"metadata_props['{METADATA_KEY}']", "missing")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PolicyFileError(path, "metadata", f"not valid JSON ({error})") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise PolicyFileError(
            path,
            "schema",
            f"{schema!r} is unknown; this version reads {SCHEMA}: export anew",
        )
    try:
        return from_mapping(PolicyMetadata, data)
    except ConfigError as error:
        field, _, reason = str(error).partition(": ")
        raise PolicyFileError(path, field, reason) from error


def _check_consistency(
    path: Path, metadata: PolicyMetadata, session: onnxruntime.InferenceSession
) -> None:
    n_obs, n_act = metadata.observation.size, metadata.action.size
    inputs = {item.name: item.shape[1:] for item in session.get_inputs()}
    outputs = {item.name: item.shape[1:] for item in session.get_outputs()}
    if inputs != {"observation": [n_obs], "noise": [n_act]}:
        raise PolicyFileError(
            path,
            "graph.inputs",
            f"expected observation [B, {n_obs}] and noise [B, {n_act}] as the specification says, "
            f"got {inputs}",
        )
    if outputs != {"action": [n_act]}:
        raise PolicyFileError(path, "graph.outputs", f"expected action [B, {n_act}], got {outputs}")
    if len(metadata.deterministic_noise) != n_act:
        raise PolicyFileError(path, "deterministic_noise", f"expected {n_act} values")
    golden = metadata.golden
    if not golden.observation:
        raise PolicyFileError(path, "golden.observation", "at least one row is needed")
    for name, size in (("observation", n_obs), ("noise", n_act), ("action", n_act)):
        rows = getattr(golden, name)
        if len(rows) != len(golden.observation) or any(len(row) != size for row in rows):
            raise PolicyFileError(
                path,
                f"golden.{name}",
                f"expected {len(golden.observation)} rows of {size} values",
            )
    for item in metadata.observation.fields:
        wanted = 3 if item.name in SPATIAL_FIELDS else 1 if item.name in SCALAR_FIELDS else n_act
        if item.size != wanted:
            raise PolicyFileError(
                path,
                f"observation.{item.name}",
                f"expected size {wanted}, got {item.size}",
            )


def _check_robot(path: Path, metadata: PolicyMetadata, robot: RobotConfig) -> None:
    if metadata.robot.name != robot.name:
        raise PolicyFileError(
            path,
            "robot.name",
            f"trained for '{metadata.robot.name}', this is '{robot.name}'",
        )
    if metadata.robot.mjcf_sha256 != robot.mjcf_sha256:
        raise PolicyFileError(
            path,
            "robot.mjcf_sha256",
            f"trained on another version of the model of '{robot.name}'; train and export anew",
        )
    if metadata.robot.tool_site not in ("", robot.tool_site):
        raise PolicyFileError(
            path,
            "robot.tool_site",
            f"trained to move '{metadata.robot.tool_site}', the robot's tool_site is "
            f"'{robot.tool_site}'",
        )
    for item in metadata.observation.fields:
        if item.frame not in ("", robot.base_frame):
            raise PolicyFileError(
                path,
                f"observation.{item.name}",
                f"trained in the frame '{item.frame}', the robot's base_frame is "
                f"'{robot.base_frame}'",
            )
    if metadata.action.joint_names != robot.joint_names:
        raise PolicyFileError(
            path,
            "action.joint_names",
            f"{list(metadata.action.joint_names)} is not the robot's order "
            f"{list(robot.joint_names)}",
        )
    control_period_s = 1.0 / robot.control_rate_hz
    if abs(metadata.action.control_period_s - control_period_s) > 1e-9:
        raise PolicyFileError(
            path,
            "action.control_period_s",
            f"trained at {metadata.action.control_period_s:g} s, the robot runs at "
            f"{control_period_s:g} s",
        )
    if abs(metadata.action.policy_period_s - robot.policy.period_s) > 1e-9:
        raise PolicyFileError(
            path,
            "action.policy_period_s",
            f"trained at {metadata.action.policy_period_s:g} s, the robot's is "
            f"{robot.policy.period_s:g} s",
        )
    # Who lowers them for a robot expects it to become slower: the file's own would be used.
    for name, trained, here, unit in (
        ("scale_rad_s", metadata.action.scale_rad_s, robot.policy.velocity_rad_s, "rad/s"),
        (
            "acceleration_rad_s2",
            metadata.action.acceleration_rad_s2,
            robot.policy.acceleration_rad_s2,
            "rad/s^2",
        ),
    ):
        if any(abs(value - here) > 1e-9 for value in trained):
            raise PolicyFileError(
                path,
                f"action.{name}",
                f"trained with {max(trained):g} {unit}, the robot's policy has {here:g} {unit}; "
                "train for it, or slow the arm by tool_speed_limit_m_s",
            )
