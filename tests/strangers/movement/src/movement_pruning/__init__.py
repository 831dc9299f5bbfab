"""Movement pruning (arXiv:2005.07683) for pruneboard: a distribution of its own, with a gate of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from movement_pruning.gate import MovementGate
from pruneboard.api import GateOptimizer, Layer, Progress, Pruner, Track, Traits, Validate
from pruneboard.scores import budget, cubic, still_kept, top_k

__all__ = ["Movement", "MovementGate"]


@final
@dataclass(frozen=True, kw_only=True)
class Movement(Pruner[MovementGate]):
    """Keep the weights that training moves away from 0: the highest of a score that sums -dL/d(w * m) * w.

    The score learns by Adam; the number of kept weights falls along the cubic of Zhu and Gupta from `begin` on, and
    is exactly the budget at `end`. A pruned weight gets no gradient from the loss, its score does, so it may return
    until `end`.

    Deviations from Sanh et al., 2020: the highest scores of the whole network are kept, not of each matrix; times are
    fractions of the budget.

    Attributes:
        lr: peak learning rate of the scores.
        begin: fraction of the search at which pruning begins.
        end: fraction of the step budget at which the masks are final.
    """

    lr: float = 0.01
    begin: float = 0.1
    end: float = 0.75

    def __post_init__(self) -> None:
        """Reject invalid options."""
        super().__post_init__()
        if self.lr <= 0 or not 0 <= self.begin < 1 or not 0 < self.end <= 1:
            raise ValueError(
                f"lr is above 0, begin in [0, 1) and end in (0, 1]; found {self.lr}, {self.begin}, {self.end}"
            )

    def traits(self, track: Track) -> Traits:
        """Declare where the masks are final."""
        del track
        return Traits(harden_at=self.end)

    def gate(self, weight: Tensor) -> MovementGate:
        """Return a gate that keeps everything."""
        return MovementGate(weight, learn=self.sparsity > 0)

    def gate_optimizer(self, steps: int) -> GateOptimizer:
        """Return Adam without weight decay."""
        del steps
        return GateOptimizer(rule="adam", lr=self.lr)

    def before_step(self, layers: Sequence[Layer[MovementGate]], at: Progress) -> None:
        """Keep as many of the highest scores as the schedule says."""
        n = sum(layer.dense.numel() for layer in layers)
        kept = still_kept(budget(layers), n, cubic(at.fraction, self.begin, 1.0, 1.0, 0.0))
        masks = top_k([layer.gate.score for layer in layers], kept)
        for layer, mask in zip(layers, masks, strict=True):
            layer.gate.keep.copy_(mask)

    def harden(self, layers: Sequence[Layer[MovementGate]], at: Progress, validate: Validate) -> None:
        """Fix the masks of the last scores."""
        del validate
        self.before_step(layers, at)
