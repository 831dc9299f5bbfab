"""What a CPU does with large tensors: it takes them through in blocks that stay in its cache, and draws by numpy.

Small tensors and those of an accelerator go the same way in one block, with torch's draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16
"""Entries per thread that go through all operations at a time: in the cache they take less time."""

LARGE = 1 << 17
"""From so many entries on draws and logarithms are numpy's, which pays for the seeding of a stream many times over.

Below, where the layers of the committed boards are, torch's stay, and with them the bits of those records.
"""


def is_large(tensor: Tensor) -> bool:
    """Return whether `tensor` is one that this module does something special for."""
    ready = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()
    return ready and tensor.numel() >= LARGE


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching parts of tensors of one shape, vectors that stay in a CPU's cache; elsewhere, all at once."""
    if tensors[0].device.type != "cpu" or not all(tensor.is_contiguous() for tensor in tensors):
        yield tensors
        return
    size = BLOCK * torch.get_num_threads()
    yield from zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)


class Source(Protocol):
    """Where draws and logarithms come from."""

    def uniform(self, like: Tensor) -> Tensor:
        """Return the next draws from [0, 1), of the shape of `like`: the same stream however it is cut."""

    def log_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its logarithm, and return it."""


def source(generator: torch.Generator, drawn_for: Tensor) -> Source:
    """Return what draws for a tensor and its parts; it is keyed by `generator`."""
    return _Numpys(generator) if is_large(drawn_for) else _Torchs(generator)


class _Torchs:
    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, like: Tensor) -> Tensor:
        return torch.empty_like(like).uniform_(generator=self._generator)

    def log_(self, tensor: Tensor) -> Tensor:
        return tensor.log_()


class _Numpys:
    """One draw takes some 1.4 ns where torch's takes 2.2, a logarithm .25 where torch's takes .8."""

    def __init__(self, generator: torch.Generator) -> None:
        seed = torch.randint(2**63 - 1, (), generator=generator)
        self._stream = np.random.Generator(np.random.SFC64(int(seed)))
        self._draws = torch.empty(0)

    def uniform(self, like: Tensor) -> Tensor:
        if self._draws.numel() < like.numel():
            self._draws = torch.empty(like.numel())
        draws = self._draws[: like.numel()].view_as(like)
        self._stream.random(dtype=np.float32, out=draws.numpy())
        return draws

    def log_(self, tensor: Tensor) -> Tensor:
        np.log(tensor.numpy(), out=tensor.numpy())
        return tensor


def between(values: Tensor, most: float) -> Tensor | None:
    """Return the flat indices of what is strictly between 0 and 1; None where that is a share of `most` or more.

    Args:
        values: contiguous, on a CPU.
        most: in (0, 1].
    """
    flat = values.view(-1).numpy()
    found, count = [], 0
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        inside = np.flatnonzero((block > 0) & (block < 1))
        count += len(inside)
        if count >= most * len(flat):
            return None
        found.append(inside + start)
    return torch.from_numpy(np.concatenate(found))
