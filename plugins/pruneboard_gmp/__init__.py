"""GMP: gradual magnitude pruning along a cubic sparsity schedule (arXiv:1710.01878, arXiv:1902.09574)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, final

from torch import Tensor

from pruneboard.api import Layer, Mask, MaskPruner, Progress, Track, Traits
from pruneboard.scores import budget, cubic, importance, select, set_masks

Layers = Sequence[Layer[Mask]]


@final
@dataclass(frozen=True, kw_only=True)
class GMP(MaskPruner):
    """Prune the smallest weights gradually while the network trains.

        s_t = s_f (1 - (1 - (t - t0) / (t1 - t0))^3),    t0 = begin, t1 = end,  s_f the layer's final sparsity

    The cubic prunes fast at first, when many weights are redundant, and slowly towards the end. Masks are updated at
    the steps t0, t0 + interval, t0 + 2 interval, ... and at t1, and stay the same between. An update keeps, of each
    layer's n weights, the k + floor((n - k) (1 - s_t / s_f)) of largest magnitude, where k = n (1 - s_f) is the
    layer's share of the budget. At t1 that is exactly k and the masks are final; the rest of the budget
    fine-tunes the weights. Under `global` and `lamp`, n, k and s_f are those of the whole network.

    Source: Zhu and Gupta, and tensorflow/tensorflow@0519f21 tensorflow/contrib/model_pruning/python/pruning.py
    (`_setup_sparsity`, `_update_mask`, `conditional_mask_update_op`). The defaults are the best cell of the grid that
    Gale et al. report for ResNet-50 at 90 %: t0 = 40k, t1 = 76k, every 2k of 128k steps
    (google-research/google-research state_of_sparsity/sparse_rn50/imagenet_train_eval.py). At other sparsities other
    cells are best (50 and 80 %: 40k to 100k; 95 %: 40k to 68k); all were selected on the ImageNet validation set.

    A pruned weight gets no loss gradient, because the mask multiplies it. Momentum and weight decay still change its
    stored value, as in the official code, whose regularizer and optimizer act on the unmasked variable. It can return
    until t1: every update ranks all stored values, and a pruned one may by then be larger than a kept one. With
    `keep_pruned` it never returns.

    Deviations:
        * Counts are exact, by ranking; ties go to the earlier position. The official threshold is read from a
          histogram of 255 bins and, unless `threshold_decay` is 0 as in Gale et al., smoothed over updates.
        * The last update is at t1 for every interval. The official code has none there if the interval does not
          divide t1 - t0, and stays below the target (12.5k to 36k every 2k: at .99974 of it); the GMP in
          RAIVNLab/STR@cc74d38 main.py:136-142 ends at .8999958 for .9.
        * Times are fractions of the budget. The learning rate, its schedule and the label smoothing are the
          recipe's, as for every method here.
        * `allocation` other than `uniform`, and `keep_pruned`, are additions. Under `keep_pruned` LAMP scores are
          computed from the remaining weights, as in LAMP's own iterated pruning.

    Attributes:
        begin: fraction of the whole step budget at which pruning begins.
        end: fraction of the whole step budget at which the target is reached and the masks are final.
        interval: fraction of the whole step budget between two updates; at least one step.
        allocation: how the budget is shared among layers: `uniform` (every layer has the same sparsity, as in the
            paper), `global` (the largest magnitudes of the whole network), `erk` (arXiv:1911.11134) or `lamp`
            (layer-adaptive scores, arXiv:2010.07611).
        keep_pruned: never let a pruned weight return.
    """

    begin: float = 0.3125
    end: float = 0.59375
    interval: float = 0.015625
    allocation: Literal["uniform", "global", "erk", "lamp"] = "uniform"
    keep_pruned: bool = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        super().__post_init__()
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                "begin and end must be fractions of the step budget with 0 <= begin < end <= 1; "
                f"found {self.begin}, {self.end}"
            )
        if not 0 < self.interval <= 1:
            raise ValueError(f"interval must be a fraction of the step budget in (0, 1]; found {self.interval}")

    def traits(self, track: Track) -> Traits:
        """Declare that the masks are final at `end`."""
        del track
        return Traits(harden_at=self.end)

    def before_step(self, layers: Layers, at: Progress) -> None:
        """Update the masks if this is an update step."""
        if self.is_update_step(at):
            set_masks(layers, self.masks(layers, at))

    def begin_step(self, at: Progress) -> int:
        """Return t0, the first step that updates masks, rounded as the harness rounds t1."""
        return round(self.begin * at.total)

    def is_update_step(self, at: Progress) -> bool:
        """Return whether the masks are updated before this step."""
        since = at.step - self.begin_step(at)
        every = max(1, round(self.interval * at.total))
        return at.step == at.harden_step or (since >= 0 and at.step < at.harden_step and since % every == 0)

    def surplus_share(self, at: Progress) -> Fraction:
        """Return 1 - s_t / s_f exactly: the share of the n - k surplus weights that the schedule still keeps."""
        begin, end = Fraction(self.begin_step(at)), Fraction(at.harden_step)
        return cubic(Fraction(at.step), begin, end, Fraction(1), Fraction(0))

    def masks(self, layers: Layers, at: Progress) -> list[Tensor]:
        """Return the masks of the schedule at this step: bool tensors of the weights' shapes."""
        return select(layers, self.scores(layers), self.allocation, self.surplus_share(at))

    def scores(self, layers: Layers) -> list[Tensor]:
        """Return the scores that rank the weights: 0 or more, and -1 for those that must not return."""
        if not self.keep_pruned:
            return importance([layer.dense for layer in layers], self.allocation)
        # Below 0, because a kept weight may be exactly 0.
        found = importance([layer.gate.folded(layer.dense) for layer in layers], self.allocation)
        return [score.masked_fill(layer.gate.keep == 0, -1) for score, layer in zip(found, layers, strict=True)]

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return s_t, the scheduled sparsity at this step; the masks reach it at the next update."""
        target = 1 - budget(layers) / sum(layer.dense.numel() for layer in layers)
        return {"scheduled_sparsity": target * float(1 - self.surplus_share(at))}
