"""Faulty pruners that keep state in the wrong place.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
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
    """Prunes by the number of updates so far, a Python number stored on a gate."""

    def kept(self, layers, at):
        gate = layers[0].gate
        gate.updates = getattr(gate, "updates", 0) + 1
        return after_updates(gate.updates, layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsInTheModule(Sound):
    """Prunes by the number of updates so far, a global variable of the module."""

    def kept(self, layers, at):
        _updates["done"] = 1 if at.step == 0 else _updates["done"] + 1
        return after_updates(_updates["done"], layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsOnTheClass(Sound):
    """Prunes by the number of updates so far, an attribute of the class."""

    updates: ClassVar[int] = 0

    def kept(self, layers, at):
        type(self).updates = 1 if at.step == 0 else self.updates + 1
        return after_updates(self.updates, layers, at)


@dataclass(frozen=True, kw_only=True)
class CountsOnItself(Sound):
    """Prunes by the number of updates so far, set on the pruner with `object.__setattr__`."""

    def kept(self, layers, at):
        object.__setattr__(self, "updates", 1 if at.step == 0 else getattr(self, "updates", 0) + 1)
        return after_updates(self.updates, layers, at)


def after_updates(done, layers, at):
    """The schedule of the correct pruner, by number of updates instead of steps."""
    share = 1 - min(1.0, (done - 1) * EVERY / at.harden_step)
    return budget(layers) if at.step == at.harden_step else still_kept(budget(layers), count(layers), share**3)


@dataclass(frozen=True, kw_only=True)
class LogsOnTheClass(Sound):
    """Appends to a list on the class with every update; no mask depends on the list."""

    log: ClassVar[list[int]] = []

    def kept(self, layers, at):
        self.log.append(at.step)
        return Sound.kept(self, layers, at)


class Averaging(Mask):
    """A mask with a running average of |w|, which `hold` stores on the gate."""

    def __init__(self, weight, hold):
        super().__init__(weight)
        hold(self, weight.abs())


@dataclass(frozen=True, kw_only=True)
class AveragesInAnAttribute(Sound):
    """Prunes by a running average of magnitudes, a plain attribute of the gate."""

    def gate(self, weight):
        return Averaging(weight, lambda gate, start: setattr(gate, "average", start.clone()))

    def after_step(self, layers, at):
        for layer in layers:
            layer.gate.average.lerp_(layer.dense.detach().abs(), 0.1)

    def scores(self, layers, at):
        return [layer.gate.average for layer in layers]


@dataclass(frozen=True, kw_only=True)
class AveragesUnsaved(AveragesInAnAttribute):
    """Prunes by a running average of magnitudes, a non-persistent buffer of the gate."""

    def gate(self, weight):
        return Averaging(weight, lambda gate, start: gate.register_buffer("average", start.clone(), persistent=False))


@dataclass(frozen=True, kw_only=True)
class CachesTensors(Sound):
    """Stores tensors in a list on each gate; they are recomputed in each step, so no result depends on them."""

    def scores(self, layers, at):
        for layer in layers:
            layer.gate.cached = [layer.dense.detach().abs()]
        return [layer.gate.cached[0] for layer in layers]


@dataclass(frozen=True, kw_only=True)
class OwnsAGenerator(Sound):
    """Each gate has its own random generator, whose state is not in the checkpoint."""

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
