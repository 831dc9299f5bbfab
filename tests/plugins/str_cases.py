"""Shared by the tests of STR: gated networks, thresholds and hooks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from torch import nn

from pruneboard.api import Progress
from pruneboard.training.gates import DrawKey, attach
from writer import Writer

FEW = settings(max_examples=30, deadline=None)


def normal(*shape, seed=0, dtype=torch.float64):
    """Normal random numbers from this seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published(weight, s):
    """The paper's formula in plain PyTorch, differentiable by autograd."""
    return torch.sign(weight) * torch.relu(torch.abs(weight) - torch.sigmoid(s))


def at(step=75, total=100, harden_step=75):
    """The state that hooks receive at `step` of a run of 100 steps that hardens at 75."""
    phase = "search" if step < harden_step else "finetune"
    return Progress(step, total, harden_step, phase, DrawKey(0).hook_generator, Writer())


def network(scales=(0.2, 0.05, 0.1), seed=0):
    """Three layers with 1,832 weights, normal with very different scales."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 38), nn.ReLU(), nn.Linear(38, 10))
    with torch.no_grad():
        for index, (module, scale) in enumerate(zip((net[0], net[2], net[4]), scales, strict=True)):
            module.weight.copy_(normal(*module.weight.shape, seed=seed + index, dtype=torch.float32) * scale)
    return net


def gated(pruner, thresholds=(-3.0, -1.0, -2.0), net=None):
    """Attach a pruner to a network in the middle of a search, where the layers' thresholds differ."""
    net = network() if net is None else net
    targets = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    layers = attach(pruner, targets, DrawKey(0), hits_target=pruner.traits("prune").hits_target)
    with torch.no_grad():
        for layer, s in zip(layers, thresholds, strict=True):
            layer.gate.threshold.fill_(s)
    return layers


def harden(pruner, layers):
    """Harden as the harness does; STR must not validate."""
    pruner.harden(layers, at(), lambda: pytest.fail("STR must not validate"))


def kept_count(layers):
    """The number of kept positions over all layers."""
    return sum(int(layer.gate.kept(layer.dense.detach()).sum()) for layer in layers)


def s_of(layers):
    """The s of every layer."""
    return [layer.gate.threshold.item() for layer in layers]


def map_weights(layers, function):
    """Replace every dense weight by a function of it."""
    with torch.no_grad():
        for layer in layers:
            layer.dense.copy_(function(layer.dense))
