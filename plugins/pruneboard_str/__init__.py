"""STR: learn one soft threshold per layer (arXiv:2002.03231, ICML 2020)."""

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

TARGET_FINAL_S = -0.1
"""Final s that the automatic decay aims at in mode `target`: sigmoid(-0.1) = 0.475 is above most trained weights."""

ASSUMED_STD = 0.05
"""Standard deviation that mode `faithful` assumes for trained weights, typical of a convolution."""

SLACK = 0.01
"""Share of the budget that may be pruned too much during the search before the thresholds are lowered."""

BELOW_1 = 1 - 2.0**-53
"""The largest float64 below 1. No threshold reaches it, so all larger weights count as equally far above."""

Layers = Sequence[Layer[ThresholdGate]]


@final
@dataclass(frozen=True, kw_only=True)
class STR(Pruner[ThresholdGate]):
    """Learn one soft threshold per layer; weight decay on the thresholds makes the network sparse.

        min over w, s of  L(S_g(w, s)) + decay_w/2 |w|^2 + decay/2 |s|^2
        S_g(w, s) = sign(w) relu(|w| - g(s)),    g(s) = sigmoid(s),    one s per layer

    s starts far below 0, where g is 0. Weight decay pulls it towards 0, which raises g. The loss gradient
    dL/ds = -g'(s) sum of sign(w) dL/dS over |w| > g makes the layers differ.

    `mode=target` keeps exactly the budget. Whenever, during the search, fewer weights are above their thresholds
    than the budget allows, all s are lowered by one common amount, so that the count fits. At `harden_at` they
    are shifted once more, by the delta for which exactly k weights over all layers have logit(|w|) - s > delta. The
    weights become S_g(w, s + delta), the mask is fixed, and the rest of the budget trains the kept weights.

    `mode=faithful` is the paper's method: no shift, no mask, soft thresholds to the last step, and whatever sparsity
    results. `sparsity` then only sets what the automatic decay aims at.

    Source: the paper, and RAIVNLab/STR@cc74d38 (Apache-2.0): utils/conv_type.py:14-41 (the function and its
    parameters), main.py:301-306 (export as S_g(w, s)), configs/ (constants). Written from the formulas.

    Choice of constants. Without a loss gradient s(t) = init prod(1 - lr_t decay / (1 - momentum)); and there is none
    while s is below -104, where sigmoid(s) is 0 in float32. The official ResNet-50 constants (s from -3200, decay
    2.25e-5) suit its 500,000 steps; with CIFAR-10's 19,600 steps s ends at -2018, and nothing is pruned
    (RAIVNLab/STR#2). Therefore `decay` is computed from the budget (`decay_for`), and `init` is just below the
    underflow: in the first steps every weight trains, zero-initialized layers too, and a third of the way to the
    end s is at -10. Validation top-1, test_resnet, mean of 2 seeds, on digits (8 epochs, 160 steps) at sparsity
    .9 / .98 / .995:

    * the defaults: 99.0 / 97.6 / 89.2 %, with the budget reached after three epochs;
    * one-shot magnitude: 98.3 / 95.1 / 53.5;
    * lr=1: 65.4 at .995, because the loss then holds the thresholds down until the last shift;
    * thresholds that reach the target only at the end of the search (init=-10, decay to -2): 95.8 at .98 and 38.8
      at .995.

    On 5,000 CIFAR-10 images (4 epochs) at .98: 41.5, magnitude 38.4.

    Deviations:
        * Mode `target`: the shifts, the hardening and the fine-tuning. The official code accepts whatever sparsity
          results. During the search a shift waits until SLACK of the budget is missing, because it sorts.
        * s has its own weight decay (official: that of the weights), by default computed from the budget;
          `init` is -110 (official: -3200 or -12800); s has its own learning rate and no momentum, with which it
          would lag and then cross 0 on budgets of a few hundred steps.
        * In mode `target` the automatic decay aims at s = -0.1 for every sparsity, because the shifts stop s where
          the budget is reached. In mode `faithful` nothing does: the aim is the quantile of a normal
          distribution with standard deviation ASSUMED_STD. A network of another scale (a transformer's 0.02) misses
          it by far; choose `decay` there.
        * The learning rate follows the recipe's schedule per step, not per epoch.
        * While g(s) is 0, a weight of exactly 0 gets its gradient. The official formula has sign(0) = 0, so that
          such a weight never moves.
        * At sparsity 0 nothing is learned: the gate is the identity from the start.

    A pruned weight gets no loss gradient, only decay and momentum. Until hardening it returns if its layer's
    threshold falls below it; after hardening it never does.

    Attributes:
        mode: `target` (exactly the budget) or `faithful` (whatever sparsity results).
        init: s of every layer at the start, below 0.
        decay: weight decay of s; 0 computes it from the number of search steps.
        lr: peak learning rate of s (SGD); it follows the recipe's schedule.
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
        """Check the options.

        Raises:
            ValueError: an option is out of range, or the automatic decay would have to lower s from `init`.
        """
        super().__post_init__()
        if self.mode not in ("target", "faithful"):
            raise ValueError(f"mode must be target or faithful; found {self.mode!r}")
        if not -math.inf < self.init < 0:
            raise ValueError(f"init must be below 0, the value that decay pulls s towards; found {self.init}")
        if not (0 <= self.decay < math.inf and 0 < self.lr < math.inf):
            raise ValueError(f"decay must be 0 (automatic) or more, and lr above 0; found {self.decay}, {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); found {self.momentum}")
        if not 0 < self.harden_at <= 1:
            raise ValueError(f"harden_at must be a fraction of the step budget in (0, 1]; found {self.harden_at}")
        if self.sparsity and not self.decay and self.init >= self.final_s:
            raise ValueError(f"init must be below {self.final_s:.3g}, where decay=0 raises s to; found {self.init}")

    @property
    def final_s(self) -> float:
        """The s that the automatic decay reaches at the end of the search if there is no loss gradient."""
        if self.mode == "target" or not self.sparsity:
            return TARGET_FINAL_S
        # P(|w| <= level) = sparsity for normal weights. At the ends of [0, 1) the quantile is 0 or infinite: clip it.
        level = ASSUMED_STD * NormalDist().inv_cdf(min(max((1 + self.sparsity) / 2, 0.5 + 1e-9), 1 - 1e-9))
        return min(TARGET_FINAL_S, math.log(level / (1 - level)))

    def traits(self, track: Track) -> Traits:
        """Declare exact sparsity and when masks are fixed in mode `target`, emerging sparsity in mode `faithful`."""
        del track
        if self.mode == "faithful":
            return Traits(hits_target=False)
        return Traits(harden_at=self.harden_at, writes_weights_at_harden=True)

    def gate(self, weight: Tensor) -> ThresholdGate:
        """Return a gate with s at `init`, or at sparsity 0 one that keeps everything."""
        return ThresholdGate(weight, self.init, learn=self.sparsity > 0)

    def gate_optimizer(self, steps: int) -> GateOptimizer:
        """Return SGD whose weight decay raises s from `init` to `final_s` in `steps`."""
        decay = self.decay or self.decay_for(steps)
        return GateOptimizer(rule="sgd", lr=self.lr, weight_decay=decay, momentum=self.momentum)

    def decay_for(self, steps: int) -> float:
        """Return the weight decay that raises s from `init` to `final_s` in `steps` without loss gradients.

            s(t) = init prod over t of (1 - lr c_t decay / (1 - momentum)),   c_t = learning rate at t / peak

        c_t is a cosine over the step budget; its mean over the first fraction h = `harden_at` of the budget is
        (1 + sin(pi h) / (pi h)) / 2. The search therefore equals steps * mean steps at the peak learning rate, and
        each of those multiplies s by the same factor, (final_s / init)^(1 / (steps * mean)). That factor is positive
        for any number of steps, so s never crosses 0 without momentum.
        """
        angle = math.pi * self.traits("prune").harden_at
        at_peak = max(1, steps) * 0.5 * (1 + math.sin(angle) / angle)
        return -math.expm1(-math.log(self.init / self.final_s) / at_peak) * (1 - self.momentum) / self.lr

    def after_step(self, layers: Layers, at: Progress) -> None:
        """In mode `target`, lower the thresholds if they prune more than the budget allows."""
        if self.mode == "faithful" or not self.sparsity or _count_above(layers) >= (1 - SLACK) * budget(layers):
            return
        distances = margins(layers)
        if all(bool(d.isfinite().all()) for d in distances):  # else the run diverged, which the harness reports
            delta = common_shift(distances, top_k(distances, budget(layers)))
            for layer in layers:
                at.assign(layer.gate.threshold, shifted(layer, delta).to(layer.dense.dtype))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """In mode `target`, shift the thresholds to exactly the budget and fix the masks."""
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
    """Return logit(|w|) - s per layer, in float64: how far s can rise before it prunes the weight.

    Weights of 1 and more, which no threshold reaches, all count as BELOW_1. Exact zeros, which are never above a
    threshold, get a margin below all others.
    """
    found = []
    for layer in layers:
        magnitude = layer.dense.detach().double().abs_()
        smallest = torch.finfo(torch.float64).tiny
        found.append(torch.logit(magnitude.clamp_(smallest, BELOW_1)).sub_(layer.gate.threshold.detach().double()))
    lowest = float(torch.stack([distances.min() for distances in found]).min()) - 1
    return [d.masked_fill_(layer.dense.detach() == 0, lowest) for d, layer in zip(found, layers, strict=True)]


def common_shift(distances: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Return the shift of s midway between the smallest kept margin and the largest pruned one."""
    pairs = list(zip(distances, masks, strict=True))
    kept = float(torch.stack([d.masked_fill(~keep, math.inf).min() for d, keep in pairs]).min())
    pruned = float(torch.stack([d.masked_fill(keep, -math.inf).max() for d, keep in pairs]).max())
    return (kept + pruned) / 2 if pruned > -math.inf else kept - 1


def shifted(layer: Layer[ThresholdGate], delta: float) -> Tensor:
    """Return the layer's s + delta in float64, shape (1,)."""
    return layer.gate.threshold.detach().double() + delta


def survivors(weight: Tensor, s: Tensor, keep: Tensor) -> Tensor:
    """Return S_g(weight, s), computed in float64, where `keep` is true, and 0 elsewhere; in the weight's dtype.

    A kept weight that equals its threshold, by a tie or by rounding, becomes the smallest normal number with its sign,
    because a kept weight must not be 0.
    """
    effective = soft_threshold(weight.double(), s).to(weight.dtype)
    least = torch.full_like(weight, torch.finfo(weight.dtype).tiny).copysign_(weight)
    return torch.where(effective.abs() < least.abs(), least, effective) * keep


def _count_above(layers: Layers) -> int:
    """Return the number of weights above their threshold, over all layers."""
    counts = [
        torch.count_nonzero(layer.dense.detach().abs() > torch.sigmoid(layer.gate.threshold.detach()))
        for layer in layers
    ]
    return int(torch.stack(counts).sum())
