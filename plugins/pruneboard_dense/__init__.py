"""The dense control: the same training without pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pruneboard.api import Gate, Pruner, Track, Traits


@final
class IdentityGate(Gate):
    """A gate whose effective weight is the dense weight."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` itself."""
        return weight

    def kept(self, weight: Tensor) -> Tensor:
        """Return all positions, including those of weights that are exactly 0.0."""
        return torch.ones_like(weight, dtype=torch.bool)


@final
@dataclass(frozen=True, kw_only=True)
class Dense(Pruner[IdentityGate]):
    """Dense training: the reference for every drop in accuracy. It accepts no sparsity but 0."""

    sparsity: float = 0.0

    def __post_init__(self) -> None:
        """Check the sparsity.

        Raises:
            ValueError: the sparsity is not 0.
        """
        super().__post_init__()
        if self.sparsity:
            raise ValueError(f"the dense control prunes nothing: leave --sparsity out; found {self.sparsity}")

    def traits(self, track: Track) -> Traits:
        """Declare the dense control."""
        del track
        return Traits(control="dense")

    def gate(self, weight: Tensor) -> IdentityGate:
        """Return the identity gate."""
        del weight
        return IdentityGate()
