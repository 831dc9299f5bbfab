"""Memory of a process: what glibc does with freed memory, and the peak that a run reached.

Imports torch only when a peak is asked for: the command line imports this module before torch.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_LARGEST = (1 << 30, 1 << 25)
"""Bytes from which on a block is a mapping of its own, the best that is taken; before glibc 2.35 the second is."""

_ASKED_BY_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


def keep_freed_memory() -> None:
    """Let this process use again what it has freed.

    glibc gives large blocks back to the system at once, and gets them anew in the next step, zeroed page by page: where
    weights outweigh activations that is up to a third of a step on a CPU. For processes whose work is training, and not
    for a program that imports pruneboard. Nothing happens where the C library is another one, or where the
    environment says already how it allocates.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _ASKED_BY_USER):
        return
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return to the system what is freed and kept, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak start from what is in use now: a process may carry out one run after another."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    release_freed_memory()
    with suppress(OSError):  # elsewhere than on Linux the peak stays that of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device | str) -> int:
    """Return the most memory used since it was last forgotten: allocated on a GPU, or resident of this process."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Of these pages alone: a process starts with the peak of the one that started it as its `ru_maxrss`.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
