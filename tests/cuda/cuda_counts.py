"""What a simulated GPU counts: host synchronizations, operations, kernels, and allocated memory."""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator

import torch

SOURCES = ("/pruneboard", "/deepspeed/", "/timm/")
"""Parts of the paths of source files that are named as the cause of a synchronization."""

FRAMES = 3
"""How many of the innermost stack frames in these files are named."""

BLOCK = 512
"""torch's caching allocator rounds each allocation up to this many bytes."""


class Counts:
    """Counts by stage; the caller names the stage with `at`.

    Attributes:
        stage: the current stage.
        synchronizations: (stage, kind, source lines) -> how often the host waited for the device.
        operations: (stage, operation) -> how often it was called on the device.
        kernels: stage -> estimated number of kernels.
    """

    def __init__(self) -> None:
        """Start at zero, in the stage `other`."""
        self.stage = "other"
        self.clear()

    def clear(self) -> None:
        """Set all counts to zero."""
        self.synchronizations: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.operations: collections.Counter[tuple[str, str]] = collections.Counter()
        self.kernels: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count under `stage` during the block."""
        before, self.stage = self.stage, stage
        try:
            yield
        finally:
            self.stage = before

    def kinds(self, stage: str | None = None) -> collections.Counter[str]:
        """Return kind -> number of synchronizations, in one stage or in all."""
        found: collections.Counter[str] = collections.Counter()
        for (where, kind, _), count in self.synchronizations.items():
            if stage in (None, where):
                found[kind] += count
        return found


_active: list[Counts] = []


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Yield the counts of what happens during the block."""
    counts = Counts()
    _active.append(counts)
    try:
        yield counts
    finally:
        _active.remove(counts)


def synchronization(kind: str) -> None:
    """Count that the host waits for the device."""
    for counts in _active:
        counts.synchronizations[counts.stage, kind, source_lines()] += 1


def operation(name: str, kernels: int) -> None:
    """Count an operation on the device."""
    for counts in _active:
        counts.operations[counts.stage, name] += 1
        counts.kernels[counts.stage] += kernels


def source_lines() -> str:
    """Return the innermost lines of pruneboard, DeepSpeed and timm on the stack, innermost first."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < FRAMES:
        path = frame.f_code.co_filename
        if any(part in path for part in SOURCES) and "/tests/" not in path:
            found.append(f"{path.rpartition('/site-packages/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


class Memory:
    """The bytes of the storages that tensors on the device use.

    Attributes:
        used: bytes now.
        peak: largest `used` since `reset_peak`.
    """

    def __init__(self) -> None:
        """Start with no storage."""
        self.used = self.peak = 0
        self._users: collections.Counter[int] = collections.Counter()
        self._bytes: dict[int, int] = {}

    def reset_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak = self.used

    def add(self, values: torch.Tensor) -> int:
        """Count one more tensor on the storage of `values`; return the address, for `remove`."""
        storage = values.untyped_storage()
        address = storage.data_ptr()
        if address and not self._users[address]:
            self._bytes[address] = -(-storage.nbytes() // BLOCK) * BLOCK
            self.used += self._bytes[address]
            self.peak = max(self.peak, self.used)
        self._users[address] += 1
        return address

    def remove(self, address: int) -> None:
        """Count one tensor less on the storage at `address`."""
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            self.used -= self._bytes.pop(address, 0)


MEMORY = Memory()
"""Shared by all simulations of this process, because a tensor may outlive the one that made it."""


class Allocation:
    """Keeps a storage counted in `MEMORY` as long as this object lives."""

    __slots__ = ("_address",)

    def __init__(self, values: torch.Tensor) -> None:
        """Count the storage of `values`."""
        self._address = MEMORY.add(values)

    def __del__(self) -> None:
        """Stop counting it."""
        MEMORY.remove(self._address)
