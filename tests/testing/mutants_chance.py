"""Faulty pruners whose masks depend on global random states, on the process, or on names.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

import os
import random
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from sound import Sound, count

from pruneboard.api import Mask
from pruneboard.scores import budget, still_kept


@dataclass(frozen=True, kw_only=True)
class SeedsFromTheGlobalSeed(Sound):
    """Seeds its draws at step 0 with torch's global seed instead of the run's seed."""

    def scores(self, layers, at):
        if at.step:
            return super().scores(layers, at)
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        return [torch.rand(layer.dense.shape, generator=generator) for layer in layers]

    def kept(self, layers, at):
        return still_kept(budget(layers), count(layers), (1 - (at.step + 1) / (at.harden_step + 1)) ** 3)


def jittered(layers, draws):
    """Magnitudes times factors in [0.5, 1.5)."""
    return [layer.dense.detach().abs() * (0.5 + draw) for layer, draw in zip(layers, draws, strict=True)]


@dataclass(frozen=True, kw_only=True)
class ShufflesWithTorch(Sound):
    """Draws an order of the layers from torch's global state, although no result depends on the order."""

    def scores(self, layers, at):
        torch.randperm(len(layers))
        return super().scores(layers, at)


@dataclass(frozen=True, kw_only=True)
class ShufflesWithPython(Sound):
    """Draws an order of the layers from Python's global state, although no result depends on the order."""

    def scores(self, layers, at):
        random.shuffle(list(layers))
        return super().scores(layers, at)


class Noisy(Mask):
    """A mask that multiplies the weights by `noise(weight)` in training mode, until it is final."""

    def __init__(self, weight, noise):
        super().__init__(weight)
        self.noise = noise
        self.register_buffer("final", torch.zeros(1))

    def forward(self, weight):
        found = super().forward(weight)
        return found * self.noise(weight) if self.training and not self.final else found


def torch_noise(weight):
    """Factors near 1 from torch's global random state."""
    return 0.95 + 0.1 * torch.rand_like(weight)


def numpy_noise(weight):
    """Factors near 1 from numpy's global random state."""
    return torch.from_numpy(0.95 + 0.1 * np.random.rand(*weight.shape)).to(weight)  # noqa: NPY002 - the fault


@dataclass(frozen=True, kw_only=True)
class NoiseFromTorch(Sound):
    """Its gates draw noise from torch's global random state, which the harness happens to seed."""

    def gate(self, weight):
        return Noisy(weight, torch_noise) if self.sparsity else Mask(weight)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers if self.sparsity else ():
            layer.gate.final.fill_(1)


@dataclass(frozen=True, kw_only=True)
class NoiseFromNumpy(NoiseFromTorch):
    """Its gates draw noise from numpy's global random state, which the harness does not seed."""

    def gate(self, weight):
        return Noisy(weight, numpy_noise) if self.sparsity else Mask(weight)


class DrawsAlways(Mask):
    """A mask that multiplies the weights by noise in evaluation mode too."""

    def forward(self, weight):
        if self._source is None:  # the harness evaluates a gate once before the gate can draw
            return super().forward(weight)
        noise = torch.rand(weight.shape, generator=self.draw(), device=weight.device)
        return super().forward(weight) * (0.95 + 0.1 * noise)


class DrawsWhenPruned(DrawsAlways):
    """The same, but only once the mask prunes something."""

    def forward(self, weight):
        return super().forward(weight) if not bool(self.keep.all()) else Mask.forward(self, weight)


@dataclass(frozen=True, kw_only=True)
class DrawsInEvaluation(Sound):
    """Its gates draw noise in evaluation mode too, so that the folded weight depends on the step."""

    def gate(self, weight):
        return DrawsAlways(weight) if self.sparsity else Mask(weight)


@dataclass(frozen=True, kw_only=True)
class DrawsOncePruned(Sound):
    """Its gates draw noise in evaluation mode too, but not before they prune."""

    def gate(self, weight):
        return DrawsWhenPruned(weight)


class RemembersEvaluation(Mask):
    """A mask that stores whether it was called in evaluation mode."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("evaluated", torch.zeros(1))

    def forward(self, weight):
        if not self.training:
            self.evaluated.fill_(1)
        return super().forward(weight)


@dataclass(frozen=True, kw_only=True)
class EvaluationChangesState(Sound):
    """A call of its gates in evaluation mode changes a buffer."""

    def gate(self, weight):
        return RemembersEvaluation(weight)


@dataclass(frozen=True, kw_only=True)
class DiffersByRank(Sound):
    """Every process draws its own masks; only the counts agree."""

    def scores(self, layers, at):
        generator = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))
        return jittered(layers, [torch.rand(layer.dense.shape, generator=generator) for layer in layers])


class Sensitive(Mask):
    """A mask that adds up the absolute gradients of its effective weight."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("sensitivity", torch.zeros_like(weight))
        self.register_buffer("final", torch.zeros(1))

    def forward(self, weight):
        effective = super().forward(weight)
        if effective.requires_grad and not self.final:
            effective.register_hook(self.accumulate)
        return effective

    def accumulate(self, gradient):
        self.sensitivity.add_(gradient.detach().abs())


@dataclass(frozen=True, kw_only=True)
class SeesOneProcessOnly(Sound):
    """Prunes by the gradients of this process's images, before the processes average them."""

    def gate(self, weight):
        return Sensitive(weight)

    def scores(self, layers, at):
        return [layer.gate.sensitivity + layer.dense.detach().abs() for layer in layers]

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.final.fill_(1)


@dataclass(frozen=True, kw_only=True)
class AccumulatesAfterHardening(SeesOneProcessOnly):
    """Its gates accumulate gradients after hardening too, when no tensor of a gate may change."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)


@dataclass(frozen=True, kw_only=True)
class FirstProcessValidates(Sound):
    """Only the first process calls `validate`, and waits for the others."""

    def harden(self, layers, at, validate):
        if os.environ.get("RANK", "0") == "0":
            validate()
        self.before_step(layers, at)


@dataclass(frozen=True, kw_only=True)
class SparesTheHead(Sound):
    """Never prunes the layer named `head`."""

    def scores(self, layers, at):
        found = super().scores(layers, at)
        return [score + 100 * (layer.name == "head") for layer, score in zip(layers, found, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SeedsFromTheModel(Sound):
    """Seeds its draws with the names of the network's parameters, which it gets from the engine."""

    def scores(self, layers, at):
        names = ",".join(name for name, _ in at.durable.model.named_parameters())
        generator = torch.Generator().manual_seed(zlib.crc32(names.encode()))
        return jittered(layers, [torch.rand(layer.dense.shape, generator=generator) for layer in layers])


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        SeedsFromTheGlobalSeed,
        ShufflesWithTorch,
        ShufflesWithPython,
        NoiseFromTorch,
        NoiseFromNumpy,
        DrawsInEvaluation,
        DrawsOncePruned,
        EvaluationChangesState,
        DiffersByRank,
        SeesOneProcessOnly,
        SparesTheHead,
        SeedsFromTheModel,
        AccumulatesAfterHardening,
        FirstProcessValidates,
    )
)
