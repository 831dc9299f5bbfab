"""Two correct pruners, from which every mutant is derived.

The masks follow Zhu and Gupta (arXiv:1710.01878), the scores Ramanujan et al. (arXiv:1911.13299), both much simplified.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pruneboard.api import Gate, GateOptimizer, Mask, MaskPruner, Pruner, Traits
from pruneboard.scores import budget, set_masks, still_kept, top_k, top_k_per_layer

EVERY = 4
"""Steps between updates of the masks."""


def count(layers):
    """The number of prunable weights in the network."""
    return sum(layer.dense.numel() for layer in layers)


def is_due(at):
    """Whether masks are updated in this step."""
    return at.step % EVERY == 0 or at.step == at.harden_step


@dataclass(frozen=True, kw_only=True)
class Sound(MaskPruner):
    """Keeps the largest weights, fewer every four steps; the last quarter of the budget is fine-tuning."""

    def traits(self, track):
        return Traits(harden_at=0.75)

    def before_step(self, layers, at):
        if is_due(at):
            set_masks(layers, self.masks(layers, at))

    def masks(self, layers, at):
        return top_k(self.scores(layers, at), self.kept(layers, at))

    def scores(self, layers, at):
        return [layer.dense.detach().abs() for layer in layers]

    def kept(self, layers, at):
        return still_kept(budget(layers), count(layers), (1 - at.fraction) ** 3)


class ScoreGate(Gate):
    """Weight times mask, with a learned score per weight; the gradient skips the mask (straight-through)."""

    def __init__(self, weight):
        super().__init__()
        self.score = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("keep", torch.ones_like(weight))

    def forward(self, weight):
        return weight * (self.keep + (self.score - self.score.detach()))

    def kept(self, weight):
        return self.keep != 0


@dataclass(frozen=True, kw_only=True)
class SoundScores(Pruner):
    """Keeps the weights with the largest learned scores, on either track."""

    tracks = frozenset({"prune", "supermask"})

    def traits(self, track):
        return Traits(harden_at=0.75 if track == "prune" else 1.0)

    def gate(self, weight):
        return ScoreGate(weight) if self.sparsity else Mask(weight)

    def gate_optimizer(self, steps):
        return GateOptimizer(rule="sgd", lr=0.1)

    def before_step(self, layers, at):
        if self.sparsity and at.step == 0:
            for layer in layers:
                draws = torch.rand(layer.dense.shape, generator=at.generator(layer)).to(layer.dense.device)
                at.assign(layer.gate.score, layer.dense.detach().abs() * draws)
        if self.sparsity and is_due(at):
            self.update(layers, at)

    def update(self, layers, at):
        scores = [layer.gate.score.detach() for layer in layers]
        for layer, keep in zip(layers, top_k_per_layer(scores, [layer.keep for layer in layers]), strict=True):
            layer.gate.keep.copy_(keep)

    def harden(self, layers, at, validate):
        if self.sparsity:
            self.update(layers, at)


SOUND = (Sound(sparsity=0.9), SoundScores(sparsity=0.9))
