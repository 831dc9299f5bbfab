"""Broken pruners whose fault is in the class itself, or in what it says of itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sound import Sound, SoundScores

from pruneboard.api import Mask, Traits

_asked = itertools.count()


class NotDecorated(Sound):
    """It is a class of which only the base is a frozen dataclass (2017)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EqualToNothing(Sound):
    """It compares by identity, so that a copy in another process is another pruner (2017)."""

    __hash__ = object.__hash__


@dataclass(frozen=True, kw_only=True)
class TakesAFunction(Sound):
    """Its option `rank` is a function, which neither a command line nor another process can be given (2017)."""

    rank: Callable = lambda weight: weight.abs()

    def scores(self, layers, at):
        return [self.rank(layer.dense.detach()) for layer in layers]


@dataclass(frozen=True, kw_only=True)
class WrongAnnotation(Sound):
    """Its option `rate` is annotated as a whole number, and its default is none (2017)."""

    rate: int = 0.5


@dataclass(frozen=True, kw_only=True)
class UnknownAnnotation(Sound):
    """Its option `rates` is of a type that no text can be read as (2017)."""

    rates: dict | None = None


@dataclass(frozen=True, kw_only=True)
class ChangesItsTraits(Sound):
    """Its traits are other ones whenever they are asked (2017)."""

    def traits(self, track):
        return Traits(harden_at=0.75, control="floor" if next(_asked) % 2 else "baseline")


@dataclass(frozen=True, kw_only=True)
class HardensHalfway(SoundScores):
    """On the supermask track it declares a share of the budget for fine-tuning (2020)."""

    def traits(self, track):
        return Traits(harden_at=0.75)


@dataclass(frozen=True, kw_only=True)
class UnknownTrack(Sound):
    """It names a track that there is not (2017)."""

    tracks = frozenset({"prune", "quantize"})


class CountsInBytes(Mask):
    """A mask that says what it keeps as bytes."""

    def kept(self, weight):
        return (self.keep != 0).to(torch.uint8)


class Stacked(Mask):
    """A mask that says what it keeps with a dimension more than the weight has."""

    def kept(self, weight):
        return (self.keep != 0)[None]


@dataclass(frozen=True, kw_only=True)
class KeptIsNoBool(Sound):
    """Its gates say what they keep as bytes (2017)."""

    def gate(self, weight):
        return CountsInBytes(weight)


@dataclass(frozen=True, kw_only=True)
class KeptHasAnotherShape(Sound):
    """Its gates say what they keep with one dimension too many (2017)."""

    def gate(self, weight):
        return Stacked(weight)


@dataclass(frozen=True, kw_only=True)
class Uncited(Sound):
    """It names no source."""


@dataclass(frozen=True, kw_only=True)
class Unexplained(Sound):
    """It says nothing of one of its options (2017)."""

    patience: int = 1


@dataclass(frozen=True, kw_only=True)
class NeedsAWeightPerLayer(Sound):
    """It takes for granted that there is a weight to keep for every layer (2017)."""

    def kept(self, layers, at):
        found = Sound.kept(self, layers, at)
        assert found >= len(layers)
        return found


@dataclass(frozen=True, kw_only=True)
class DividesTheBudget(Sound):
    """It prunes four times, however few steps there are (2017)."""

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
    """Its diagnostics are no numbers (2017)."""

    def diagnostics(self, layers, at):
        return {"threshold": math.nan}


@dataclass(frozen=True, kw_only=True)
class ShrinksWhenLookedAt(Sound):
    """Its diagnostics change a weight (2017)."""

    def diagnostics(self, layers, at):
        at.assign(layers[0].dense, layers[0].dense * (1 - 0.01 * self.sparsity))
        return {"largest": float(layers[0].dense.detach().max())}


@dataclass(frozen=True, kw_only=True)
class ForgetsItsBase(Sound):
    """It checks its option `rate`, and no longer its sparsity (2017)."""

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
        ShrinksWhenLookedAt,
        ForgetsItsBase,
    )
)
"""They break no rule that a board depends on."""
