"""The dense control: the same training, and nothing pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pruneboard.api import Gate, Pruner, Track, Traits


@final
class Open(Gate):
    """A gate that changes nothing."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` itself."""
        return weight

    def kept(self, weight: Tensor) -> Tensor:
        """Return all positions, a weight that happens to be 0.0 included."""
        return torch.ones_like(weight, dtype=torch.bool)


@final
@dataclass(frozen=True, kw_only=True)
class Dense(Pruner[Open]):
    """No pruning: the reference every drop in accuracy is measured against. It takes no sparsity."""

    sparsity: float = 0.0

    def __post_init__(self) -> None:
        """Refuse any sparsity but 0."""
        super().__post_init__()
        if self.sparsity:
            raise ValueError(f"the dense control prunes nothing: leave --sparsity out; found {self.sparsity}")

    def traits(self, track: Track) -> Traits:
        """Declare the control."""
        del track
        return Traits(control="dense")

    def gate(self, weight: Tensor) -> Open:
        """Return the open gate."""
        del weight
        return Open()
