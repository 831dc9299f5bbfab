"""Magnitude pruning: one mask of the largest weights, of exactly the budget."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruneboard.api import Progress
from pruneboard.scores import budget, erk, kept_of, lamp, uniform
from pruneboard.training.gates import DrawKey, attach
from pruneboard_magnitude import Magnitude

ALLOCATIONS = ["global", "uniform", "erk", "lamp"]
SHAPES = [(8, 3, 3, 3), (40, 30), (10, 40)]
SIZES = [math.prod(shape) for shape in SHAPES]
HARDEN = 5


def layers_of(pruner, seed=0):
    """Attach a pruner to normal weights whose scales differ per layer."""
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "wide": nn.Linear(30, 40), "head": nn.Linear(40, 10)})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for scale, module in zip((1.0, 0.1, 3.0), net.values(), strict=True):
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
    return attach(pruner, list(net.items()), DrawKey(0), hits_target=True)


def at(step) -> Progress:
    """The state that hooks receive at `step` of a run of 10 steps that hardens at 5."""
    return Progress(
        step, 10, HARDEN, "search" if step < HARDEN else "finetune", DrawKey(0).hook_generator, durable=None
    )


def pruned(sparsity=0.9, allocation="global", seed=0):
    """Hardened layers."""
    pruner = Magnitude(sparsity=sparsity, allocation=allocation)
    layers = layers_of(pruner, seed)
    pruner.harden(layers, at(HARDEN), lambda: pytest.fail("magnitude pruning must not validate"))
    return layers


def assert_kept_are_highest(scores, keeps) -> None:
    """Assert that no pruned score is above a kept one."""
    dropped, kept = scores[~keeps], scores[keeps]
    assert not len(dropped) or not len(kept) or dropped.max() <= kept.min()


def flat(layers, score=torch.Tensor.abs):
    """Scores and masks of all layers, each as one vector."""
    scores = torch.cat([score(layer.dense.detach()).flatten() for layer in layers])
    return scores, torch.cat([layer.gate.kept(layer.dense).flatten() for layer in layers])


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(sparsity=st.floats(0, 0.99), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_exactly_the_budget_is_kept(allocation, sparsity, seed):
    """At any sparsity and under any allocation the masks keep exactly k positions."""
    layers = pruned(sparsity, allocation, seed)
    kept = sum(int(layer.gate.keep.sum()) for layer in layers)
    assert kept == budget(layers) == kept_of(sum(SIZES), sparsity)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_layers_keep_their_largest_magnitudes(allocation):
    """Under every allocation, a layer's largest pruned weight is at most its smallest kept one."""
    for layer in pruned(0.8, allocation):
        assert_kept_are_highest(layer.dense.detach().abs(), layer.gate.kept(layer.dense))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_global_keeps_the_largest_of_the_whole_network(sparsity):
    """Over all layers together, the largest pruned magnitude is at most the smallest kept one."""
    assert_kept_are_highest(*flat(pruned(sparsity, "global")))


def test_lamp_keeps_the_highest_scores_of_the_whole_network():
    """Over all layers together, no pruned LAMP score is above a kept one."""
    assert_kept_are_highest(*flat(pruned(0.9, "lamp"), score=lambda weight: lamp([weight])[0]))


@pytest.mark.parametrize(("allocation", "expected"), [("uniform", uniform(SIZES, 182)), ("erk", erk(SHAPES, 182))])
def test_layer_counts_follow_the_allocation(allocation, expected):
    """Under `uniform` and `erk` each layer's count is that of `pruneboard.scores`."""
    assert [int(layer.gate.keep.sum()) for layer in pruned(0.9, allocation)] == expected


def test_lamp_keeps_a_layer_that_global_empties():
    """A layer of small weights is emptied by `global` and keeps some under `lamp`."""
    (_, globally, _), (_, adaptively, _) = pruned(0.9, "global"), pruned(0.9, "lamp")
    assert int(globally.gate.keep.sum()) == 0
    assert int(adaptively.gate.keep.sum()) > 0


@pytest.mark.parametrize("step", [step for step in range(11) if step != HARDEN])
def test_masks_change_at_hardening_only(step):
    """`before_step` changes masks at the hardening step only."""
    pruner = Magnitude(sparsity=0.9)
    layers = layers_of(pruner)
    pruner.before_step(layers, at(step))
    assert all(bool((layer.gate.keep == 1).all()) for layer in layers)


def test_the_mask_does_not_follow_the_weights():
    """Weights that change during fine-tuning leave the mask unchanged."""
    pruner = Magnitude(sparsity=0.9)
    layers = layers_of(pruner)
    pruner.harden(layers, at(HARDEN), lambda: 0.0)
    before = [layer.gate.keep.clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.dense.copy_(1 / layer.dense)
    pruner.before_step(layers, at(HARDEN + 1))
    assert all(torch.equal(layer.gate.keep, keep) for layer, keep in zip(layers, before, strict=True))


def test_pruning_leaves_the_dense_weights_alone():
    """Pruning writes masks only: the dense weights keep every bit."""
    layers, untouched = pruned(0.9), layers_of(Magnitude(sparsity=0.9))
    assert all(torch.equal(a.dense, b.dense) for a, b in zip(layers, untouched, strict=True))


@pytest.mark.parametrize("prune_at", [0.0, 0.25, 1.0])
def test_traits(prune_at):
    """It hardens at `prune_at`, and is the baseline control unless it prunes at initialization."""
    traits = Magnitude(sparsity=0.9, prune_at=prune_at).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes) == (prune_at, True, 1)
    assert traits.control == ("baseline" if prune_at else None)


@pytest.mark.parametrize("prune_at", [-0.1, 1.1])
def test_an_invalid_fraction_is_rejected(prune_at):
    """`prune_at` outside [0, 1] raises a ValueError that names it."""
    with pytest.raises(ValueError, match=f"in \\[0, 1\\]; found {prune_at}"):
        Magnitude(sparsity=0.9, prune_at=prune_at)
