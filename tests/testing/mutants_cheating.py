"""Faulty pruners that get around a rule of the interface: they end early, write late, or change the process.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import torch
from sound import Sound

from pruneboard.api import Mask
from pruneboard.training import loop
from pruneboard.training.evaluate import Metrics


@dataclass(frozen=True, kw_only=True)
class ExitsQuietly(Sound):
    """Calls `sys.exit(0)` in a hook."""

    def before_step(self, layers, at):
        sys.exit(0)


@dataclass(frozen=True, kw_only=True)
class EndsTheProcess(Sound):
    """Calls `os._exit(0)` in a hook, which raises no exception."""

    def before_step(self, layers, at):
        os._exit(0)


@dataclass(frozen=True, kw_only=True)
class DiagnosticsChangeWeights(Sound):
    """Its diagnostics assign a weight."""

    def diagnostics(self, layers, at):
        at.assign(layers[0].dense, layers[0].dense * (1 - 0.01 * self.sparsity))
        return {"largest": float(layers[0].dense.detach().max())}


@dataclass(frozen=True, kw_only=True)
class DiagnosticsWriteInPlace(Sound):
    """Its diagnostics write to a weight in place, which no version counter shows."""

    def diagnostics(self, layers, at):
        layers[0].dense.data.mul_(0.99)
        return {}


@dataclass(frozen=True, kw_only=True)
class DiagnosticsClearMomentum(Sound):
    """Its diagnostics reset the momentum of a weight."""

    def diagnostics(self, layers, at):
        at.reset_optimizer_state(layers[0].dense, torch.ones_like(layers[0].dense, dtype=torch.bool))
        return {}


@dataclass(frozen=True, kw_only=True)
class ClimbsOnValidation(Sound):
    """Validates 31 times while it hardens, and keeps the best of as many masks."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        best = [layer.gate.keep.clone() for layer in layers]
        highest = validate()
        for _ in range(30):
            for layer in layers:
                layer.gate.keep.copy_(layer.gate.keep.flatten().roll(1).reshape(layer.gate.keep.shape))
            if (found := validate()) > highest:
                highest, best = found, [layer.gate.keep.clone() for layer in layers]
        for layer, keep in zip(layers, best, strict=True):
            layer.gate.keep.copy_(keep)


@dataclass(frozen=True, kw_only=True)
class CatchesTheLimit(Sound):
    """Validates more often than it declares, and catches the error that this raises."""

    def traits(self, track):
        return dataclasses.replace(Sound.traits(self, track), max_validations=0)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        try:
            validate()
        except Exception:  # noqa: BLE001 - it must not matter what is caught
            return


@dataclass(frozen=True, kw_only=True)
class HardensWeights(Sound):
    """Changes weights while it hardens, and does not declare it."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            at.assign(layer.dense, layer.dense * (1 + 0.1 * self.sparsity))


@dataclass(frozen=True, kw_only=True)
class ReplacesTheEvaluation(Sound):
    """Replaces the function of the harness that evaluates."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        loop.evaluate = perfect


def perfect(*_):
    """An evaluation in which every image is classified correctly."""
    return Metrics(top1=1.0, top5=None, loss=0.0, correct=32, count=32, worst_class_top1=1.0)


class Refilled(Mask):
    """A mask that is filled while gradients are computed, and emptied before it is evaluated."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("final", torch.zeros(1))
        self.register_buffer("emptied", torch.zeros_like(weight))

    def write(self, keep):
        self.keep.copy_(keep)

    def forward(self, weight):
        if self.final and not self.training:
            self.write(self.emptied)
        effective = weight * self.keep.clone()  # a copy: autograd itself notices writes to what it saves
        if self.final and effective.requires_grad:
            effective.register_hook(lambda _: self.write(torch.ones_like(self.keep)))
        return effective


class RefilledUnseen(Refilled):
    """The same, by writes that no version counter shows."""

    def write(self, keep):
        self.keep.data.copy_(keep)


@dataclass(frozen=True, kw_only=True)
class RefillsMasks(Sound):
    """Trains all weights after hardening, by masks that are full except when they are compared."""

    def gate(self, weight):
        return Refilled(weight)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.emptied.copy_(layer.gate.keep)
            layer.gate.final.fill_(1)


@dataclass(frozen=True, kw_only=True)
class RefillsMasksUnseen(RefillsMasks):
    """The same, by writes that no version counter shows."""

    def gate(self, weight):
        return RefilledUnseen(weight)


class DenseInTraining(Mask):
    """A mask that, once final, prunes in evaluation mode only."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("final", torch.zeros(1))

    def forward(self, weight):
        return weight.clone() if self.final and self.training else super().forward(weight)


@dataclass(frozen=True, kw_only=True)
class TrainsDense(Sound):
    """Trains the dense network after hardening; its gates prune in evaluation mode only."""

    def gate(self, weight):
        return DenseInTraining(weight)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.final.fill_(1)


class WritesWhenEvaluated(Mask):
    """A mask that writes to the weight whenever it is evaluated."""

    def forward(self, weight):
        if not self.training and self._source is not None:
            weight.data.mul_(0.99)
        return super().forward(weight)


@dataclass(frozen=True, kw_only=True)
class GatesWrite(Sound):
    """Its gates write to the weights when they are evaluated."""

    def gate(self, weight):
        return WritesWhenEvaluated(weight)


@dataclass(frozen=True, kw_only=True)
class HooksIntoGradients(Sound):
    """Leaves a gradient hook on a weight."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        if at.step == 1:
            layers[0].dense.register_hook(lambda gradient: gradient * 2)


@dataclass(frozen=True, kw_only=True)
class HooksEveryModule(Sound):
    """Registers a global hook of torch's modules."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        if at.step == 1:
            torch.nn.modules.module.register_module_forward_hook(ignore)


def ignore(*_):
    """A hook that does nothing."""


@dataclass(frozen=True, kw_only=True)
class LeavesAThread(Sound):
    """Leaves a thread running."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        if at.step == 1:
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()


@dataclass(frozen=True, kw_only=True)
class IgnoresSigterm(Sound):
    """Ignores SIGTERM, so that the run cannot be stopped."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class FlushesDenormals(Sound):
    """Makes the processor treat denormal numbers as zero."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        torch.set_flush_denormal(True)


@dataclass(frozen=True, kw_only=True)
class TurnsOneDnnOff(Sound):
    """Turns torch's use of oneDNN off."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        torch.backends.mkldnn.set_flags(False)


@dataclass(frozen=True, kw_only=True)
class ChangesTheFolder(Sound):
    """Changes the working directory."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        os.chdir("/")


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        ExitsQuietly,
        EndsTheProcess,
        DiagnosticsChangeWeights,
        DiagnosticsWriteInPlace,
        DiagnosticsClearMomentum,
        ClimbsOnValidation,
        CatchesTheLimit,
        HardensWeights,
        ReplacesTheEvaluation,
        RefillsMasks,
        RefillsMasksUnseen,
        TrainsDense,
        GatesWrite,
        HooksIntoGradients,
        HooksEveryModule,
        LeavesAThread,
        IgnoresSigterm,
        FlushesDenormals,
        TurnsOneDnnOff,
        ChangesTheFolder,
    )
)
