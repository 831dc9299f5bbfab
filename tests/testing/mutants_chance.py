"""Broken pruners whose masks depend on chance, on the process, or on names.

Each is one of the sound pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
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
    """Its draws at step 0 are keyed on torch's global seed, which is not the run's."""

    def scores(self, layers, at):
        if at.step:
            return super().scores(layers, at)
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        return [torch.rand(layer.dense.shape, generator=generator) for layer in layers]

    def kept(self, layers, at):
        return still_kept(budget(layers), count(layers), (1 - (at.step + 1) / (at.harden_step + 1)) ** 3)


def jittered(layers, draws):
    """Magnitudes times numbers in [0.5, 1.5)."""
    return [layer.dense.detach().abs() * (0.5 + draw) for layer, draw in zip(layers, draws, strict=True)]


@dataclass(frozen=True, kw_only=True)
class ShufflesWithTorch(Sound):
    """It looks at the layers in an order drawn from torch's global state, though nothing depends on the order."""

    def scores(self, layers, at):
        torch.randperm(len(layers))
        return super().scores(layers, at)


@dataclass(frozen=True, kw_only=True)
class ShufflesWithPython(Sound):
    """It looks at the layers in an order drawn from Python's global state, though nothing depends on the order."""

    def scores(self, layers, at):
        random.shuffle(list(layers))
        return super().scores(layers, at)


class Noisy(Mask):
    """A mask with noise on the weights while training, from where `noise` says."""

    def __init__(self, weight, noise):
        super().__init__(weight)
        self.noise = noise

    def forward(self, weight):
        found = super().forward(weight)
        return found * self.noise(weight) if self.training else found


def torch_noise(weight):
    """Numbers near 1 from torch's global state."""
    return 0.95 + 0.1 * torch.rand_like(weight)


def numpy_noise(weight):
    """Numbers near 1 from numpy's global state."""
    return torch.from_numpy(0.95 + 0.1 * np.random.rand(*weight.shape)).to(weight)  # noqa: NPY002 - the fault


@dataclass(frozen=True, kw_only=True)
class NoiseFromTorch(Sound):
    """Its gates draw noise from torch's global state, which the harness happens to key."""

    def gate(self, weight):
        return Noisy(weight, torch_noise) if self.sparsity else Mask(weight)


@dataclass(frozen=True, kw_only=True)
class NoiseFromNumpy(Sound):
    """Its gates draw noise from numpy's global state, which nothing keys."""

    def gate(self, weight):
        return Noisy(weight, numpy_noise) if self.sparsity else Mask(weight)


class DrawsAlways(Mask):
    """A mask with noise on the weights, in evaluation too."""

    def forward(self, weight):
        if self._source is None:  # the harness looks at a gate before it can draw
            return super().forward(weight)
        noise = torch.rand(weight.shape, generator=self.draw(), device=weight.device)
        return super().forward(weight) * (0.95 + 0.1 * noise)


class DrawsWhenPruned(DrawsAlways):
    """The same from when it prunes on."""

    def forward(self, weight):
        return super().forward(weight) if not bool(self.keep.all()) else Mask.forward(self, weight)


@dataclass(frozen=True, kw_only=True)
class DrawsInEvaluation(Sound):
    """Its gates draw noise outside training too, so that what is folded depends on the step."""

    def gate(self, weight):
        return DrawsAlways(weight) if self.sparsity else Mask(weight)


@dataclass(frozen=True, kw_only=True)
class DrawsOncePruned(Sound):
    """Its gates draw noise outside training too, though not before they prune."""

    def gate(self, weight):
        return DrawsWhenPruned(weight)


class RemembersEvaluation(Mask):
    """A mask that remembers whether it was ever evaluated."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("evaluated", torch.zeros(1))

    def forward(self, weight):
        if not self.training:
            self.evaluated.fill_(1)
        return super().forward(weight)


@dataclass(frozen=True, kw_only=True)
class EvaluationLeavesTraces(Sound):
    """An evaluation of its gates outside training changes a buffer of theirs."""

    def gate(self, weight):
        return RemembersEvaluation(weight)


@dataclass(frozen=True, kw_only=True)
class DiffersByRank(Sound):
    """Every process draws masks of its own; their counts agree."""

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
            effective.register_hook(self.see)
        return effective

    def see(self, gradient):
        self.sensitivity.add_(gradient.detach().abs())


@dataclass(frozen=True, kw_only=True)
class SeesOneProcessOnly(Sound):
    """It prunes by gradients of this process's own images, taken before processes average them."""

    def gate(self, weight):
        return Sensitive(weight)

    def scores(self, layers, at):
        return [layer.gate.sensitivity + layer.dense.detach().abs() for layer in layers]

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.final.fill_(1)


@dataclass(frozen=True, kw_only=True)
class GoesOnSeeing(SeesOneProcessOnly):
    """Its gates add up gradients after hardening too, when nothing of a gate may change any more."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)


@dataclass(frozen=True, kw_only=True)
class FirstProcessValidates(Sound):
    """Only the first process asks for the validation accuracy, and waits for the others."""

    def harden(self, layers, at, validate):
        if os.environ.get("RANK", "0") == "0":
            validate()
        self.before_step(layers, at)


@dataclass(frozen=True, kw_only=True)
class SparesTheHead(Sound):
    """It keeps the layer that is called head whole."""

    def scores(self, layers, at):
        found = super().scores(layers, at)
        return [score + 100 * (layer.name == "head") for layer, score in zip(layers, found, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SeedsFromTheModel(Sound):
    """Its draws are keyed on the names of the network's parameters, which it finds through the engine."""

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
        EvaluationLeavesTraces,
        DiffersByRank,
        SeesOneProcessOnly,
        SparesTheHead,
        SeedsFromTheModel,
        GoesOnSeeing,
        FirstProcessValidates,
    )
)
