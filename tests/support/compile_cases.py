"""A small network with gates that no compiler follows, trained with and without torch.compile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneboard.api import Gate, Pruner
from pruneboard.models import gated_layers
from pruneboard.spec import Recipe
from pruneboard.training import gates
from pruneboard.training.compiling import CompiledNetwork
from pruneboard.training.engine import Engine
from pruneboard.training.evaluate import batch_norms, frozen_batch_statistics
from pruneboard.training.optim import parameter_groups

CPU = torch.device("cpu")

RECIPE = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8)


class UncompilableGate(Gate):
    """Does what torch.compile cannot trace: draws from a generator, branches on values, counts in a Python integer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(weight.shape))
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        shifted = weight + self.shift
        if not self.training or float(shifted.detach().sum()) == 0:
            return shifted
        return shifted * torch.rand(weight.shape, generator=self.draw())


@dataclass(frozen=True, kw_only=True)
class UncompilablePruner(Pruner[UncompilableGate]):
    """Uses the gate above."""

    def gate(self, weight: Tensor) -> UncompilableGate:
        return UncompilableGate(weight)


def normalized() -> nn.Sequential:
    """Return a small network with batch normalization, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        conv, end = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 10)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), end)


def images(count, seed=0) -> Tensor:
    """Return images, the same at every call."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def build_engine(*, compiled, net=None, zero=0, precision="fp32"):
    """Return an engine over a small network with uncompilable gates, its layers, and the key of their draws."""
    net = net or normalized()
    draw_key = gates.DrawKey(0)
    pruner = UncompilablePruner(sparsity=0.5)
    layers = gates.attach(pruner, gated_layers(net), draw_key, hits_target=True)
    groups = parameter_groups(net, [], RECIPE, None)
    stand_in = CompiledNetwork(net, "small") if compiled else None
    engine = Engine(net, groups, device=CPU, micro_batch=8, clip=3.0, zero=zero, precision=precision, compiled=stand_in)
    return engine, layers, draw_key


def train(engine, draw_key, step) -> None:
    """Take a step of two passes with a learning rate of its own; the second pass does not update statistics."""
    draw_key.step = step
    engine.model.train()
    for group in engine.groups:
        group["lr"] = 0.1 / (1 + step)
    for index in range(2):
        draw_key.forward_pass = index
        with frozen_batch_statistics(batch_norms(engine.model) if index else ()):
            loss = engine.forward(images(8, step)).square().mean()
        engine.backward(loss, last=index == 1)
    engine.step()
