"""Broken pruners whose fault is where their state is.

Each is one of the sound pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from sound import EVERY, Sound, count

from pruneboard.api import Mask
from pruneboard.scores import budget, still_kept

_updates = {"done": 0}


@dataclass(frozen=True, kw_only=True)
class CountsOnTheGate(Sound):
    """The number of updates so far, by which it prunes, is a Python number on a gate."""

    def kept(self, layers, at):
        gate = layers[0].gate
        gate.updates = getattr(gate, "updates", 0) + 1
        return after_updates(gate.updates, layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsInTheModule(Sound):
    """The number of updates so far, by which it prunes, is a global variable of its module."""

    def kept(self, layers, at):
        _updates["done"] = 1 if at.step == 0 else _updates["done"] + 1
        return after_updates(_updates["done"], layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsOnTheClass(Sound):
    """The number of updates so far, by which it prunes, is an attribute of its class."""

    updates: ClassVar[int] = 0

    def kept(self, layers, at):
        type(self).updates = 1 if at.step == 0 else self.updates + 1
        return after_updates(self.updates, layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsOnItself(Sound):
    """The number of updates so far, by which it prunes, is on the pruner, put there past the frozen dataclass."""

    def kept(self, layers, at):
        object.__setattr__(self, "updates", 1 if at.step == 0 else getattr(self, "updates", 0) + 1)
        return after_updates(self.updates, layers, at)


def after_updates(done, layers, at):
    """The ramp of the sound pruner, by updates made instead of steps taken."""
    share = 1 - min(1.0, (done - 1) * EVERY / at.harden_step)
    return budget(layers) if at.step == at.harden_step else still_kept(budget(layers), count(layers), share**3)


@dataclass(frozen=True, kw_only=True)
class LogsOnTheClass(Sound):
    """A list on its class, which all its trainings share, grows with every update; no mask depends on it."""

    log: ClassVar[list[int]] = []

    def kept(self, layers, at):
        self.log.append(at.step)
        return Sound.kept(self, layers, at)


class Averaging(Mask):
    """A mask with a running average of |w|, kept in the way that the mutant says."""

    def __init__(self, weight, hold):
        super().__init__(weight)
        hold(self, weight.abs())


@dataclass(frozen=True, kw_only=True)
class AveragesInAnAttribute(Sound):
    """The running average of magnitudes, by which it prunes, is a plain attribute of the gate."""

    def gate(self, weight):
        return Averaging(weight, lambda gate, start: setattr(gate, "average", start.clone()))

    def after_step(self, layers, at):
        for layer in layers:
            layer.gate.average.lerp_(layer.dense.detach().abs(), 0.1)

    def scores(self, layers, at):
        return [layer.gate.average for layer in layers]


@dataclass(frozen=True, kw_only=True)
class AveragesUnsaved(AveragesInAnAttribute):
    """The running average of magnitudes, by which it prunes, is a buffer that is not persistent."""

    def gate(self, weight):
        return Averaging(weight, lambda gate, start: gate.register_buffer("average", start.clone(), persistent=False))


@dataclass(frozen=True, kw_only=True)
class CachesTensors(Sound):
    """A list on each gate holds tensors: the magnitudes of this very step, so that no result depends on it."""

    def scores(self, layers, at):
        for layer in layers:
            layer.gate.cached = [layer.dense.detach().abs()]
        return [layer.gate.cached[0] for layer in layers]


@dataclass(frozen=True, kw_only=True)
class OwnsAGenerator(Sound):
    """Each gate has a generator of its own, whose state no checkpoint has."""

    def scores(self, layers, at):
        for layer in layers:
            if not hasattr(layer.gate, "own"):
                layer.gate.own = torch.Generator().manual_seed(layer.index)
        return [
            layer.dense.detach().abs() * (0.5 + torch.rand(layer.dense.shape, generator=layer.gate.own))
            for layer in layers
        ]


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        CountsOnTheGate,
        CountsInTheModule,
        CountsOnTheClass,
        CountsOnItself,
        LogsOnTheClass,
        AveragesInAnAttribute,
        AveragesUnsaved,
        CachesTensors,
        OwnsAGenerator,
    )
)
