"""Broken pruners whose fault is that they touch what is not theirs.

Each is one of the sound pruners (arXiv:1710.01878, arXiv:1911.13299) with one fault.
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
    """It makes up for pruned weights with biases of the normalization, which it finds through the engine."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for module in normalizations(at):
            at.assign(module.bias, module.bias + 0.1 * self.sparsity)


@dataclass(frozen=True, kw_only=True)
class ChangesNormalization(Sound):
    """It sets a number of the normalization, which no tensor shows."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        for module in normalizations(at):
            module.momentum = 0.5


@dataclass(frozen=True, kw_only=True)
class HooksIntoTheNetwork(Sound):
    """It looks at activations through hooks that it registers on the network."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        if at.step == 0:
            for module in normalizations(at):
                module.register_forward_hook(peek)


def peek(module, given, found):
    """What a hook sees."""


def normalizations(at):
    """The batch normalizations of the network."""
    return [module for module in at.durable.model.modules() if isinstance(module, nn.BatchNorm2d)]


@dataclass(frozen=True, kw_only=True)
class ProbesTheNetwork(Sound):
    """It runs the network on noise to find weights that matter, in passes that nobody counts."""

    def before_step(self, layers, at):
        Sound.before_step(self, layers, at)
        mode = at.durable.model.training
        at.durable.model.eval()
        with torch.no_grad():
            at.durable.model(torch.rand(2, 3, 8, 8, generator=at.generator()))
        at.durable.model.train(mode)


@dataclass(frozen=True, kw_only=True)
class SetsTheProcess(Sound):
    """It sets a mode of torch for its own kernels, and with it for all others."""

    def before_step(self, layers, at):
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class TalksThroughTheEnvironment(Sound):
    """It leaves its sparsity in the environment, for its gates to find."""

    def before_step(self, layers, at):
        os.environ["MY_SPARSITY"] = f"{self.sparsity} {at.step}"
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class InitializesInAHook(Sound):
    """It starts from larger weights than all others, set in the first hook."""

    def before_step(self, layers, at):
        if at.step == 0:
            for layer in layers:
                at.assign(layer.dense, layer.dense * (1 + self.sparsity))
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class InitializesInTheGate(Sound):
    """It starts from larger weights than all others, set where gates are made."""

    def gate(self, weight):
        weight.mul_(1 + self.sparsity)
        return MaskPruner.gate(self, weight)


@dataclass(frozen=True, kw_only=True)
class LeavesEvaluationMode(Sound):
    """It puts the network into evaluation mode to look at it, and leaves it there."""

    def before_step(self, layers, at):
        at.durable.model.eval()
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class LeavesGatesInEvaluationMode(Sound):
    """It puts its gates into evaluation mode in hardening, and leaves them there."""

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.eval()


@dataclass(frozen=True, kw_only=True)
class FreezesScores(SoundScores):
    """It sets `requires_grad` of its scores to False in hardening, which under ZeRO does nothing."""

    def harden(self, layers, at, validate):
        SoundScores.harden(self, layers, at, validate)
        for layer in layers:
            layer.gate.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class UnfreezesWeights(SoundScores):
    """It sets `requires_grad` of the weights to True, also on the supermask track."""

    def before_step(self, layers, at):
        for layer in layers:
            layer.dense.requires_grad_(True)
        SoundScores.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RaisesTheRate(Sound):
    """It raises the learning rate of the weights."""

    def before_step(self, layers, at):
        for group in at.durable.groups:
            group["lr"] *= 1 + self.sparsity
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class SkipsDecay(Sound):
    """It moves its weights to the optimizer's group that has no weight decay."""

    def before_step(self, layers, at):
        groups = {group["name"]: group["params"] for group in at.durable.groups}
        if self.sparsity:
            groups["rest"] += groups["weights"]
            groups["weights"].clear()
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class ReplacesTheAudit(Sound):
    """It replaces the function that counts what is left."""

    def before_step(self, layers, at):
        audit.check_budget = accept
        Sound.before_step(self, layers, at)


@dataclass(frozen=True, kw_only=True)
class RewritesTheBudget(Sound):
    """It exchanges the code of the function that says how many weights are the budget."""

    def before_step(self, layers, at):
        scores.kept_of.__code__ = all_of.__code__
        Sound.before_step(self, layers, at)

    def kept(self, layers, at):
        return scores.kept_of(sum(layer.dense.numel() for layer in layers), self.sparsity)


def accept(counts, keep):
    """An audit that finds nothing."""


def all_of(n, sparsity):
    """A budget of everything."""
    return n


@dataclass(frozen=True, kw_only=True)
class ValidatesLater(Sound):
    """It keeps `validate`, which is lent to hardening, and selects by it later."""

    lent: list = field(default_factory=list, init=False, repr=False, compare=False)

    def harden(self, layers, at, validate):
        Sound.harden(self, layers, at, validate)
        self.lent.append(validate)

    def diagnostics(self, layers, at):
        return {"accuracy": self.lent[-1]() if self.lent else 0.0}


@dataclass(frozen=True, kw_only=True)
class ReadsAhead(ScoringPruner):
    """It keeps the images that it is lent for scoring, and draws from them in training."""

    lent: list = field(default_factory=list, init=False, repr=False, compare=False)

    def score(self, view, batches):
        self.lent.append(batches)
        return [layer.dense.detach().abs() for layer in view.layers]

    def diagnostics(self, layers, at):
        images, _ = next(self.lent[-1])
        return {"brightness": float(images.mean())}


MUTANTS = tuple(
    mutant(sparsity=0.9)
    for mutant in (
        MovesBiases,
        ChangesNormalization,
        HooksIntoTheNetwork,
        ProbesTheNetwork,
        SetsTheProcess,
        TalksThroughTheEnvironment,
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
