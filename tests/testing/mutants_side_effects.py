"""Faulty pruners that change something other than their own state.

Each is one of the correct pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from sound import Sound, SoundScores
from torch import nn

from pruneboard import scores
from pruneboard.api import MaskPruner, ScoringPruner
from pruneboard.experiment import audit


@dataclass(frozen=True, kw_only=True)
class MovesBiases(Sound):
    """Compensates for pruned weights with biases of the batch normalization, which it gets from the engine."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for module in normalizations(at):
            at.assign(module.bias, module.bias + 0.1 * self.sparsity)


@dataclass(frozen=True, kw_only=True)
class ChangesNormalization(Sound):
    """Sets the momentum of batch normalization, which is not a tensor."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        for module in normalizations(at):
            module.momentum = 0.5


@dataclass(frozen=True, kw_only=True)
class HooksIntoTheNetwork(Sound):
    """Registers forward hooks on the network to read activations."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        if at.step == 0:
            for module in normalizations(at):
                module.register_forward_hook(peek)


def peek(module, given, found):
    """A forward hook that does nothing."""


def normalizations(at):
    """The batch normalization modules of the network."""
    return [module for module in at.durable.model.modules() if isinstance(module, nn.BatchNorm2d)]


@dataclass(frozen=True, kw_only=True)
class ProbesTheNetwork(Sound):
    """Runs the network on noise in a hook, in forward passes that are not counted."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        mode = at.durable.model.training
        at.durable.model.eval()
        with torch.no_grad():
            at.durable.model(torch.rand(2, 3, 8, 8, generator=at.generator()))
        at.durable.model.train(mode)


@dataclass(frozen=True, kw_only=True)
class SetsTheProcess(Sound):
    """Changes a global setting of torch."""

    def before_step(self, layers, at):
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class WritesTheEnvironment(Sound):
    """Passes its sparsity to its gates through an environment variable."""

    def before_step(self, layers, at):
        os.environ["MY_SPARSITY"] = f"{self.sparsity} {at.step}"
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class InitializesInAHook(Sound):
    """Scales the initial weights in the first hook."""

    def before_step(self, layers, at):
        if at.step == 0:
            for layer in layers:
                at.assign(layer.dense, layer.dense * (1 + self.sparsity))
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class InitializesInTheGate(Sound):
    """Scales the initial weights in `gate`."""

    def gate(self, weight):
        weight.mul_(1 + self.sparsity)
        return MaskPruner.gate(self, weight)


@dataclass(frozen=True, kw_only=True)
class LeavesEvaluationMode(Sound):
    """Switches the network to evaluation mode and does not switch it back."""

    def before_step(self, layers, at):
        at.durable.model.eval()
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class LeavesGatesInEvaluationMode(Sound):
    """Switches its gates to evaluation mode in `harden` and does not switch them back."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.eval()


@dataclass(frozen=True, kw_only=True)
class FreezesScores(SoundScores):
    """Sets `requires_grad` of its scores to False in `harden`, which has no effect under ZeRO."""

    def harden(self, layers, at, validate):
        SoundScores.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class UnfreezesWeights(SoundScores):
    """Sets `requires_grad` of the weights to True, even on the supermask track."""

    def before_step(self, layers, at):
        for layer in layers:
            layer.dense.requires_grad_(True)
        SoundScores.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RaisesTheRate(Sound):
    """Raises the learning rate of the weights."""

    def before_step(self, layers, at):
        for group in at.durable.groups:
            group["lr"] *= 1 + self.sparsity
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class SkipsDecay(Sound):
    """Moves its weights to the optimizer's parameter group without weight decay."""

    def before_step(self, layers, at):
        groups = {group["name"]: group["params"] for group in at.durable.groups}
        if self.sparsity:
            groups["rest"] += groups["weights"]
            groups["weights"].clear()
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class ReplacesTheAudit(Sound):
    """Replaces the harness's audit function."""

    def before_step(self, layers, at):
        audit.check_budget = accept
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RewritesTheBudget(Sound):
    """Replaces the code object of the harness's function that computes the budget."""

    def before_step(self, layers, at):
        scores.kept_of.__code__ = all_of.__code__
        Sound.before_step(self, layers, at)

    def kept(self, layers, at):
        return scores.kept_of(sum(layer.dense.numel() for layer in layers), self.sparsity)


def accept(counts, keep):
    """An audit that accepts everything."""


def all_of(n, sparsity):
    """A budget that contains every weight."""
    return n


@dataclass(frozen=True, kw_only=True)
class ValidatesLater(Sound):
    """Stores `validate`, which is valid only during `harden`, and calls it later."""

    stored: list = field(default_factory=list, init=False, repr=False, compare=False)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        self.stored.append(validate)

    def diagnostics(self, layers, at):
        return {"accuracy": self.stored[-1]() if self.stored else 0.0}


@dataclass(frozen=True, kw_only=True)
class ReadsAhead(ScoringPruner):
    """Stores the batches, which are valid only during `score`, and reads from them later."""

    stored: list = field(default_factory=list, init=False, repr=False, compare=False)

    def score(self, view, batches):
        self.stored.append(batches)
        return [layer.dense.detach().abs() for layer in view.layers]

    def diagnostics(self, layers, at):
        images, _ = next(self.stored[-1])
        return {"brightness": float(images.mean())}


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        MovesBiases,
        ChangesNormalization,
        HooksIntoTheNetwork,
        ProbesTheNetwork,
        SetsTheProcess,
        WritesTheEnvironment,
        InitializesInAHook,
        InitializesInTheGate,
        LeavesEvaluationMode,
        LeavesGatesInEvaluationMode,
        FreezesScores,
        UnfreezesWeights,
        RaisesTheRate,
        SkipsDecay,
        ReplacesTheAudit,
        RewritesTheBudget,
        ValidatesLater,
        ReadsAhead,
    )
)
