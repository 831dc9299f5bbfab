"""One-shot magnitude pruning: train densely, keep the largest weights, fine-tune."""

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
    """Keep the k weights of largest magnitude, once, at a given fraction of the step budget.

        m = top-k of score(w),    score = |w|  (global, uniform, ERK)  or  LAMP(w)

    A pruned weight never returns. The weights keep following the recipe's schedule after pruning: the rest of the
    budget is the fine-tuning.

    Source: Han et al., arXiv:1506.02626; ERK: arXiv:1911.11134; LAMP: arXiv:2010.07611. Written from the formulas.

    Deviations:
        * Training is neither restarted nor lengthened. The literature usually fine-tunes for additional epochs at a
          learning rate of their own; here every method has the same budget.

    Attributes:
        prune_at: fraction of the step budget after which the mask is set, in [0, 1]. At 0 the initial weights are
            ranked ("magnitude at initialization"), which under `global` empties whole layers at high sparsities.
        allocation: how the budget is shared among layers: `global` (the largest of the whole network), `uniform`
            (every layer keeps the same share), `erk` (Erdos-Renyi-Kernel) or `lamp` (layer-adaptive scores).
    """

    prune_at: float = 0.5
    allocation: Literal["global", "uniform", "erk", "lamp"] = "global"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: `prune_at` is outside [0, 1].
        """
        super().__post_init__()
        if not 0 <= self.prune_at <= 1:
            raise ValueError(f"prune_at must be a fraction of the step budget in [0, 1]; found {self.prune_at}")

    def traits(self, track: Track) -> Traits:
        """Declare the baseline control, unless it prunes at initialization; the mask is fixed when it is set."""
        del track
        return Traits(harden_at=self.prune_at, control="baseline" if self.prune_at else None)

    def before_step(self, layers: Sequence[Layer[Mask]], at: Progress) -> None:
        """Set the mask at the hardening step; until then everything is kept."""
        if at.step == at.harden_step:
            set_masks(layers, self.masks(layers))

    def masks(self, layers: Sequence[Layer[Mask]]) -> list[Tensor]:
        """Return masks that keep exactly the budget: bool tensors of the weights' shapes."""
        scores = importance([layer.dense for layer in layers], self.allocation)
        return select(layers, scores, self.allocation)
