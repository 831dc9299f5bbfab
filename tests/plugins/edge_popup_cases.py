"""Shared by the tests of edge-popup: gates, layers and hooks of a small network."""

from __future__ import annotations

import math

import torch
from hypothesis import settings
from torch import nn

from pruneboard.api import Progress
from pruneboard.training.gates import DrawKey, attach
from pruneboard_edge_popup import PopupGate
from writer import Writer

FEW = settings(max_examples=50, deadline=None)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
STEPS = 35_000


def generator(seed=0):
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(shape, seed=0, dtype=torch.float64):
    """Normal random numbers of this shape."""
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def gate_of(weight, score, keep):
    """A gate in front of `weight`, holding `score` in the weight's memory layout."""
    gate = PopupGate(weight)
    with torch.no_grad():
        gate.score.copy_(score)
    gate.set_budget(keep)
    return gate


def at(step, seed=0, total=STEPS) -> Progress:
    """The state that hooks receive at `step`; the search takes the whole budget."""
    draw_key = DrawKey(seed)
    draw_key.step = step
    return Progress(step, total, total, "search" if step < total else "finetune", draw_key.hook_generator, Writer())


def layers_of(pruner, layout=torch.contiguous_format):
    """The pruner's gates on two equal convolutions and a linear layer of frozen signed constants."""
    net = nn.ModuleDict({"one": nn.Conv2d(8, 20, 3), "two": nn.Conv2d(8, 20, 3), "head": nn.Linear(40, 30)})
    for index, module in enumerate(net.values()):
        module.weight.requires_grad_(False)
        sign = torch.randn(module.weight.shape, generator=generator(index)).sign()
        module.weight.copy_(sign * math.sqrt(2 / module.weight[0].numel()))
    return attach(pruner, list(net.to(memory_format=layout).items()), DrawKey(0), hits_target=True)
