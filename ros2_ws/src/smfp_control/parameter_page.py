# SPDX-License-Identifier: Apache-2.0
"""The reference page of all parameters, made from their descriptors.

python -m smfp_control.parameter_page > docs/parameters.md
"""

from __future__ import annotations

from smfp_control.parameters import PolicyNodeParameters, ReadAt, Row, SimNodeParameters, describe

COMMAND = "python -m smfp_control.parameter_page > docs/parameters.md"
_NODES = {"policy_node": PolicyNodeParameters, "sim_node": SimNodeParameters}
_CHANGEABLE: dict[ReadAt, str] = {
    "start": "no: read-only",
    "configure": "until configure",
    "change": "at any time",
}
_INTRODUCTION = f"""\
# Parameters

Made by `{COMMAND}`; a test fails while it is stale. Give
parameters with `--ros-args -p NAME:=VALUE`, in a file with `--ros-args --params-file FILE` (see
`config/control/`), or by the launch files' arguments; `--help` of either node lists them too.

A value of the wrong type or out of range is refused with the reason: when set, or, if it was given
at start, at configure. Those that may change *until configure* can be set while the node is
unconfigured, and are refused from configure to cleanup.
"""


def _bounds(row: Row) -> str:
    for bounds in row.descriptor.floating_point_range:
        return f"{bounds.from_value:g} to {bounds.to_value:g}"
    for bounds in row.descriptor.integer_range:
        return f"{bounds.from_value} to {bounds.to_value}"
    return ", ".join(f"`{choice!r}`" for choice in row.choices)


def _line(row: Row) -> str:
    cells = (
        f"`{row.name}`",
        row.type.name.lower(),
        f"`{str(row.default).lower() if isinstance(row.default, bool) else repr(row.default)}`",
        _bounds(row),
        row.unit,
        _CHANGEABLE[row.read_at],
        row.descriptor.description.removesuffix(f" [{row.unit}]"),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION.rstrip()]
    for node, cls in _NODES.items():
        parts += [
            f"\n## {node}\n",
            "| Name | Type | Default | Range | Unit | May change | Meaning |",
            "|---|---|---|---|---|---|---|",
            *map(_line, describe(cls)),
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
