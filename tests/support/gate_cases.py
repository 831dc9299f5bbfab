"""A small network with masks or noisy gates, for tests of gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneboard.api import Gate, MaskPruner, Pruner
from pruneboard.models import prunable_layers
from pruneboard.scores import set_masks
from pruneboard.training.gates import (
    DrawKey,
    attach,
)


class Noise(Gate):
    """Adds keyed noise while training; has a parameter and a buffer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * self.scale
        noise = torch.rand(weight.shape, generator=self.draw(), device=weight.device)
        return weight * self.scale + noise


@dataclass(frozen=True, kw_only=True)
class Masked(MaskPruner):
    """Masks that keep everything until a test sets them."""


@dataclass(frozen=True, kw_only=True)
class Noisy(Pruner[Noise]):
    """Uses the noisy gate."""

    def gate(self, weight: Tensor) -> Noise:
        return Noise(weight)


def network() -> nn.Module:
    """Return a small network with biases, normalization and nested layers, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 6, 3, bias=False, groups=2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1)),
            nn.Flatten(),
            nn.Linear(6, 5),
        )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net


def gated(pruner, seed=0, *, net=None, hits_target=True):
    """Return a network with gates, its layers, and the key of its draws."""
    net = net or network()
    draw_key = DrawKey(seed)
    return net, attach(pruner, prunable_layers(net), draw_key, hits_target=hits_target), draw_key


def images(n=6) -> Tensor:
    """Return a batch of images, the same at every call."""
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def with_masks(net=None):
    """Return a masked network whose masks keep every third weight, and its layers."""
    net, layers, _ = gated(Masked(sparsity=0.5), net=net)
    set_masks(layers, [(torch.arange(x.dense.numel()) % 3 == 0).reshape(x.dense.shape) for x in layers])
    return net, layers
