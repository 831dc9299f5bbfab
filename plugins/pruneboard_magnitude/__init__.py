"""One-shot magnitude pruning: train dense, keep the largest weights once, fine-tune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from pruneboard.api import Layer, Mask, MaskPruner, Progress, Track, Traits
from pruneboard.scores import importance, select, set_masks


@final
@dataclass(frozen=True, kw_only=True)
class Magnitude(MaskPruner):
    """Keep the k weights of largest magnitude, once, at a declared fraction of the budget.

        m = top-k of score(w),    score = |w|  (global, uniform, ERK)  or  LAMP(w)

    A weight pruned once never comes back. The weights keep the recipe's schedule after pruning, so the
    remaining budget is the fine-tuning; training is neither restarted nor lengthened, where the literature
    usually adds epochs at a rate of its own (a named deviation: every method has the same budget).

    Attributes:
        prune_at: fraction of the step budget after which the mask is set, in [0, 1]. At 0 the initial weights
            are ranked ("magnitude at initialization"), which under `global` empties whole layers at high sparsities.
        allocation: `global` (largest of the whole network), `uniform` (every layer keeps the same share),
            `erk` (arXiv:1911.11134) or `lamp` (layer-adaptive scores, arXiv:2010.07611).
    """

    prune_at: float = 0.5
    allocation: Literal["global", "uniform", "erk", "lamp"] = "global"

    def __post_init__(self) -> None:
        """Refuse a fraction outside [0, 1]."""
        super().__post_init__()
        if not 0 <= self.prune_at <= 1:
            raise ValueError(f"prune_at is a fraction of the step budget, in [0, 1]; found {self.prune_at}")

    def traits(self, track: Track) -> Traits:
        """Declare the baseline control, hardened where it prunes; pruned at initialization it is no baseline."""
        del track
        return Traits(harden_at=self.prune_at, control="baseline" if self.prune_at else None)

    def before_step(self, layers: Sequence[Layer[Mask]], at: Progress) -> None:
        """At the hardening step, set the mask; before it, everything is kept."""
        if at.step == at.harden_step:
            set_masks(layers, self.masks(layers))

    def masks(self, layers: Sequence[Layer[Mask]]) -> list[Tensor]:
        """Return the masks that keep exactly the budget, bool tensors of the weights' shapes."""
        scores = importance([layer.dense for layer in layers], self.allocation)
        return select(layers, scores, self.allocation)
