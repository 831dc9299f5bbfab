"""Memory of a process: how glibc returns freed memory to the system, the peak memory of a run, and its exhaustion.

torch is imported only where it is used, because the command line imports this module before torch.
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

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h
_MMAP_SIZES = (1 << 30, 1 << 25)
"""Bytes from which a block gets its own mapping: the first value that glibc accepts; before 2.35 that is the second."""

_USER_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


_ALLOCATION_FAILED = re.compile(
    r"CU[A-Z]+_STATUS_ALLOC_FAILED|CUDA error: out of memory|DefaultCPUAllocator: can't allocate memory"
)
"""Errors that torch does not raise as `torch.OutOfMemoryError`: of cuBLAS, cuDNN and others, the driver, and a CPU."""


def keep_freed_memory() -> None:
    """Make malloc keep freed blocks for later allocations of this process.

    By default glibc returns large blocks to the system at once. The next step then gets new pages, which the system
    must zero first. On a CPU, where weights outweigh activations, this costs up to a third of a step. Only processes
    that train call this, not every program that imports pruneboard. It does nothing if the C library is not glibc or if
    the environment sets how malloc works.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _USER_SETTINGS):
        return
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_SIZES):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return memory that was freed but kept to the system, if the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that the host or the device has no memory left."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _ALLOCATION_FAILED.search(str(error)) is not None


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak from the memory in use now, because a process may carry out several runs."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    release_freed_memory()
    with suppress(OSError):  # only on Linux; elsewhere the peak remains that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device | str) -> int:
    """Return the peak since `reset_peak_memory`, in bytes: allocated on a GPU, or resident in this process."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Not `ru_maxrss`, which starts at the peak of the process that started this one.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
