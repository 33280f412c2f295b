# SPDX-License-Identifier: Apache-2.0
"""Where the shared files (config/, launch/, sim/robots/) lie, in a checkout or an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from smfp_core.strict import ConfigError

_PACKAGE = "smfp_control"


def share_path(relative: str = "") -> Path:
    """Locate a file of the project, for example ``config/robots/ur5e.yaml``.

    Looks in the checkout that holds this module, then in ``share/smfp_control`` of every prefix
    on ``AMENT_PREFIX_PATH`` and of the running Python: the installed tree mirrors the checkout.

    Raises:
        FileNotFoundError: no place holds it; the text lists those that were tried.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # resolve() follows the links of `colcon build --symlink-install` back to the checkout.
    roots = [Path(__file__).resolve().parents[1]]
    roots += [Path(prefix) / "share" / _PACKAGE for prefix in [*prefixes, sys.prefix]]
    for root in roots:
        # config/ marks a root, so that a site-packages folder is not taken for a checkout.
        if (root / "config").is_dir() and (root / relative).exists():
            return root / relative
    tried = ", ".join(str(root) for root in roots)
    raise FileNotFoundError(f"{relative!r} is in none of: {tried}")


def config_path(kind: str, folder: str, name_or_path: str | Path) -> Path:
    """The YAML of a shipped ``kind`` by its name in ``config/<folder>``, or any by its path.

    Raises:
        ConfigError: no shipped one has the name.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    try:
        return share_path(f"config/{folder}/{name_or_path}.yaml")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{kind} '{name_or_path}': not a shipped {kind} ({error}); "
            "give its name or the path of its .yaml"
        ) from error
