"""RigL: sparse from the first step, with masks that move towards large gradients (arXiv:1911.11134, ICML 2020)."""

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
    """Train a sparse network; every so often drop its smallest weights and grow where the gradient is largest.

        f(t) = drop / 2 (1 + cos(pi t / T)),    T the step at `end` of the budget

    The mask starts random, with exactly k positions in all, shared among layers by `allocation`; no layer's
    count ever changes. At the steps interval, 2 interval, ... below T, a layer that keeps c weights drops the
    floor(f(t) c) of smallest |w| and grows as many positions: those of largest |dL/d(w * mask)| among all that
    the drop did not leave, just-dropped ones included. What was pruned before the update starts at 0 with its
    momentum cleared; what was dropped and grown by the same update keeps value and momentum. At T the mask is
    final, and the rest of the budget trains the weights it keeps.

    Source: Evci et al., and google-research/rigl@d39fc7d (Apache-2.0): rigl/sparse_optimizers_base.py
    (`SparseRigLOptimizerBase.generic_mask_update`, `_get_update_op` with its default reinit_when_same=False,
    `get_drop_fraction`), rigl/sparse_utils.py (ERK), rigl/imagenet_resnet/imagenet_train_eval.py (flags).
    Written from the formulas. drop=0.3 under the cosine, ERK and an update every 100 steps are the paper's. Its
    T is 25,000 of 32,000 steps on ImageNet (.78) and 75,000 of 97,656 on CIFAR-10 (.77); here .75 of any budget.

    What happens to a pruned weight: the loss sends it no gradient, because the mask multiplies it; momentum and
    weight decay go on moving its stored value. Nothing ever reads that value: magnitudes are compared among kept
    weights only, and a position that comes back is set to 0 and its momentum cleared first.

    Cost: the gradient at pruned positions is a by-product of the backward pass, which is dense here in every step,
    so updates take no pass of their own, and training counts as many multiply-adds as dense training. The
    savings that the paper reports are those of sparse kernels, which the harness does not assume.

    Deviations:
        * A step that moves the mask also takes the weight step, first; the official code takes none there, and its
          step counter stands still, so that its updates are batches beyond the budget. The gradient that grows
          is therefore that of the batch before the weight step, the magnitudes that drop are those after it.
        * No update at step 0, where the official code makes its first.
        * `updates`: a budget too short for so many gets a shorter interval. With 100 steps, 160 in all would be one.
        * No noise (official: N(0, 1e-5) on |w|): ties go to the earlier position. A pruned weight never outranks a
          kept one of nearly 0; with the noise it can, and then comes back with its stored value.
        * Counts are exact: ERK's densities are rounded to the board's budget, and floor(f c) is not computed
          in float32.
        * A pruned position whose gradient is exactly 0 (of a unit that never fires) is not grown: what was dropped
          comes back instead; officially positions decide such ties. A grown weight that is still exactly 0 at T
          becomes the smallest normal number, because the harness refuses masks that keep zeros.
        * `uniform` prunes the first layer as it does every other; the official code leaves it dense there.

    Attributes:
        allocation: of the counts per layer: `erk` (Erdos-Renyi-Kernel) or `uniform` (every layer has the same share).
        drop: fraction of a layer's kept weights that an update would drop at step 0; it falls to 0 at `end`.
        interval: optimizer steps between two updates, at most.
        updates: least number of updates, for which the interval is shortened; 0 never shortens it.
        end: fraction of the step budget after which the mask is final.
    """

    allocation: Literal["erk", "uniform"] = "erk"
    drop: float = 0.3
    interval: int = 100
    updates: int = 16
    end: float = 0.75

    def __post_init__(self) -> None:
        """Refuse options no schedule could mean."""
        super().__post_init__()
        if self.allocation not in ("erk", "uniform"):
            raise ValueError(f"allocation is erk or uniform; found {self.allocation!r}")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop is a fraction of the kept weights, in [0, 1]; found {self.drop}")
        if self.interval < 1 or self.updates < 0:
            raise ValueError(f"interval is 1 step or more and updates 0 or more; found {self.interval}, {self.updates}")
        if not 0 < self.end <= 1:
            raise ValueError(f"end is a fraction of the step budget, in (0, 1]; found {self.end}")

    def traits(self, track: Track) -> Traits:
        """Declare that the mask is final at `end`."""
        del track
        return Traits(harden_at=self.end)

    def before_step(self, layers: Layers, at: Progress) -> None:
        """Draw the mask before the first step: of independent uniform scores, each layer's highest."""
        if at.step == 0:
            draws = [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]
            set_masks(layers, select(layers, draws, self.allocation))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """Leave the mask as the last update did, or draw it where a budget is so short that the search has no step.

        A weight that was grown and has had no gradient since becomes the smallest normal number: it is kept, so
        it is not 0.
        """
        del validate
        self.before_step(layers, at)
        for layer in layers if at.step else ():
            unmoved = (layer.dense.detach() == 0) & (layer.gate.keep != 0)
            if bool(unmoved.any()) and not bool(layer.gate.keep.all()):  # where all is kept, none was grown
                tiny = torch.finfo(layer.dense.dtype).tiny
                at.assign(layer.dense, layer.dense.detach().masked_fill(unmoved, tiny))

    def every(self, at: Progress) -> int:
        """Return the steps between two updates: `interval`, or as few as it takes to fit `updates` below T."""
        longest = (at.harden_step - 1) // self.updates if self.updates else self.interval
        return max(1, min(self.interval, longest))

    def wants_gradients(self, at: Progress) -> bool:
        """Return whether the mask moves in this step."""
        return 0 < at.step < at.harden_step and at.step % self.every(at) == 0

    def share(self, at: Progress) -> float:
        """Return f(t), the fraction of its kept weights that each layer drops in an update at this step."""
        return self.drop / 2 * (1 + math.cos(math.pi * at.fraction))

    def update(self, layers: Layers, dense_gradients: Sequence[Tensor], at: Progress) -> None:
        """Move every layer's mask, and give what it grows a fresh start."""
        tensors = [*dense_gradients, *(layer.dense.detach() for layer in layers)]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            return  # the run diverged, and the harness says so
        for layer, gradient in zip(layers, dense_gradients, strict=True):
            before = layer.gate.keep != 0
            after = moved(layer.dense.detach(), before, gradient, self.share(at))
            fresh = after & ~before
            layer.gate.set(after)
            at.assign(layer.dense, layer.dense.detach().masked_fill(fresh, 0))
            at.reset_optimizer_state(layer.dense, fresh)

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return f(t), the share of the kept weights that an update at this step would drop; 0 from T on."""
        del layers
        return {"drop_fraction": self.share(at)}


def moved(weight: Tensor, keep: Tensor, gradient: Tensor, share: float) -> Tensor:
    """Return the mask after one drop and one growth: as many positions as `keep` has.

    A pruned position without gradient is never grown: as many dropped ones stay, the earliest first.

    Args:
        weight: dense weight; only what is kept is looked at.
        keep: bool mask of its shape.
        gradient: of the effective weight, pruned positions included.
        share: of the kept weights, those that are dropped, rounded down.
    """
    kept = int(keep.count_nonzero())
    dropped = math.floor(share * kept)
    (stays,) = top_k([weight.abs().masked_fill(~keep, -1)], kept - dropped)
    gain = gradient.abs().masked_fill(~keep & (gradient == 0), -1)  # behind what was dropped, whose gradient may be 0
    (grows,) = top_k([gain.masked_fill(stays, -2)], dropped)
    return stays | grows
