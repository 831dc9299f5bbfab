"""A small network and its engine, which trains on the same images every time."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from pruneboard.spec import Recipe
from pruneboard.training.engine import Engine
from pruneboard.training.optim import parameter_groups

STAGES = (0, 1, 2)
RECIPE = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8, momentum=0.9, weight_decay=5e-4)


def network() -> nn.Sequential:
    """Return a small network, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


@contextmanager
def engine_at(zero, clip=0.0, device="cpu"):
    """Yield an engine over `network` at a ZeRO stage."""
    net = network()
    engine = Engine(
        net,
        parameter_groups(net, [], RECIPE, None),
        device=torch.device(device),
        micro_batch=8,
        clip=clip,
        zero=zero,
        precision="fp32",
    )
    yield engine
    engine.close()


def loss_of(forward, step, device="cpu"):
    """Return the loss of `forward` on the images of a step, the same at every call."""
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    return functional.cross_entropy(forward(images.to(device)), torch.arange(8, device=device))


def train(engine, steps):
    """Take some steps, each with two backward passes."""
    for step in steps:
        for half in range(2):
            engine.backward(loss_of(engine.forward, 2 * step + half, engine.device) / 2, last=half == 1)
        engine.step()
