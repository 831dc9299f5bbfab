"""Methods that each break one rule of the interface. Without its fault, each is one-shot magnitude pruning."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import torch

from pruneboard.api import Mask, MaskPruner, Traits
from pruneboard.scores import budget, set_masks, top_k


@dataclass(frozen=True, kw_only=True)
class Honest(MaskPruner):
    """Keeps the largest weights; `cheat` is called in every step of the search."""

    def traits(self, track):
        return Traits(harden_at=0.5)

    def before_step(self, layers, at):
        self.cheat(layers, at)
        if at.step == at.harden_step:
            set_masks(layers, top_k([layer.dense.detach().abs() for layer in layers], budget(layers)))

    def cheat(self, layers, at):
        pass


@dataclass(frozen=True, kw_only=True)
class Diagnostics(Honest):
    """Assigns weights in `diagnostics`, which is also called after the last step."""

    def diagnostics(self, layers, at):
        for layer in layers:
            at.assign(layer.dense, layer.dense.detach() * 0.5)
        return {}


@dataclass(frozen=True, kw_only=True)
class InPlace(Honest):
    """Writes weights in `diagnostics`, past the interface."""

    def diagnostics(self, layers, at):
        for layer in layers:
            layer.dense.data.mul_(0.5)
        return {}


@dataclass(frozen=True, kw_only=True)
class Climb(Honest):
    """Searches for good masks by validation, 31 times."""

    def harden(self, layers, at, validate):
        super().harden(layers, at, validate)
        for _ in range(31):
            validate()


@dataclass(frozen=True, kw_only=True)
class PaidClimb(Climb):
    """The same, but declared."""

    def traits(self, track):
        return Traits(harden_at=0.5, max_validations=31)


@dataclass(frozen=True, kw_only=True)
class Weights(Honest):
    """Writes weights while it hardens."""

    def harden(self, layers, at, validate):
        super().harden(layers, at, validate)
        for layer in layers:
            at.assign(layer.dense, layer.dense.detach() * 0.5)


@dataclass(frozen=True, kw_only=True)
class DeclaredWeights(Weights):
    """The same, but declared."""

    def traits(self, track):
        return Traits(harden_at=0.5, writes_weights_at_harden=True)


class RefilledMask(Mask):
    """A mask that a gradient hook fills, and the next evaluation empties."""

    def __init__(self, weight):
        super().__init__(weight)
        self.register_buffer("final", torch.ones_like(weight))

    def forward(self, weight):
        if not self.training:
            self.keep.data.copy_(self.final)
        effective = weight * self.keep
        if effective.requires_grad:
            effective.register_hook(lambda _: self.keep.data.fill_(1))
        return effective


@dataclass(frozen=True, kw_only=True)
class Refill(Honest):
    """Trains all weights while it fine-tunes."""

    def gate(self, weight):
        return RefilledMask(weight)

    def before_step(self, layers, at):
        super().before_step(layers, at)
        for layer in layers:
            layer.gate.final.copy_(layer.gate.keep)


@dataclass(frozen=True, kw_only=True)
class Hook(Honest):
    """Leaves a gradient hook on a weight."""

    def cheat(self, layers, at):
        if at.step == 1:
            layers[0].dense.register_hook(lambda gradient: gradient * 2)


@dataclass(frozen=True, kw_only=True)
class SysExit(Honest):
    """Leaves quietly."""

    def cheat(self, layers, at):
        sys.exit(0)


@dataclass(frozen=True, kw_only=True)
class OsExit(Honest):
    """Leaves without an exception."""

    def cheat(self, layers, at):
        os._exit(0)


@dataclass(frozen=True, kw_only=True)
class Exec(Honest):
    """Replaces its process by one that succeeds."""

    def cheat(self, layers, at):
        os.execv("/bin/true", ["true"])


@dataclass(frozen=True, kw_only=True)
class Folder(Honest):
    """Changes the working directory."""

    def cheat(self, layers, at):
        os.chdir("/")


@dataclass(frozen=True, kw_only=True)
class Harness(Honest):
    """Replaces the function that evaluates."""

    def cheat(self, layers, at):
        from pruneboard.training import evaluate, loop

        real = evaluate.evaluate
        loop.evaluate = lambda *arguments: dataclasses.replace(real(*arguments), top1=1.0)


@dataclass(frozen=True, kw_only=True)
class Record(Honest):
    """Makes the finished record invalid, through an object that the harness keeps."""

    def cheat(self, layers, at):
        frame = sys._getframe()
        while "job" not in frame.f_locals or "training" not in frame.f_locals:
            frame = frame.f_back
        frame.f_locals["job"].base_record["seed"] = "any"


class DenseInTraining(Mask):
    """A mask that prunes in evaluation mode only."""

    def forward(self, weight):
        return weight.clone() if self.training else super().forward(weight)


@dataclass(frozen=True, kw_only=True)
class Modes(Honest):
    """Trains the dense network to the end."""

    def gate(self, weight):
        return DenseInTraining(weight)


@dataclass(frozen=True, kw_only=True)
class Thread(Honest):
    """Leaves a thread that works between two comparisons."""

    def cheat(self, layers, at):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()


@dataclass(frozen=True, kw_only=True)
class GlobalHook(Honest):
    """Registers a hook of every module."""

    def cheat(self, layers, at):
        if at.step == 1:
            torch.nn.modules.module.register_module_forward_hook(lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Denormals(Honest):
    """Changes the arithmetic of the processor."""

    def cheat(self, layers, at):
        torch.set_flush_denormal(True)


@dataclass(frozen=True, kw_only=True)
class OneDnn(Honest):
    """Turns off the library that computes convolutions."""

    def cheat(self, layers, at):
        torch.backends.mkldnn.set_flags(False)


@dataclass(frozen=True, kw_only=True)
class Sigterm(Honest):
    """Cannot be stopped."""

    def cheat(self, layers, at):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class Sparsity(Honest):
    """Prunes half of the weights, whatever was asked for."""

    def cheat(self, layers, at):
        object.__setattr__(self, "sparsity", 0.5)


@dataclass(frozen=True, kw_only=True)
class Optimizer(Honest):
    """Trains with another learning rate."""

    def cheat(self, layers, at):
        for group in at.durable.groups:
            group["peak_lr"] *= 3


@dataclass(frozen=True, kw_only=True)
class TwoSteps(Honest):
    """Takes two optimizer steps where one is taken."""

    def cheat(self, layers, at):
        if at.step == 0:
            optimizer = at.durable.optimizers[0]
            step = optimizer.step
            optimizer.step = lambda closure=None: (step(), step())


@dataclass(frozen=True, kw_only=True)
class Layers(Honest):
    """Removes a layer, which would then not be pruned."""

    def cheat(self, layers, at):
        del layers[0]


class OtherFold(Mask):
    """A mask that folds to a weight that was not trained."""

    def folded(self, weight):
        return weight.sign() * self.keep


@dataclass(frozen=True, kw_only=True)
class Fold(Honest):
    """Ends with weights of its own."""

    def gate(self, weight):
        return OtherFold(weight)


class MovingMask(Mask):
    """A mask that moves in training, and that the gate's saved state does not contain."""

    def __init__(self, weight):
        super().__init__(weight)
        self.moving = [self.keep]

    def set(self, keep):
        self.moving[0] = keep.to(self.keep.dtype)

    def forward(self, weight):
        if self.training and torch.is_grad_enabled():
            self.moving[0] = self.moving[0].roll(1, 0)
        return weight * self.moving[0]

    def kept(self, weight):
        return self.moving[0] != 0


