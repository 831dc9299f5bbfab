"""ProbMask: learn keep-probabilities under one global sparsity budget (arXiv:2105.01571, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from pruneboard.api import GateOptimizer, Layer, Progress, Pruner, Track, Traits, Validate
from pruneboard.scores import budget, cubic, top_k
from pruneboard_probmask.gate import ProbabilityGate
from pruneboard_probmask.projection import clipped, shift

__all__ = ["ProbMask", "ProbabilityGate"]

MAX_RAISED_LR = 0.2
"""Upper limit of a learning rate raised for a short budget: at 0.2, five Adam steps take a probability from 1 to 0."""

Layers = Sequence[Layer[ProbabilityGate]]


@final
@dataclass(frozen=True, kw_only=True)
class ProbMask(Pruner[ProbabilityGate]):
    """Learn a keep-probability per weight, under one budget for the whole network.

        min over w, s of  E_{m ~ Bern(s)} L(w * m)    subject to  s in [0,1]^n,  sum s <= K(t)

    One step, where f is the completed fraction of the search:

    1. `passes` forward passes, each with its own relaxed sample m = sigmoid(T (logit s + logit u)), u ~ U(0,1);
       their losses are averaged, and 1/T = (1 - final_temperature)(1 - f) + final_temperature;
    2. the recipe's SGD on w and Adam(lr) on s, with both gradients clipped jointly;
    3. s <- clip(s - v, 0, 1), the Euclidean projection onto the constraint; K(t) falls from n to the budget k
       along a cubic between `begin` and `end`.

    At `harden_at` of the step budget, `samples` masks are drawn and each is repaired to exactly k positions. The
    one with the best *validation* top-1 is fixed, and the rest of the budget fine-tunes w.

    Source: the paper, and x-zho14/ProbMask-official@dff770a: utils/conv_type.py:33-43 (relaxation),
    main.py:95-111 (budget and temperature), utils/net_utils.py:83-120 (projection), main.py:183-269
    (fine-tuning). Its CIFAR configuration provides every default. No code was copied, because it has no licence.

    Deviations:
        * Budget and temperature change per step, not per epoch, so that short budgets see the whole schedule.
        * One uniform draw per weight where the official code takes the difference of two Gumbels; both are
          Logistic(0, 1). There is no epsilon inside the logarithms, so a probability of exactly 0 gets no
          gradient. In the official code it gets a random one in the first epochs after `begin` (T below about 2).
        * The projection is exact, accumulates in float64 and never exceeds K. The official code bisects 21 times.
        * The mask is chosen among the samples by validation top-1 (official: training top-1, in train mode, with
          augmentation) and repaired to exactly k (official: the count that was drawn, about K on average). A
          sample with too many positions loses the least probable of them; one with too few gains the most
          probable of the others.
        * Fine-tuning is part of the budget and follows its cosine (official: 20 more epochs at 1e-3).
        * With fewer than `travel / lr` = 3,333 search steps, the learning rate is raised to travel / steps, at most
          0.2. Adam moves a probability by about its learning rate per step: at 6e-3, two hundred steps leave nine
          of ten probabilities undecided and the sampled mask close to random (digits, test_resnet, .9: validation
          61 %; with the raised rate 99 %). The paper's budget (58,800 steps) is not affected.
        * BatchNorm statistics are updated in the first pass of a step only (official: in both).

    A pruned weight can return until hardening. A probability of 0 gets no gradient, but Adam's momentum can still
    raise it.

    Attributes:
        lr: peak learning rate of the probabilities (Adam, no weight decay); it follows the recipe's schedule.
        travel: minimum of learning rate times search steps; 0 never raises the learning rate.
        begin: fraction of the search at which the budget starts to fall.
        end: fraction of the search at which the budget reaches the target.
        final_temperature: 1/T at the end of the search; it is 1 at the start.
        passes: relaxed samples, and therefore forward passes, per step.
        split_batch: give each sample its share of the batch, so that a step costs one pass (not the published
            method). Gradients are noisier, and batch statistics are those of the share.
        samples: masks drawn at hardening.
        harden_at: fraction of the step budget spent on the search.
    """

    tracks: ClassVar[frozenset[Track]] = frozenset({"prune", "supermask"})

    lr: float = 6e-3
    travel: float = 20.0
    begin: float = 0.16
    end: float = 0.6
    final_temperature: float = 0.03
    passes: int = 2
    split_batch: bool = False
    samples: int = 10
    harden_at: float = 0.9375

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        super().__post_init__()
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                "begin and end must be fractions of the search with 0 <= begin < end <= 1; "
                f"found {self.begin}, {self.end}"
            )
        if not 0 < self.final_temperature <= 1:
            raise ValueError(f"final_temperature must be in (0, 1]; found {self.final_temperature}")
        if self.passes < 1 or self.samples < 1:
            raise ValueError(f"passes and samples must be 1 or more; found {self.passes}, {self.samples}")
        if self.split_batch and self.passes == 1:
            raise ValueError("split_batch needs two or more passes to split the batch among; found passes=1")
        if not 0 < self.harden_at <= 1:
            raise ValueError(f"harden_at must be a fraction of the step budget in (0, 1]; found {self.harden_at}")
        if self.lr <= 0 or self.travel < 0:
            raise ValueError(f"lr must be above 0 and travel 0 or more; found {self.lr}, {self.travel}")

    def traits(self, track: Track) -> Traits:
        """Declare passes per step, when masks are fixed, and one validation per sample; at sparsity 0 one pass."""
        harden_at = 1.0 if track == "supermask" else self.harden_at
        passes = self.passes if self.sparsity else 1
        return Traits(
            forward_passes=passes,
            split_batch=self.split_batch and passes > 1,
            harden_at=harden_at,
            max_validations=self.samples if self.sparsity else 0,
        )

    def gate(self, weight: Tensor) -> ProbabilityGate:
        """Return a gate with every probability at 1."""
        return ProbabilityGate(weight, learn=self.sparsity > 0)

    def gate_optimizer(self, steps: int) -> GateOptimizer:
        """Return Adam without weight decay, with a learning rate high enough to decide the mask within `steps`."""
        return GateOptimizer(rule="adam", lr=max(self.lr, min(MAX_RAISED_LR, self.travel / max(1, steps))))

    def inverse_temperature(self, fraction: float) -> float:
        """Return T at a fraction of the search: 1 at its start, 1 / final_temperature at its end."""
        return 1 / ((1 - self.final_temperature) * (1 - fraction) + self.final_temperature)

    def kept_share(self, fraction: float) -> float:
        """Return the share of the n - k surplus weights that K(t) still allows: 1 until `begin`, 0 from `end` on."""
        return cubic(fraction, self.begin, self.end, 1.0, 0.0)

    def before_step(self, layers: Layers, at: Progress) -> None:
        """Set the temperature, and list the probabilities that need a random draw."""
        # Until `begin` there are none: every probability is 1, where its gradient is exactly 0 in float32.
        for layer in layers:
            layer.gate.inverse_temperature = self.inverse_temperature(at.fraction)
            layer.gate.refresh()

    def after_step(self, layers: Layers, at: Progress) -> None:
        """Project the probabilities of all layers together onto this step's budget."""
        share = self.kept_share(at.fraction)
        if share == 1.0:
            return
        k, n = budget(layers), sum(layer.dense.numel() for layer in layers)
        scores = [layer.gate.probability.detach() for layer in layers]
        v = shift(scores, k + (n - k) * share)
        for layer, score in zip(layers, scores, strict=True):
            at.assign(layer.gate.probability, clipped(score, v, out=layer.gate.spare_buffer()))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """Draw `samples` masks of exactly the budget, and fix the one with the best validation top-1."""
        if not self.sparsity:
            return
        probabilities = [layer.gate.probability.detach().clone() for layer in layers]
        generators = [at.generator(layer) for layer in layers]
        best: tuple[float, list[Tensor]] | None = None
        for number in range(1, self.samples + 1):
            at.report("sample", number, self.samples)
            masks = sample(probabilities, budget(layers), generators)
            _set_probabilities(layers, masks, at)
            accuracy = validate()
            if best is None or accuracy > best[0]:
                best = (accuracy, masks)
        assert best is not None
        _set_probabilities(layers, best[1], at)
        for layer in layers:
            layer.gate.hardened = True

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return the temperature, the mean probability, and the number of probabilities strictly between 0 and 1.

        The number is given relative to all n probabilities (`undecided`) and relative to the k that will be kept
        (`undecided_per_kept`): few undecided ones of n can be several times as many as the mask will have. Before
        `end`, when K(t) is above k, the second is large by design.
        """
        n = sum(layer.dense.numel() for layer in layers)
        probabilities = [layer.gate.probability.detach() for layer in layers]
        undecided = sum(int(((p > 0) & (p < 1)).sum()) for p in probabilities)
        return {
            "temperature": 1 / self.inverse_temperature(at.fraction),
            "mean_probability": sum(float(p.sum(dtype=torch.float64)) for p in probabilities) / n,
            "undecided": undecided / n,
            "undecided_per_kept": undecided / max(1, budget(layers)),
        }


def sample(probabilities: Sequence[Tensor], k: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
    """Return one bool mask m ~ Bern(s) per tensor, repaired to exactly `k` kept positions over all tensors.

    The repair keeps the k highest of m + s. Every drawn position (m = 1) ranks above every other one, and within
    each of the two groups the more probable position ranks higher.
    """
    ranked = []
    for probability, generator in zip(probabilities, generators, strict=True):
        draw = torch.rand(probability.shape, generator=generator).to(probability.device)
        ranked.append((draw < probability).to(probability.dtype) + probability)
    return top_k(ranked, k)


def _set_probabilities(layers: Layers, masks: Sequence[Tensor], at: Progress) -> None:
    """Set every probability to its mask value, 0 or 1, which makes the gate deterministic."""
    for layer, mask in zip(layers, masks, strict=True):
        at.assign(layer.gate.probability, mask.to(layer.gate.probability.dtype))
        layer.gate.refresh()
