"""Shared by the tests of GMP: three layers, and a run of forty steps through the hooks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pruneboard.api import Progress
from pruneboard.training.gates import DrawKey, attach

ALLOCATIONS = ["uniform", "global", "erk", "lamp"]
SHAPES = [(8, 3, 3, 3), (40, 30), (10, 40)]
SIZES = [math.prod(shape) for shape in SHAPES]
TOTAL = 40
WINDOW = {"begin": 0.2, "end": 0.65, "interval": 0.1}
"""In 40 steps: from step 8 to 26, every 4 steps, which does not divide the window of 18."""
UPDATES = [8, 12, 16, 20, 24, 26]


def layers_of(pruner, sizes=None, seed=0):
    """Attach a pruner to normal weights: of SHAPES with different scales, or of flat layers with these sizes."""
    if sizes is None:
        net = {"conv": nn.Conv2d(3, 8, 3), "wide": nn.Linear(30, 40), "head": nn.Linear(40, 10)}
    else:
        net = {f"layer{i}": nn.Linear(n, 1) for i, n in enumerate(sizes)}
    layers = attach(pruner, list(net.items()), DrawKey(0), hits_target=True)
    redraw(layers, seed)
    return layers


def redraw(layers, seed):
    """Replace the weights of every layer by new draws, to stand for any training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, scale in zip(layers, itertools.cycle((1.0, 0.1, 3.0)), strict=False):
            layer.dense.copy_(torch.randn(layer.dense.shape, generator=generator) * scale)


def at(pruner, step, total=TOTAL) -> Progress:
    """The state that hooks receive at `step` of a run of `total` steps, which hardens where the harness would."""
    harden = round(pruner.traits("prune").harden_at * total)
    return Progress(
        step, total, harden, "search" if step < harden else "finetune", DrawKey(0).hook_generator, durable=None
    )


def drive(pruner, layers, total=TOTAL, start=0, moving=True):
    """Call the hooks as the training loop does; yield (step, masks) after each step, through hardening."""
    for step in range(start, at(pruner, 0, total).harden_step + 1):
        now = at(pruner, step, total)
        if moving:
            redraw(layers, step)
        if step < now.harden_step:
            pruner.before_step(layers, now)
        else:
            pruner.harden(layers, now, lambda: pytest.fail("GMP must not validate"))
        yield step, [layer.gate.keep.clone() for layer in layers]


def counts(masks) -> list[int]:
    """The number of kept positions of each layer."""
    return [int(mask.sum()) for mask in masks]