@dataclass(frozen=True, kw_only=True)
class Moving(Honest):
    """Continues to search after it hardened."""

    def gate(self, weight):
        return MovingMask(weight)


class SecretMask(Mask):
    """A mask that moves in training, and denies that it has a state."""

    def state_dict(self, *arguments, **named):
        return {}

    def forward(self, weight):
        if torch.is_grad_enabled():
            self.keep.copy_(self.keep.roll(1, 0))
        return weight * self.keep


@dataclass(frozen=True, kw_only=True)
class Secret(Honest):
    """Hides the state of its gates."""

    def gate(self, weight):
        return SecretMask(weight)


@dataclass(frozen=True, kw_only=True)
class EarlyHarness(Honest):
    """Replaces a function of the harness before the training starts."""

    def gate(self, weight):
        from pruneboard.training import loop

        loop.recalibrate = lambda run: None
        return Mask(weight)


@dataclass(frozen=True, kw_only=True)
class EarlyWeights(Honest):
    """Changes the initial weights."""

    def gate(self, weight):
        weight.mul_(0.5)
        return Mask(weight)


@dataclass(frozen=True, kw_only=True)
class EarlySettings(Honest):
    """Changes the process before the training starts."""

    def gate_optimizer(self, steps):
        torch.set_flush_denormal(True)


class Deferred(float):
    """A number that writes weights when it is discarded."""

    def __del__(self):
        for layer in self.layers:
            layer.dense.data.mul_(0.5)


@dataclass(frozen=True, kw_only=True)
class Late(Honest):
    """Writes weights after `diagnostics`."""

    def diagnostics(self, layers, at):
        number = Deferred(1)
        number.layers = layers
        return {"number": number}


@dataclass(frozen=True, kw_only=True)
class Constructor(Honest):
    """Replaces the constructor of the metrics."""

    def cheat(self, layers, at):
        from pruneboard.training.evaluate import Metrics

        Metrics.__init__ = lambda metrics, **values: metrics.__dict__.update(values, top1=1.0)


class Unreadable(Exception):  # noqa: N818
    """An error whose message raises another one."""

    def __str__(self):
        raise Unreadable


@dataclass(frozen=True, kw_only=True)
class Message(Honest):
    """Raises an error without a readable message."""

    def cheat(self, layers, at):
        raise Unreadable


@dataclass(frozen=True, kw_only=True)
class Umask(Honest):
    """Makes the files of the run unreadable."""

    def cheat(self, layers, at):
        os.umask(0o777)
