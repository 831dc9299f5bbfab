"""Faulty pruners that fail only under ZeRO, in another memory format, under autocast or on another device.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sound import Sound

from pruneboard.api import DenseGradientPruner, Mask, Traits
from pruneboard.scores import budget


@dataclass(frozen=True, kw_only=True)
class WritesInPlace(Sound):
    """Sets pruned weights to 0 in place, which the optimizer's copy of the weights undoes under ZeRO."""

    def after_step(self, layers, at):
        for layer in layers:
            with torch.no_grad():
                layer.dense.mul_(layer.gate.keep)


@dataclass(frozen=True, kw_only=True)
class WritesThroughView(Sound):
    """Writes masks through `view(-1)`, which fails for channels-last tensors."""

    def before_step(self, layers, at):
        for layer, mask in zip(layers, self.masks(layers, at), strict=True):
            layer.gate.keep.view(-1).copy_(mask.reshape(-1))


@dataclass(frozen=True, kw_only=True)
class WritesThroughCopy(Sound):
    """Writes masks through `reshape(-1)`, which returns a copy of channels-last tensors."""

    def before_step(self, layers, at):
        for layer, mask in zip(layers, self.masks(layers, at), strict=True):
            layer.gate.keep.reshape(-1).copy_(mask.reshape(-1))


@dataclass(frozen=True, kw_only=True)
class CountsDistinctValues(DenseGradientPruner):
    """Keeps gradients at or above the k-th largest distinct value; under autocast many are equal."""

    def traits(self, track):
        return Traits(harden_at=0.75)

    def wants_gradients(self, at):
        return self.sparsity > 0 and at.step == at.harden_step - 1

    def update(self, layers, dense_gradients, at):
        sizes = [gradient.abs() for gradient in dense_gradients]
        threshold = torch.cat([size.flatten() for size in sizes]).unique()[-budget(layers)]
        for layer, size in zip(layers, sizes, strict=True):
            layer.gate.set(size >= threshold)


class OnTheCpu(Mask):
    """A mask that adds a tensor created on the CPU."""

    def forward(self, weight):
        return super().forward(weight) + torch.zeros(weight.shape)


@dataclass(frozen=True, kw_only=True)
class StaysOnTheCpu(Sound):
    """Its gates create tensors on the CPU, whatever the device of the weight."""

    def gate(self, weight):
        return OnTheCpu(weight)


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        WritesInPlace,
        WritesThroughView,
        WritesThroughCopy,
        CountsDistinctValues,
    )
)

ON_CUDA = (StaysOnTheCpu(sparsity=0.9),)
"""Pruners that are correct on a CPU."""
