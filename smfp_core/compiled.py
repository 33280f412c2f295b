# SPDX-License-Identifier: Apache-2.0
"""Functions of tensors compiled as one graph each, and what happens where that is not possible."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled as one graph; as it is, and announced, where that is not possible.

    Args:
        function: of tensors, of dictionaries and tuples of them, and of switches; it may write to
            the tensors that it is given. It is called once for each combination of their shapes
            and switches, to see what it does: tensors that it is not given are refused, whatever
            else it reads is taken as it is then.
    """
    if not (shutil.which("g++") or shutil.which("clang++")):
        _announce_eager("no C++ compiler (g++ or clang++) is installed")
        return function
    graphs: dict[Any, Callable[[list[Tensor]], Any]] = {}
    works = True

    def call(*arguments: Any) -> Any:
        nonlocal works
        if not works:
            return function(*arguments)
        tensors: list[Tensor] = []
        switches = _take_apart(arguments, tensors)
        # The graph itself checks nothing of what it is given.
        key = (*switches, *((t.shape, t.stride(), t.dtype, t.device) for t in tensors))
        if key not in graphs:
            try:
                graphs[key] = _graph(function, arguments)
            except _CompilerError as error:
                works = False
                _announce_eager(f"compilation failed ({error})")
                return function(*arguments)
        return graphs[key](tensors)

    return call


class _CompilerError(RuntimeError):
    """What the compiler said, on one line."""


def _take_apart(argument: Any, tensors: list[Tensor]) -> list[Any]:
    """Append the tensors in ``argument`` to a list, in pytree's order; what else is in it.

    pytree itself takes five times as long, in every call.
    """
    if isinstance(argument, Tensor):
        tensors.append(argument)
        return []
    others: list[Any] = []
    if isinstance(argument, dict):
        others += argument  # its names, in their order
        argument = tuple(argument.values())
    if isinstance(argument, tuple):
        return others + [other for part in argument for other in _take_apart(part, tensors)]
    return [argument]


def _graph(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Callable[[list[Tensor]], Any]:
    """What ``function`` does with such arguments, compiled, as a function of their tensors.

    Traced by calling it and not by reading its code (torch.compile): the result then depends on
    tensors alone, where torch.compile would look in every call whether one of hundreds of names,
    sizes and switches of networks and configuration has changed, for a twentieth of an update.

    Raises:
        _CompilerError: it cannot be compiled here.
    """
    leaves, structure = pytree.tree_flatten(arguments)
    tensors: list[Any] = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    returned: pytree.TreeSpec

    def flat(*given: Tensor) -> list[Tensor]:
        nonlocal returned
        following = iter(given)
        filled = [next(following) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        results, returned = pytree.tree_flatten(function(*pytree.tree_unflatten(filled, structure)))
        return results

    traced = make_fx(flat, tracing_mode="fake")(*tensors)
    # A wrapper in C++ around the kernels costs a tenth of an update less than one in Python.
    options = {"cpp_wrapper": all(t.device.type == "cpu" for t in tensors)}
    dropped: set[Path] = set()
    while True:
        try:
            run = torch._inductor.compile(traced, tensors, options=options)
        except Exception as error:
            # Once: where libraries cannot be loaded at all, the next one cannot, either.
            broken = _broken_library(str(error))
            if broken is None or broken in dropped:
                raise _CompilerError(" ".join(str(error).split())[:300]) from error
            dropped.add(broken)
            broken.unlink(missing_ok=True)  # another process may have been here first
        else:
            return lambda given: pytree.tree_unflatten(run(*given), returned)


def _broken_library(error: str) -> Path | None:
    """The library of torch's cache at which compilation failed, if that is what the text says.

    A compiler that was killed leaves half of one, which torch takes for whole in every later run.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = re.search(r"(/\S+\.so): ", error)
    path = Path(found[1]) if found else None
    return path if path and Path(cache_dir()) in path.parents else None


def _announce_eager(reason: str) -> None:
    warnings.warn(f"compile: {reason}; training goes on uncompiled, at a lower rate", stacklevel=2)
