"""RigL: sparse training whose masks drop small weights and grow large gradients (arXiv:1911.11134, ICML 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from pruneboard.api import DenseGradientPruner, Layer, Mask, Progress, Track, Traits, Validate
from pruneboard.scores import select, set_masks, top_k

Layers = Sequence[Layer[Mask]]


@final
@dataclass(frozen=True, kw_only=True)
class RigL(DenseGradientPruner):
    """Train a sparse network; periodically drop its smallest weights and grow where the gradient is largest.

        f(t) = drop / 2 (1 + cos(pi t / T)),    T the step at `end` of the budget

    The mask starts random, with exactly k positions shared among layers by `allocation`; a layer's count never
    changes. The updates are at the steps interval, 2 interval, ... below T. In an update, a layer that keeps c weights

    1. drops the floor(f(t) c) kept weights of smallest |w|;
    2. grows as many positions: those of largest |dL/d(w * mask)| among all that step 1 did not keep, including
       the ones it just dropped;
    3. sets every grown weight that was pruned before the update to 0 and clears its momentum, so that stale values
       have no effect. A weight that the same update dropped and grew keeps both.

    At T the mask is final, and the rest of the budget trains the weights it keeps.

    Source: Evci et al., and google-research/rigl@d39fc7d (Apache-2.0): rigl/sparse_optimizers_base.py
    (`SparseRigLOptimizerBase.generic_mask_update`, `_get_update_op` with its default reinit_when_same=False,
    `get_drop_fraction`), rigl/sparse_utils.py (ERK), rigl/imagenet_resnet/imagenet_train_eval.py (flags).
    Written from the formulas. drop=0.3 with the cosine, ERK, and an update every 100 steps are the paper's. Its T is
    25,000 of 32,000 steps on ImageNet (.78) and 75,000 of 97,656 on CIFAR-10 (.77); here it is .75 of any budget.

    A pruned weight gets no loss gradient, because the mask multiplies it. Momentum and weight decay still change its
    stored value, but nothing reads that value: only the magnitudes of kept weights are compared, and a position that
    returns is set to 0 and its momentum cleared first.

    Cost: the gradients of pruned positions are a by-product of the backward pass, which is dense here in every
    step. Updates therefore need no pass of their own, and training counts as many multiply-adds as dense training. The
    savings that the paper reports need sparse kernels, which the harness does not assume.

    Deviations:
        * A step with an update takes its weight step first. The official code takes no weight step there and does
          not advance its step counter, so that its updates are batches beyond the budget. Here the gradient that
          grows is that of the batch before the weight step, and the magnitudes that drop are those after it.
        * There is no update at step 0, where the official code makes its first.
        * `updates`: a budget too short for that many updates gets a shorter interval. With an interval of 100, a budget
          of 160 steps would have one update.
        * No noise (official: N(0, 1e-5) on |w|): ties go to the earlier position. A pruned weight never outranks a
          kept one that is nearly 0; with the noise it can, and then returns with its stored value.
        * Counts are exact: ERK's densities are rounded to the board's budget, and floor(f c) is not computed
          in float32.
        * A pruned position whose gradient is exactly 0 (of a unit that never fires) is not grown: a dropped position
          is kept instead. The official code breaks such ties by position. A grown weight that is still exactly 0 at T
          becomes the smallest normal number, because the harness rejects masks that keep zeros.
        * `uniform` prunes the first layer like every other; the official code leaves it dense.

    Attributes:
        allocation: how the budget is shared among layers: `erk` (Erdos-Renyi-Kernel) or `uniform` (every layer keeps
            the same share).
        drop: fraction of a layer's kept weights that an update at step 0 would drop; it falls to 0 at `end`.
        interval: optimizer steps between two updates, at most.
        updates: minimum number of updates; the interval is shortened to reach it. 0 never shortens it.
        end: fraction of the step budget after which the mask is final.
    """

    allocation: Literal["erk", "uniform"] = "erk"
    drop: float = 0.3
    interval: int = 100
    updates: int = 16
    end: float = 0.75

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        super().__post_init__()
        if self.allocation not in ("erk", "uniform"):
            raise ValueError(f"allocation must be erk or uniform; found {self.allocation!r}")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop must be a fraction of the kept weights in [0, 1]; found {self.drop}")
        if self.interval < 1 or self.updates < 0:
            raise ValueError(
                f"interval must be 1 step or more, and updates 0 or more; found {self.interval}, {self.updates}"
            )
        if not 0 < self.end <= 1:
            raise ValueError(f"end must be a fraction of the step budget in (0, 1]; found {self.end}")

    def traits(self, track: Track) -> Traits:
        """Declare that the mask is final at `end`, and that weights that are exactly 0 are then changed."""
        del track
        return Traits(harden_at=self.end, writes_weights_at_harden=True)

    def before_step(self, layers: Layers, at: Progress) -> None:
        """Draw the mask before the first step: the highest of independent uniform scores in each layer."""
        if at.step == 0:
            draws = [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]
            set_masks(layers, select(layers, draws, self.allocation))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """Keep the mask of the last update, or draw it if the budget is so short that the search has no step.

        A grown weight that has had no gradient since becomes the smallest normal number, because a kept weight must
        not be 0.
        """
        del validate
        self.before_step(layers, at)
        for layer in layers if at.step else ():
            unmoved = (layer.dense.detach() == 0) & (layer.gate.keep != 0)
            if bool(unmoved.any()) and not bool(layer.gate.keep.all()):  # a dense layer grows nothing
                tiny = torch.finfo(layer.dense.dtype).tiny
                at.assign(layer.dense, layer.dense.detach().masked_fill(unmoved, tiny))

    def update_interval(self, at: Progress) -> int:
        """Return the steps between two updates: `interval`, or fewer if `updates` would not fit below T."""
        longest = (at.harden_step - 1) // self.updates if self.updates else self.interval
        return max(1, min(self.interval, longest))

    def wants_gradients(self, at: Progress) -> bool:
        """Return whether this step updates the masks."""
        return 0 < at.step < at.harden_step and at.step % self.update_interval(at) == 0

    def drop_fraction(self, at: Progress) -> float:
        """Return f(t), the fraction of its kept weights that each layer drops in an update at this step."""
        return self.drop / 2 * (1 + math.cos(math.pi * at.fraction))

    def update(self, layers: Layers, dense_gradients: Sequence[Tensor], at: Progress) -> None:
        """Update every layer's mask, and set the value and momentum of newly grown weights to 0."""
        tensors = [*dense_gradients, *(layer.dense.detach() for layer in layers)]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            return  # the run diverged, which the harness reports
        for layer, gradient in zip(layers, dense_gradients, strict=True):
            before = layer.gate.keep != 0
            after = updated_mask(layer.dense.detach(), before, gradient, self.drop_fraction(at))
            fresh = after & ~before
            layer.gate.set(after)
            at.assign(layer.dense, layer.dense.detach().masked_fill(fresh, 0))
            at.reset_optimizer_state(layer.dense, fresh)

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return f(t), the fraction of the kept weights that an update at this step would drop; 0 from T on."""
        del layers
        return {"drop_fraction": self.drop_fraction(at)}


def updated_mask(weight: Tensor, keep: Tensor, gradient: Tensor, fraction: float) -> Tensor:
    """Return the bool mask after one drop and one growth; it keeps as many positions as `keep`.

    A pruned position without gradient is never grown; dropped positions are kept in its place, the earliest first.

    Args:
        weight: dense weight, any shape; only kept entries are read.
        keep: bool mask of its shape.
        gradient: gradient of the effective weight, pruned positions included.
        fraction: share of the kept weights to drop; the count is rounded down.
    """
    kept = int(keep.count_nonzero())
    dropped = math.floor(fraction * kept)
    (stays,) = top_k([weight.abs().masked_fill(~keep, -1)], kept - dropped)
    # Kept positions rank last (-2), and pruned ones without gradient (-1) below the dropped, whose gradient may be 0.
    gain = gradient.abs().masked_fill(~keep & (gradient == 0), -1)
    (grows,) = top_k([gain.masked_fill(stays, -2)], dropped)
    return stays | grows
