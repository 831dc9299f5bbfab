"""Broken pruners whose fault is in what they keep, what they say they keep, or what the folded network is.

Each is one of the sound pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sound import ScoreGate, Sound, SoundScores, count

from pruneboard.api import Gate, Mask, Traits
from pruneboard.scores import top_k, top_k_per_layer


class SaysItPrunes(Mask):
    """A mask that is reported, and not applied."""

    def forward(self, weight):
        return weight.clone()


@dataclass(frozen=True, kw_only=True)
class FalseReport(Sound):
    """Its gates say that they keep the budget, and leave the weights dense."""

    def gate(self, weight):
        return SaysItPrunes(weight)


class Shrinking(Mask):
    """A mask that lets kept weights below 0.01 be 0."""

    def forward(self, weight):
        return super().forward(weight) * (weight.abs() > 0.01)


@dataclass(frozen=True, kw_only=True)
class ClaimsZeros(Sound):
    """Its masks keep a random budget, of which its gates set the small weights to 0."""

    def gate(self, weight):
        return Shrinking(weight) if self.sparsity else Mask(weight)

    def scores(self, layers, at):
        return [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]


@dataclass(frozen=True, kw_only=True)
class OffByOne(Sound):
    """It keeps what is above the smallest of the k largest weights, which are k - 1."""

    def kept(self, layers, at):
        return Sound.kept(self, layers, at) - 1


@dataclass(frozen=True, kw_only=True)
class TruncatesTheCount(Sound):
    """It keeps int((1 - sparsity) * n), where floats make 0.09999 of 1 - 0.9."""

    def kept(self, layers, at):
        exact = at.step == at.harden_step
        return int((1 - self.sparsity) * count(layers)) if exact else Sound.kept(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RoundsEachLayer(Sound):
    """It rounds the share of each layer by itself, which adds up at its own sparsity of 0.5 and not at others."""

    def masks(self, layers, at):
        kept = [round(layer.dense.numel() * (1 - self.sparsity)) for layer in layers]
        exact = at.step == at.harden_step
        return top_k_per_layer(self.scores(layers, at), kept) if exact else Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class ReadsWholePercents(Sound):
    """It prunes by whole percents below 90 %, so that its count is right at its own sparsity."""

    def kept(self, layers, at):
        found = Sound.kept(self, layers, at)
        exact = self.sparsity >= 0.9 or round(self.sparsity, 2) == self.sparsity or at.step < at.harden_step
        return found if exact else round((1 - round(self.sparsity, 2)) * count(layers))


@dataclass(frozen=True, kw_only=True)
class PrunesAtZero(Sound):
    """It always prunes at least one weight."""

    def kept(self, layers, at):
        return min(Sound.kept(self, layers, at), count(layers) - 1)


@dataclass(frozen=True, kw_only=True)
class LearnsAtZero(SoundScores):
    """Its scores learn at sparsity 0 too, and share the weights' gradient norm there."""

    tracks = frozenset({"prune"})

    def gate(self, weight):
        return ScoreGate(weight)


@dataclass(frozen=True, kw_only=True)
class KeepsOneOfEach(Sound):
    """It keeps at least one weight of every layer, and so more than the budget."""

    def masks(self, layers, at):
        kept = [max(1, layer.keep) for layer in layers]
        exact = at.step == at.harden_step
        return top_k_per_layer(self.scores(layers, at), kept) if exact else Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class NeedsOneOfEach(KeepsOneOfEach):
    """It looks for the smallest weight that a layer keeps, where a layer may keep none."""

    def masks(self, layers, at):
        for layer, score in zip(layers, self.scores(layers, at), strict=True):
            score.flatten().sort(descending=True).values[: layer.keep][-1]
        return Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class NeedsThreeWeights(Sound):
    """It takes the scale of a layer from its three largest weights, where a layer may have two."""

    def scores(self, layers, at):
        return [score / score.flatten().topk(3).values.mean() for score in Sound.scores(self, layers, at)]


class Rescaling(Mask):
    """A mask that rescales what is left, in the folded weight only."""

    def folded(self, weight):
        return super().folded(weight) * (self.keep.numel() / self.keep.sum().clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class FoldsOtherwise(Sound):
    """Its folded weights are rescaled for what is pruned, and those that were trained and validated are not."""

    def gate(self, weight):
        return Rescaling(weight)


@dataclass(frozen=True, kw_only=True)
class RescalesFrozenWeights(SoundScores):
    """In hardening it rescales the weights, which on the supermask track are frozen."""

    tracks = frozenset({"supermask"})

    def harden(self, layers, at, validate):
        SoundScores.harden(self, layers, at, validate)
        for layer in layers:
            at.assign(layer.dense, layer.dense / (1 - self.sparsity) ** 0.5)


class Bare(Gate):
    """No gate at all: what is zero is pruned."""

    def forward(self, weight):
        return weight.clone()


@dataclass(frozen=True, kw_only=True)
class PrunesOnce(Sound):
    """In hardening it sets weights to 0, which momentum revives; it reports whatever sparsity emerges."""

    def traits(self, track):
        return Traits(hits_target=False, harden_at=0.75)

    def gate(self, weight):
        return Bare()

    def before_step(self, layers, at):
        pass

    def harden(self, layers, at, validate):
        kept = round((1 - self.sparsity) * count(layers))
        for layer, keep in zip(layers, top_k(self.scores(layers, at), kept), strict=True):
            at.assign(layer.dense, layer.dense * keep)


class Live(Gate):
    """Keeps the largest weights of the layer, whichever they are now."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("number", torch.tensor(weight.numel()))

    def kept(self, weight):
        return top_k_per_layer([weight.detach().abs()], [int(self.number)])[0]

    def forward(self, weight):
        return weight * self.kept(weight)


@dataclass(frozen=True, kw_only=True)
class MovesOn(Sound):
    """Its masks follow the weights after hardening too: no tensor of a gate changes, and the count is exact."""

    def gate(self, weight):
        return Live(weight)

    def before_step(self, layers, at):
        for layer in layers:
            layer.gate.number.fill_(layer.keep if at.step == at.harden_step else layer.dense.numel())


@dataclass(frozen=True, kw_only=True)
class ConvolutionsDoNotLearn(Sound):
    """Its gates detach the weights of convolutions."""

    def gate(self, weight):
        return Detached(weight) if self.sparsity and weight.dim() == 4 else Mask(weight)


class Detached(Mask):
    """A mask through which no gradient goes."""

    def forward(self, weight):
        return super().forward(weight).detach()


class Blind(ScoreGate):
    """A gate whose score decides the mask and receives no gradient."""

    def forward(self, weight):
        return weight * self.keep


@dataclass(frozen=True, kw_only=True)
class ScoresDoNotLearn(SoundScores):
    """No gradient reaches the scores of its convolutions, whose masks stay what they were at the start."""

    def gate(self, weight):
        return Blind(weight) if self.sparsity and weight.dim() == 4 else SoundScores.gate(self, weight)


MUTANTS = (
    *(
        mutant(sparsity=0.9)
        for mutant in (
            FalseReport,
            ClaimsZeros,
            OffByOne,
            TruncatesTheCount,
            ReadsWholePercents,
            PrunesAtZero,
            LearnsAtZero,
            KeepsOneOfEach,
            NeedsOneOfEach,
            NeedsThreeWeights,
            FoldsOtherwise,
            RescalesFrozenWeights,
            PrunesOnce,
            MovesOn,
            ConvolutionsDoNotLearn,
            ScoresDoNotLearn,
        )
    ),
    RoundsEachLayer(sparsity=0.5),
)
