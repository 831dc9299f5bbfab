"""Faulty pruners whose fault is in the class definition, its options, traits, gates or docstring."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sound import Sound, SoundScores

from pruneboard.api import Mask, Traits

_calls = itertools.count()


class NotDecorated(Sound):
    """Only its base class is a frozen dataclass (2017)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EqualToNothing(Sound):
    """Compares by identity, so that its copy in another process is not equal to it (2017)."""

    __hash__ = object.__hash__


@dataclass(frozen=True, kw_only=True)
class TakesAFunction(Sound):
    """Its option `rank` is a function, which cannot be typed on the command line or pickled (2017)."""

    rank: Callable = lambda weight: weight.abs()

    def scores(self, layers, at):
        return [self.rank(layer.dense.detach()) for layer in layers]


@dataclass(frozen=True, kw_only=True)
class WrongAnnotation(Sound):
    """Its option `rate` is annotated as an integer, but the default is not one (2017)."""

    rate: int = 0.5


@dataclass(frozen=True, kw_only=True)
class UnknownAnnotation(Sound):
    """Its option `rates` has a type that cannot be parsed from text (2017)."""

    rates: dict | None = None


@dataclass(frozen=True, kw_only=True)
class ChangesItsTraits(Sound):
    """Its traits differ from call to call (2017)."""

    def traits(self, track):
        return Traits(harden_at=0.75, control="floor" if next(_calls) % 2 else "baseline")


@dataclass(frozen=True, kw_only=True)
class HardensHalfway(SoundScores):
    """Declares fine-tuning on the supermask track (2020)."""

    def traits(self, track):
        return Traits(harden_at=0.75)


@dataclass(frozen=True, kw_only=True)
class UnknownTrack(Sound):
    """Declares a track that does not exist (2017)."""

    tracks = frozenset({"prune", "quantize"})


class KeptAsBytes(Mask):
    """A mask whose `kept` returns bytes."""

    def kept(self, weight):
        return (self.keep != 0).to(torch.uint8)


class KeptWithExtraDimension(Mask):
    """A mask whose `kept` has one dimension more than the weight."""

    def kept(self, weight):
        return (self.keep != 0)[None]


@dataclass(frozen=True, kw_only=True)
class KeptIsNoBool(Sound):
    """Its gates return `kept` as bytes (2017)."""

    def gate(self, weight):
        return KeptAsBytes(weight)


@dataclass(frozen=True, kw_only=True)
class KeptHasAnotherShape(Sound):
    """Its gates return `kept` with one dimension too many (2017)."""

    def gate(self, weight):
        return KeptWithExtraDimension(weight)


@dataclass(frozen=True, kw_only=True)
class Uncited(Sound):
    """Names no source."""


@dataclass(frozen=True, kw_only=True)
class Unexplained(Sound):
    """Does not explain one of its options (2017)."""

    patience: int = 1


@dataclass(frozen=True, kw_only=True)
class NeedsAWeightPerLayer(Sound):
    """Assumes that the budget is at least one weight per layer (2017)."""

    def kept(self, layers, at):
        found = Sound.kept(self, layers, at)
        assert found >= len(layers)
        return found


@dataclass(frozen=True, kw_only=True)
class DividesTheBudget(Sound):
    """Prunes four times, even if the search has fewer steps (2017)."""

    def kept(self, layers, at):
        at.step % (at.harden_step // 4)
        return Sound.kept(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class ShowsTensors(Sound):
    """Its diagnostics are tensors (2017)."""

    def diagnostics(self, layers, at):
        return {"mean": layers[0].dense.detach().mean()}


@dataclass(frozen=True, kw_only=True)
class ShowsNaN(Sound):
    """Its diagnostics are NaN (2017)."""

    def diagnostics(self, layers, at):
        return {"threshold": math.nan}


@dataclass(frozen=True, kw_only=True)
class SkipsBaseValidation(Sound):
    """Validates its option `rate`, but no longer its sparsity (2017)."""

    rate: float = 0.5

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate is 0 or more; found {self.rate}")


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        NotDecorated,
        EqualToNothing,
        TakesAFunction,
        WrongAnnotation,
        UnknownAnnotation,
        ChangesItsTraits,
        HardensHalfway,
        UnknownTrack,
        KeptIsNoBool,
        KeptHasAnotherShape,
    )
)

ADVICE = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        Uncited,
        Unexplained,
        NeedsAWeightPerLayer,
        DividesTheBudget,
        ShowsTensors,
        ShowsNaN,
        SkipsBaseValidation,
    )
)
"""Faults that break no core rule."""
