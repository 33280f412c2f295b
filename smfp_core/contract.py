# SPDX-License-Identifier: Apache-2.0
"""What a task states about the robot that its policies drive, and that it has not changed since."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from smfp_core.atomic import write_atomically
from smfp_core.policy_file import PolicyFile, PolicyFileError
from smfp_core.specs import ActionSpec, ControlAssumptions, ObservationSpec
from smfp_core.strict import ConfigError, to_mapping

_FILE = "contract.json"


@dataclass(frozen=True)
class PolicyContract:
    """Meaning of observation and action, and the arm, as the policy file will state them.

    ``control`` is None for the ideal arm.
    """

    observation: ObservationSpec
    action: ActionSpec
    robot_name: str
    mjcf_sha256: str
    tool_site: str
    control: ControlAssumptions | None = None


def contract_of(env: gymnasium.Env) -> PolicyContract | None:
    """The contract of a robot task; None for any other environment."""
    task = env.unwrapped
    if not hasattr(task, "policy_contract"):
        return None
    control = task.control_assumptions() if hasattr(task, "control_assumptions") else None
    observation, action, robot = task.policy_contract()
    return PolicyContract(
        observation, action, robot.name, robot.mjcf_sha256, robot.tool_site, control
    )


def require_same_task(policy: PolicyFile, env: gymnasium.Env) -> None:
    """Make sure that ``env`` means by observation and action what the policy does, on its arm.

    Control assumptions are no part of it: a policy may well be judged on another plant.

    Raises:
        PolicyFileError: names what is different.
    """
    contract, stated = contract_of(env), policy.metadata
    if contract is None:
        raise PolicyFileError(policy.path, "training.env_id", "is not a task of a robot")
    pairs: list[tuple[str, Any, Any]] = [
        ("robot.name", stated.robot.name, contract.robot_name),
        ("robot.mjcf_sha256", stated.robot.mjcf_sha256, contract.mjcf_sha256),
        # A file made before the site was recorded does not say it.
        ("robot.tool_site", stated.robot.tool_site or contract.tool_site, contract.tool_site),
        ("observation", _told(stated.observation), _told(contract.observation)),
    ]
    for field in dataclasses.fields(ActionSpec):
        name = field.name
        pairs.append(
            (f"action.{name}", getattr(stated.action, name), getattr(contract.action, name))
        )
    for name, trained, here in pairs:
        if trained != here:
            raise PolicyFileError(
                policy.path,
                name,
                f"trained with {trained}, the task now has {here}: train and export anew, or go "
                "back to the robot's files of then",
            )


def _told(observation: ObservationSpec) -> str:
    return ", ".join(f"{f.name} [{f.size}] {f.unit} {f.frame}".strip() for f in observation.fields)


def forget_contract(folder: Path) -> None:
    """Drop what is left of a run that was killed before it could be kept: it begins anew."""
    (folder / _FILE).unlink(missing_ok=True)


def keep_contract(folder: Path, env: gymnasium.Env) -> None:
    """Write the contract into the folder of a new run; compare it with that of an old one.

    Raises:
        ConfigError: the robot, its model or its plant is not what the run was trained with.
    """
    contract, path = contract_of(env), folder / _FILE
    if contract is None:
        return
    text = json.dumps(to_mapping(contract), indent=1)
    if not path.exists():
        write_atomically(path, text)
        return
    now = json.loads(text)
    # Runs that were begun before the site was recorded do not say it.
    before = {"tool_site": now["tool_site"]} | json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"{path}: {', '.join(changed)} changed since this run was trained; "
            "train anew, or go back to the robot files of the run"
        )
