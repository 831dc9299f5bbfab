"""Tensors to rank, for the tests of `pruneboard.scores`."""

from __future__ import annotations

import torch
from hypothesis import settings

FEW = settings(deadline=None, max_examples=60)


def random_tensors(*shapes, seed=0) -> list[torch.Tensor]:
    """Return normal tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]
