"""What becomes of memory that is freed: whether the C library keeps it, and when it goes back to the system."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_LARGEST = (1 << 30, 1 << 25)
"""Bytes from which on a block is a mapping of its own, the best that is taken; before glibc 2.35 the second is."""

_ASKED_BY_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


def keep_freed() -> None:
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


def give_back() -> None:
    """Return to the system what is freed and kept, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
