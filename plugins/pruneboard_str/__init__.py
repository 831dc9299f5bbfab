"""STR: soft thresholds learned per layer (arXiv:2002.03231, ICML 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, final

import torch
from torch import Tensor

from pruneboard.api import GateOptimizer, Layer, Progress, Pruner, Track, Traits, Validate
from pruneboard.scores import budget, top_k
from pruneboard_str.gate import ThresholdGate, soft_threshold

__all__ = ["STR", "ThresholdGate"]

NEARLY_HALF = -0.1
"""Where the automatic decay takes s in mode `target`: sigmoid(-0.1) = 0.475 is above most trained weights."""

TYPICAL = 0.05
"""Standard deviation of a convolution's trained weights, for want of knowing it: mode `faithful` aims by it."""

SLACK = 0.01
"""Share of the budget that may be missing during the search before the thresholds are shifted back."""

ALMOST_1 = 1 - 2.0**-53
"""The largest float64 below 1: no threshold reaches it, so larger weights are all equally far above."""

Layers = Sequence[Layer[ThresholdGate]]


@final
@dataclass(frozen=True, kw_only=True)
class STR(Pruner[ThresholdGate]):
    """Learn one soft threshold per layer; weight decay on the thresholds makes the network sparse.

        min over w, s of  L(S_g(w, s)) + decay_w/2 |w|^2 + decay/2 |s|^2
        S_g(w, s) = sign(w) relu(|w| - g(s)),    g(s) = sigmoid(s),    one s per layer

    s starts far below 0, where g is 0. Decay draws it towards 0 and so raises g; the loss gradient
    dL/ds = -g'(s) sum of sign(w) dL/dS over |w| > g decides where the layers differ.

    `mode=target` keeps exactly the budget. During the search, whenever fewer weights are above their
    thresholds than the budget allows, all s are shifted down by one common amount until the count fits. At
    `harden_at` they are shifted once more, by the delta at which exactly k weights have
    logit(|w|) - s > delta, over all layers together; the weights become S_g(w, s + delta) and the mask is
    fixed; the rest of the budget trains the survivors. `mode=faithful` is the paper's method: no shift, no
    mask, soft thresholds to the last step, and whatever sparsity results. `sparsity` is then only what the
    automatic decay aims at.

    Source: the paper, and RAIVNLab/STR@cc74d38 (Apache-2.0): utils/conv_type.py:14-41 (the function and its
    parameters), main.py:301-306 (export as S_g(w, s)), configs/ (constants). Written from the formulas.

    The constants. Without a loss gradient s(t) = init prod(1 - lr_t decay / (1 - momentum)), and while s is
    below -104 sigmoid(s) is 0 in float32, so that there is none. The official ResNet-50 constants (s from
    -3200, decay 2.25e-5) suit its 500,000 steps; CIFAR-10's 19,600 end at s = -2018, with nothing pruned
    (RAIVNLab/STR#2). So `decay` is chosen from the budget (`decay_for`), and `init` is just below the
    underflow: in the first steps every weight trains, zero-initialized layers too, and a third of the way to
    the end s is at -10. Validation top-1, test_resnet, mean of 2 seeds, on digits (8 epochs, 160 steps) at
    sparsity .9 / .98 / .995: 99.0 / 97.6 / 89.2 %, the budget met after three epochs; one-shot magnitude
    98.3 / 95.1 / 53.5; with lr=1 65.4 at .995, for the loss then holds the thresholds down until the last
    shift; with thresholds that reach the target only at the end of the search (init=-10, decay to -2) 95.8 and
    38.8 at .98 and .995. On 5,000 CIFAR-10 images (4 epochs) at .98: 41.5, magnitude 38.4.

    Deviations:
        * Mode `target`: the shifts, the hardening and the fine-tuning. The official code takes what sparsity
          results. During the search the shift waits until SLACK of the budget is missing, because it sorts.
        * The decay of s is its own (official: that of the weights) and by default chosen from the budget;
          `init` is -110 (official: -3200 or -12800), the rate its own, and there is no momentum: with it s
          would lag and then pass through 0 on budgets of some hundred steps.
        * In mode `target` the automatic decay aims at s = -0.1 whatever the sparsity, since the shifts stop it
          where the budget is reached. In mode `faithful` nothing does: it aims at the quantile of a normal
          distribution of standard deviation TYPICAL, which a network of other scale (a transformer's 0.02)
          misses by far; choose `decay` there.
        * The rate follows the recipe's schedule per step, not per epoch.
        * While g(s) is 0 a weight of exactly 0 gets its gradient; the official formula has sign(0) = 0, so
          such a weight never moves.
        * At sparsity 0 nothing is learned: the gate is the identity from the start.

    A pruned weight gets no loss gradient, only decay and momentum. It may come back until hardening: when
    its layer's threshold falls. Afterwards never.

    Attributes:
        mode: `target` (exactly the budget) or `faithful` (sparsity emerges).
        init: s of every layer at the start, below 0.
        decay: weight decay of s; 0 chooses it from the number of search steps.
        lr: peak learning rate of s (SGD), on the recipe's schedule shape.
        momentum: of that SGD.
        harden_at: fraction of the step budget spent on the search, in mode `target`.
    """

    mode: Literal["target", "faithful"] = "target"
    init: float = -110.0
    decay: float = 0.0
    lr: float = 0.1
    momentum: float = 0.0
    harden_at: float = 0.75

    def __post_init__(self) -> None:
        """Refuse options no search could mean."""
        super().__post_init__()
        if self.mode not in ("target", "faithful"):
            raise ValueError(f"mode is target or faithful; found {self.mode!r}")
        if not -math.inf < self.init < 0:
            raise ValueError(f"init is below 0, for decay draws thresholds up to sigmoid(0); found {self.init}")
        if not (0 <= self.decay < math.inf and 0 < self.lr < math.inf):
            raise ValueError(f"decay is 0 (automatic) or more and lr above 0; found {self.decay}, {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1); found {self.momentum}")
        if not 0 < self.harden_at <= 1:
            raise ValueError(f"harden_at is a fraction of the step budget, in (0, 1]; found {self.harden_at}")
        if self.sparsity and not self.decay and self.init >= self.aim:
            raise ValueError(
                f"the automatic decay takes s from init up to {self.aim:.3g}: choose init below that; found {self.init}"
            )

    @property
    def aim(self) -> float:
        """Where the automatic decay takes s by the end of the search, were there no loss gradient."""
        if self.mode == "target" or not self.sparsity:
            return NEARLY_HALF
        # At the very ends of [0, 1) the quantile is infinite or 0, and nobody would notice another.
        level = TYPICAL * NormalDist().inv_cdf(min(max((1 + self.sparsity) / 2, 0.5 + 1e-9), 1 - 1e-9))
        return min(NEARLY_HALF, math.log(level / (1 - level)))

    def traits(self, track: Track) -> Traits:
        """Declare exact sparsity and the hardening in mode `target`, emerging sparsity in mode `faithful`."""
        del track
        return Traits(harden_at=self.harden_at) if self.mode == "target" else Traits(hits_target=False)

    def gate(self, weight: Tensor) -> ThresholdGate:
        """Return a gate with s at `init`, or one that keeps everything where nothing is to be pruned."""
        return ThresholdGate(weight, self.init, learn=self.sparsity > 0)

    def gate_optimizer(self, steps: int) -> GateOptimizer:
        """Return SGD whose weight decay takes s from `init` to `aim` in `steps`."""
        decay = self.decay or self.decay_for(steps)
        return GateOptimizer(rule="sgd", lr=self.lr, weight_decay=decay, momentum=self.momentum)

    def decay_for(self, steps: int) -> float:
        """Return the weight decay that takes s from `init` to `aim` in a search of `steps`, absent loss gradients.

            s(t) = init prod over t of (1 - lr c_t decay / (1 - momentum)),   c_t the schedule's share at step t

        The shares are those of a cosine over the budget, whose mean over its first fraction h is
        (1 + sin(pi h) / (pi h)) / 2. One step at the peak takes s the same factor nearer to 0 however few steps
        there are, so s never passes 0 where there is no momentum.
        """
        angle = math.pi * self.traits("prune").harden_at
        at_peak = max(1, steps) * 0.5 * (1 + math.sin(angle) / angle)
        return -math.expm1(-math.log(self.init / self.aim) / at_peak) * (1 - self.momentum) / self.lr

    def after_step(self, layers: Layers, at: Progress) -> None:
        """In mode `target`, shift the thresholds back where they prune more than the budget allows."""
        if self.mode == "faithful" or not self.sparsity or _above(layers) >= (1 - SLACK) * budget(layers):
            return
        distances = margins(layers)
        if all(bool(d.isfinite().all()) for d in distances):  # else the run diverged, and the harness says so
            delta = common_shift(distances, top_k(distances, budget(layers)))
            for layer in layers:
                at.assign(layer.gate.threshold, shifted(layer, delta).to(layer.dense.dtype))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """In mode `target`, shift the thresholds to exactly the budget and make every gate its mask."""
        del validate
        if self.mode == "faithful" or not self.sparsity:
            return
        distances = margins(layers)
        masks = top_k(distances, budget(layers))
        delta = common_shift(distances, masks)
        for layer, keep in zip(layers, masks, strict=True):
            s = shifted(layer, delta)
            at.assign(layer.dense, survivors(layer.dense.detach(), s, keep))
            at.assign(layer.gate.threshold, s.to(layer.dense.dtype))
            layer.gate.harden(keep)

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return the mean, the lowest and the highest threshold sigmoid(s) of the layers."""
        del at
        levels = torch.sigmoid(torch.cat([layer.gate.threshold.detach() for layer in layers]))
        return {
            "threshold": float(levels.mean()),
            "threshold_min": float(levels.min()),
            "threshold_max": float(levels.max()),
        }


def margins(layers: Layers) -> list[Tensor]:
    """Return logit(|w|) - s in float64: how far each layer's s could rise before it prunes the weight.

    Weights of 1 and more, which no threshold reaches, are all at logit(ALMOST_1); exact zeros, which are never
    above a threshold, lie below everything else.
    """
    found = []
    for layer in layers:
        magnitude = layer.dense.detach().double().abs_()
        smallest = torch.finfo(torch.float64).tiny
        found.append(torch.logit(magnitude.clamp_(smallest, ALMOST_1)).sub_(layer.gate.threshold.detach().double()))
    lowest = float(torch.stack([distances.min() for distances in found]).min()) - 1
    return [d.masked_fill_(layer.dense.detach() == 0, lowest) for d, layer in zip(found, layers, strict=True)]


def common_shift(distances: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Return the amount midway between the smallest kept margin and the largest dropped one."""
    pairs = list(zip(distances, masks, strict=True))
    kept = float(torch.stack([d.masked_fill(~keep, math.inf).min() for d, keep in pairs]).min())
    dropped = float(torch.stack([d.masked_fill(keep, -math.inf).max() for d, keep in pairs]).max())
    return (kept + dropped) / 2 if dropped > -math.inf else kept - 1


def shifted(layer: Layer[ThresholdGate], delta: float) -> Tensor:
    """Return the layer's s + delta in float64, shape (1,)."""
    return layer.gate.threshold.detach().double() + delta


def survivors(weight: Tensor, s: Tensor, keep: Tensor) -> Tensor:
    """Return S_g(weight, s) where `keep` holds, computed in float64, and 0 elsewhere, in the weight's dtype.

    A kept weight at its threshold by a tie, or to rounding, becomes the smallest normal number of its sign:
    it is kept, so it is not 0.
    """
    effective = soft_threshold(weight.double(), s).to(weight.dtype)
    least = torch.full_like(weight, torch.finfo(weight.dtype).tiny).copysign_(weight)
    return torch.where(effective.abs() < least.abs(), least, effective) * keep


def _above(layers: Layers) -> int:
    """Return how many weights of all layers are above their threshold."""
    counts = [
        torch.count_nonzero(layer.dense.detach().abs() > torch.sigmoid(layer.gate.threshold.detach()))
        for layer in layers
    ]
    return int(torch.stack(counts).sum())
