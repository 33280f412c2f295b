# SPDX-License-Identifier: Apache-2.0
"""How a process that trains is set up."""

from __future__ import annotations

import ctypes
import sys

import torch

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_ABOVE_BYTES = 32 * 1024**2
_TRIM_ABOVE_BYTES = 1024**3


def set_up_training_process() -> None:
    """One numeric thread, and freed memory kept for the next update; call it once, at the start.

    Small networks: a second thread gains little, and its spinning stalls when anything else runs.
    One thread also makes sums, and so runs, repeatable to the bit.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: AVX512-BF16, AMX, or BF16 of Arm."""
    # Torch before 2.11 does not tell.
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _keep_freed_memory() -> None:
    """Have malloc hand freed blocks out again rather than return them to the system.

    An update allocates and frees megabytes. Returned each time, they come back page fault by page
    fault: system time that an update of a few milliseconds feels. Blocks as large as a replay
    buffer are returned as before. Does nothing where the C library is not GNU's.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_ABOVE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_ABOVE_BYTES)
