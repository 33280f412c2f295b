# SPDX-License-Identifier: Apache-2.0
"""Functions compiled as one graph each."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import torch

from smfp_core.compiled import compiled

pytestmark = [
    pytest.mark.skipif(not (which("g++") or which("clang++")), reason="needs a C++ compiler"),
    pytest.mark.filterwarnings("error:compile"),  # the announcement that it goes on uncompiled
]


def test_other_shapes_strides_and_switches_get_graphs_of_their_own():
    def function(state, pair, doubled):
        product = state["a"] @ pair[0] + pair[1]
        state["b"].copy_(product.sum(0))
        return {"product": product * 2 if doubled else product, "rows": (product.sum(1),)}

    fast = compiled(function)
    generator = torch.Generator().manual_seed(0)
    for rows, transposed, doubled in [(3, False, False), (5, False, False), (3, True, True)]:
        a = torch.randn(rows, 4, generator=generator)
        state = {"a": a.t().contiguous().t() if transposed else a, "b": torch.zeros(2)}
        other = {name: value.clone() for name, value in state.items()}
        pair = torch.randn(4, 2, generator=generator), torch.ones(2)
        got, expected = fast(state, pair, doubled), function(other, pair, doubled)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(state, other)


def test_names_in_another_order_are_another_graph():
    fast = compiled(lambda values: values["a"] - values["b"])
    a, b = torch.ones(3), torch.zeros(3)
    assert (fast({"a": a, "b": b}) == 1).all()
    assert (fast({"b": b, "a": a}) == 1).all()


def test_a_tensor_that_is_not_given_is_refused_and_not_kept_as_it_was():
    hidden = torch.ones(3)
    with pytest.raises(AssertionError, match="FakeTensor"):
        compiled(lambda x: x + hidden)(torch.zeros(3))


def test_a_compiler_that_was_killed_costs_no_later_run_its_speed(tmp_path: Path):
    code = (
        "import warnings, torch\n"
        "from smfp_core.compiled import compiled\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "step = compiled(lambda x: torch.tanh(x) * 2 + 1)\n"
        "print(step(torch.zeros(64)).sum().item())"
    )

    def run() -> str:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        return done.stdout or done.stderr

    assert run() == "64.0\n"
    libraries = list(tmp_path.rglob("*.main.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    assert run() == "64.0\n"
    assert all(library.stat().st_size for library in libraries)
