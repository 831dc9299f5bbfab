"""The most memory that a run used."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

from pruneboard import allocation


def forget_peak_memory(device: torch.device) -> None:
    """Let the peak start from what is in use now: a process may carry out one run after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    allocation.give_back()
    with suppress(OSError):  # elsewhere than on Linux the peak stays that of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device | str) -> int:
    """Return the most memory used since it was last forgotten: allocated on a GPU, or resident of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Of these pages alone: a process starts with the peak of the one that started it as its `ru_maxrss`.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
