"""How STR's thresholds move during the search: the automatic decay, and the shifts back to the budget."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from str_cases import at, gated, harden, kept_count, map_weights, normal, s_of
from torch import nn

from pruneboard.scores import budget
from pruneboard.training.optim import GroupedOptimizer, schedule
from pruneboard_str import STR
from pruneboard_str.gate import soft_threshold


def s_values(rule, init, shares):
    """The values of s under a real optimizer at these shares of the peak learning rate, without loss gradient."""
    s = nn.Parameter(torch.tensor([init], dtype=torch.float32))
    group = {"rule": rule.rule, "lr": rule.lr, "weight_decay": rule.weight_decay, "momentum": rule.momentum}
    optimizer = GroupedOptimizer([{"name": "gates", "params": [s], **group}])
    values = []
    for share in shares:
        s.grad = torch.zeros_like(s)
        optimizer.param_groups[0]["lr"] = rule.lr * share
        optimizer.step()
        values.append(s.item())
    return values


def official_shares(epochs=100, warmup=5, steps=196):
    """The official schedule: five epochs of warm-up, then a cosine; constant within an epoch."""
    for epoch in range(epochs):
        share = (epoch + 1) / warmup
        if epoch >= warmup:
            share = 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
        yield from [share] * steps


def test_imagenet_constants_prune_nothing_on_cifar():
    """With the official ResNet-50 constants, CIFAR-10's 196 steps per epoch end at s = -2018, and nothing is pruned."""
    pruner = STR(sparsity=0.9, mode="faithful", init=-3200.0, decay=2.251757813e-5, lr=0.256, momentum=0.875)
    *_, end = s_values(pruner.gate_optimizer(19_600), pruner.init, official_shares())
    assert end == pytest.approx(-2018, abs=2)
    assert bool((soft_threshold(normal(10_000, dtype=torch.float32) * 0.05, torch.tensor([end])) != 0).all())


def test_the_defaults_prune_on_the_same_budget():
    """On the same 19,600 steps the defaults are above the underflow by mid-search and end near s = -0.1."""
    pruner = STR(sparsity=0.9)
    shares = list(official_shares())[: round(19_600 * pruner.harden_at)]
    values = s_values(pruner.gate_optimizer(len(shares)), pruner.init, shares)
    assert values[len(values) // 2] > -10
    assert values[-1] == pytest.approx(-0.1, abs=0.02)


@pytest.mark.parametrize("total", [8, 160, 1000])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("mode", ["target", "faithful"])
def test_the_automatic_decay_reaches_its_target(mode, sparsity, total):
    """By default s rises steadily, stays below 0, and ends within a factor of 2 of `final_s` on any budget."""
    pruner = STR(sparsity=sparsity, mode=mode)
    steps = round(total * pruner.traits("prune").harden_at)
    values = s_values(
        pruner.gate_optimizer(steps), pruner.init, [schedule(t, total, total // 20) for t in range(steps)]
    )
    assert all(later >= earlier for earlier, later in itertools.pairwise([pruner.init, *values]))
    assert 0.5 < values[-1] / pruner.final_s < 2
    pruned = soft_threshold(normal(10_000, dtype=torch.float32) * 0.05, torch.tensor([values[-1]])) == 0
    assert float(pruned.float().mean()) >= sparsity - 0.12


@pytest.mark.parametrize("sparsity", [1e-300, 1 - 2.0**-53])
def test_the_automatic_decay_exists_for_extreme_sparsities(sparsity):
    """At the ends of [0, 1) the automatic decay of mode `faithful` is still a positive number."""
    assert 0 < STR(sparsity=sparsity, mode="faithful").gate_optimizer(100).weight_decay < 1


def test_a_given_decay_is_used_as_it_is():
    """Only a decay of 0 is replaced by the automatic one."""
    rule = STR(sparsity=0.9, decay=0.003, lr=0.2, momentum=0.5).gate_optimizer(10)
    assert (rule.rule, rule.lr, rule.weight_decay, rule.momentum) == ("sgd", 0.2, 0.003, 0.5)


@pytest.mark.parametrize("sparsity", [0.1, 0.9, 0.99])
def test_thresholds_that_prune_too_much_are_lowered_together(sparsity):
    """Thresholds that rose too far are lowered by one amount, until about the budget is kept."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner, thresholds=(1.5, 0.5, 1.0))
    pruner.after_step(layers, at(step=10))
    s = s_of(layers)
    assert [s[0] - s[1], s[2] - s[1]] == pytest.approx([1.0, 0.5], abs=1e-5)
    assert abs(kept_count(layers) - budget(layers)) <= 1


def test_thresholds_that_prune_too_little_are_left_alone():
    """While more weights are kept than the budget allows, no threshold is changed."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner, thresholds=(-6.0, -7.0, -8.0))
    pruner.after_step(layers, at(step=10))
    assert s_of(layers) == [-6.0, -7.0, -8.0]


def test_the_faithful_mode_changes_nothing():
    """In mode `faithful` only the optimizer changes thresholds, and hardening changes nothing."""
    pruner = STR(sparsity=0.5, mode="faithful")
    layers = gated(pruner, thresholds=(1.5, 0.5, 1.0))
    before = [layer.gate.folded(layer.dense.detach()) for layer in layers]
    pruner.after_step(layers, at(step=10))
    harden(pruner, layers)
    for layer, weight in zip(layers, before, strict=True):
        assert torch.equal(layer.gate.folded(layer.dense.detach()), weight)
        assert torch.equal(layer.gate.kept(layer.dense.detach()), weight != 0)


def test_nan_weights_are_left_to_the_harness():
    """After a diverged step `after_step` raises nothing, so that the harness reports the divergence."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner)
    map_weights(layers, lambda weight: torch.full_like(weight, math.nan))
    pruner.after_step(layers, at(step=10))
    assert s_of(layers) == [-3.0, -1.0, -2.0]
