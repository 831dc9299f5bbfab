"""The random control: exactly k positions, uniformly random, equal for equal seeds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruneboard.api import Progress
from pruneboard.scores import budget, erk, kept_of, uniform
from pruneboard.training.gates import DrawKey, attach
from pruneboard_random import Random

ALLOCATIONS = ["uniform", "global", "erk"]
SHAPES = {"conv": (8, 3, 3, 3), "wide": (40, 30), "head": (10, 40)}
SIZES = [math.prod(shape) for shape in SHAPES.values()]


def masks_of(sparsity, allocation, seed=0, step=0) -> list[torch.Tensor]:
    """The masks that a run with this seed trains under."""
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "wide": nn.Linear(30, 40), "head": nn.Linear(40, 10)})
    pruner = Random(sparsity=sparsity, allocation=allocation)
    draw_key = DrawKey(seed)
    draw_key.step = step
    layers = attach(pruner, list(net.items()), draw_key, hits_target=True)
    at = Progress(step, 10, step, "finetune", draw_key.hook_generator, durable=None)
    pruner.harden(layers, at, lambda: pytest.fail("the random control must not validate"))
    assert budget(layers) == kept_of(sum(SIZES), sparsity)
    return [layer.gate.kept(layer.dense) for layer in layers]


def counts(masks) -> list[int]:
    """The number of kept positions per layer."""
    return [int(mask.sum()) for mask in masks]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(sparsity=st.floats(0, 0.99))
@settings(deadline=None, max_examples=15)
def test_exactly_the_budget_is_kept(allocation, sparsity):
    """At any sparsity and under any allocation the masks keep exactly k positions."""
    assert sum(counts(masks_of(sparsity, allocation))) == kept_of(sum(SIZES), sparsity)


@pytest.mark.parametrize(
    ("allocation", "expected"), [("uniform", uniform(SIZES, 182)), ("erk", erk(list(SHAPES.values()), 182))]
)
def test_layer_counts_follow_the_allocation(allocation, expected):
    """Under `uniform` and `erk` each layer's count is that of `pruneboard.scores`."""
    assert kept_of(sum(SIZES), 0.9) == 182
    assert counts(masks_of(0.9, allocation)) == expected


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_mask_depends_on_the_seed_only(allocation):
    """Equal seeds give equal masks, other seeds others, whatever the global generator's state."""
    one, again, other = (masks_of(0.5, allocation, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        moved = masks_of(0.5, allocation, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, moved, strict=True))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_every_position_of_a_layer_is_equally_likely(allocation):
    """Over seeds, each position is kept at its layer's rate, within five standard errors."""
    runs = 60
    drawn = [masks_of(0.7, allocation, seed) for seed in range(runs)]
    for layer in range(3):
        rates = torch.stack([masks[layer] for masks in drawn]).double().mean(0)
        mean = rates.mean()
        assert bool(((rates - mean).abs() < 5 * (mean * (1 - mean) / runs).sqrt() + 1e-9).all())


def test_global_masks_vary_in_their_layer_counts():
    """Under `global` every layer's mean rate is the network's, and its count varies from seed to seed."""
    drawn = torch.tensor([counts(masks_of(0.7, "global", seed)) for seed in range(60)], dtype=torch.float64)
    sizes = torch.tensor(SIZES)
    assert bool(((drawn.mean(0) / sizes - 0.3).abs() < 5 * (0.21 / (60 * sizes)).sqrt()).all())
    assert bool((drawn.std(0) > 0).all())


def test_layers_draw_independently():
    """Two layers of one shape get different masks."""
    net = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Linear(20, 20)})
    pruner, draw_key = Random(sparsity=0.5), DrawKey(0)
    layers = attach(pruner, list(net.items()), draw_key, hits_target=True)
    pruner.harden(layers, Progress(0, 10, 0, "finetune", draw_key.hook_generator, durable=None), lambda: 0.0)
    assert not torch.equal(layers[0].gate.keep, layers[1].gate.keep)


def test_traits():
    """The random control hardens at 0, takes one pass per step, is the floor, and runs on both tracks."""
    traits = Random(sparsity=0.9).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.0, True, 1, "floor")
    assert Random(sparsity=0.9).tracks == {"prune", "supermask"}
