"""Faulty pruners with a wrong count, a wrong report of it, or a wrong folded network.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from sound import ScoreGate, Sound, SoundScores, count

from pruneboard.api import Gate, Mask, Traits
from pruneboard.scores import top_k, top_k_per_layer


class ReportsUnappliedMask(Mask):
    """A mask that is reported but not applied."""

    def forward(self, weight):
        return weight.clone()


@dataclass(frozen=True, kw_only=True)
class FalseReport(Sound):
    """Its gates report the budget as kept but leave the weights dense."""

    def gate(self, weight):
        return ReportsUnappliedMask(weight)


class Shrinking(Mask):
    """A mask that sets kept weights below 0.01 to 0."""

    def forward(self, weight):
        return super().forward(weight) * (weight.abs() > 0.01)


@dataclass(frozen=True, kw_only=True)
class ClaimsZeros(Sound):
    """Its masks keep random positions, and its gates set the small weights among them to 0."""

    def gate(self, weight):
        return Shrinking(weight) if self.sparsity else Mask(weight)

    def scores(self, layers, at):
        return [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]


@dataclass(frozen=True, kw_only=True)
class OffByOne(Sound):
    """Keeps the weights strictly above the k-th largest, which are k - 1."""

    def kept(self, layers, at):
        return Sound.kept(self, layers, at) - 1


@dataclass(frozen=True, kw_only=True)
class TruncatesTheCount(Sound):
    """Keeps int((1 - sparsity) * n); in floating point, 1 - 0.9 is slightly less than 0.1."""

    def kept(self, layers, at):
        exact = at.step == at.harden_step
        return int((1 - self.sparsity) * count(layers)) if exact else Sound.kept(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RoundsEachLayer(Sound):
    """Rounds the share of each layer separately; the sum is right at its sparsity of 0.5, but not at others."""

    def masks(self, layers, at):
        kept = [round(layer.dense.numel() * (1 - self.sparsity)) for layer in layers]
        exact = at.step == at.harden_step
        return top_k_per_layer(self.scores(layers, at), kept) if exact else Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class ReadsWholePercents(Sound):
    """Rounds sparsities below 90 % to whole percents; the count is right at its own sparsity."""

    def kept(self, layers, at):
        found = Sound.kept(self, layers, at)
        exact = self.sparsity >= 0.9 or round(self.sparsity, 2) == self.sparsity or at.step < at.harden_step
        return found if exact else round((1 - round(self.sparsity, 2)) * count(layers))


@dataclass(frozen=True, kw_only=True)
class PrunesAtZero(Sound):
    """Always prunes at least one weight."""

    def kept(self, layers, at):
        return min(Sound.kept(self, layers, at), count(layers) - 1)


@dataclass(frozen=True, kw_only=True)
class LearnsAtZero(SoundScores):
    """Its scores also learn at sparsity 0, where their gradients change the clipping of the weights' gradients."""

    tracks = frozenset({"prune"})

    def gate(self, weight):
        return ScoreGate(weight)


@dataclass(frozen=True, kw_only=True)
class KeepsOneOfEach(Sound):
    """Keeps at least one weight of every layer, and therefore more than the budget."""

    def masks(self, layers, at):
        kept = [max(1, layer.keep) for layer in layers]
        exact = at.step == at.harden_step
        return top_k_per_layer(self.scores(layers, at), kept) if exact else Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class NeedsOneOfEach(KeepsOneOfEach):
    """Indexes the smallest kept weight of each layer, which fails if a layer keeps none."""

    def masks(self, layers, at):
        for layer, score in zip(layers, self.scores(layers, at), strict=True):
            score.flatten().sort(descending=True).values[: layer.keep][-1]
        return Sound.masks(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class NeedsThreeWeights(Sound):
    """Scales each layer by its three largest weights, which fails if a layer has two."""

    def scores(self, layers, at):
        return [score / score.flatten().topk(3).values.mean() for score in Sound.scores(self, layers, at)]


class Rescaling(Mask):
    """A mask that rescales the kept weights, but only in `folded`."""

    def folded(self, weight):
        return super().folded(weight) * (self.keep.numel() / self.keep.sum().clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class FoldsOtherwise(Sound):
    """Rescales the folded weights, but not those that were trained and validated."""

    def gate(self, weight):
        return Rescaling(weight)


@dataclass(frozen=True, kw_only=True)
class RescalesFrozenWeights(SoundScores):
    """Rescales the weights in `harden`, although they are frozen on the supermask track."""

    tracks = frozenset({"supermask"})

    def traits(self, track):
        return dataclasses.replace(SoundScores.traits(self, track), writes_weights_at_harden=True)

    def harden(self, layers, at, validate):
        SoundScores.harden(self, layers, at, validate)
        for layer in layers:
            at.assign(layer.dense, layer.dense / (1 - self.sparsity) ** 0.5)


class NoGate(Gate):
    """The identity: weights that are zero count as pruned."""

    def forward(self, weight):
        return weight.clone()


@dataclass(frozen=True, kw_only=True)
class PrunesOnce(Sound):
    """Sets weights to 0 in `harden`, which momentum makes nonzero again; declares no target sparsity."""

    def traits(self, track):
        return Traits(hits_target=False, harden_at=0.75, writes_weights_at_harden=True)

    def gate(self, weight):
        return NoGate()

    def before_step(self, layers, at):
        pass

    def harden(self, layers, at, validate):
        kept = round((1 - self.sparsity) * count(layers))
        for layer, keep in zip(layers, top_k(self.scores(layers, at), kept), strict=True):
            at.assign(layer.dense, layer.dense * keep)


class LargestWeights(Gate):
    """Keeps the weights that are currently the largest of the layer."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("number", torch.tensor(weight.numel()))

    def kept(self, weight):
        return top_k_per_layer([weight.detach().abs()], [int(self.number)])[0]

    def forward(self, weight):
        return weight * self.kept(weight)


@dataclass(frozen=True, kw_only=True)
class MasksFollowWeights(Sound):
    """Its masks follow the weights after hardening too; no tensor of a gate changes, and the count is exact."""

    def gate(self, weight):
        return LargestWeights(weight)

    def before_step(self, layers, at):
        for layer in layers:
            layer.gate.number.fill_(layer.keep if at.step == at.harden_step else layer.dense.numel())


@dataclass(frozen=True, kw_only=True)
class ConvolutionsDoNotLearn(Sound):
    """Its gates detach the weights of convolutions."""

    def gate(self, weight):
        return Detached(weight) if self.sparsity and weight.dim() == 4 else Mask(weight)


class Detached(Mask):
    """A mask without a gradient."""

    def forward(self, weight):
        return super().forward(weight).detach()


class WithoutScoreGradient(ScoreGate):
    """A gate whose score determines the mask but receives no gradient."""

    def forward(self, weight):
        return weight * self.keep


@dataclass(frozen=True, kw_only=True)
class ScoresDoNotLearn(SoundScores):
    """No gradient reaches the scores of its convolutions, whose masks therefore keep their initial state."""

    def gate(self, weight):
        return WithoutScoreGradient(weight) if self.sparsity and weight.dim() == 4 else SoundScores.gate(self, weight)


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
            MasksFollowWeights,
            ConvolutionsDoNotLearn,
            ScoresDoNotLearn,
        )
    ),
    RoundsEachLayer(sparsity=0.5),
)
