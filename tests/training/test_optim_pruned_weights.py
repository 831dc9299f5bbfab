"""What the optimizer does to pruned weights and to gates: momentum, weight decay, and what may move."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruneboard.api import Gate, GateOptimizer, MaskPruner, Pruner
from pruneboard.models import prunable_layers
from pruneboard.scores import budget, set_masks, top_k
from pruneboard.spec import Recipe
from pruneboard.training.gates import DrawKey, attach, fold, gate_parameters
from pruneboard.training.optim import GATES, GroupedOptimizer, parameter_groups

RECIPE = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8, momentum=0.9, weight_decay=5e-3)


@dataclass(frozen=True, kw_only=True)
class Masked(MaskPruner):
    """Masks that keep everything until a test sets them."""


class Learned(Gate):
    """Has one trainable parameter of the weight's shape."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.score


@dataclass(frozen=True, kw_only=True)
class WithLearnedGates(Pruner[Learned]):
    """Uses the gate above."""

    def gate(self, weight: Tensor) -> Learned:
        return Learned(weight)


def gated(pruner):
    """Return a small network with gates, and its layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    layers = attach(pruner, prunable_layers(net), DrawKey(0), hits_target=True)
    return net, layers


def train(net, optimizer, steps, seed=0):
    """Take some steps on random images."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        images = torch.randn(8, 3, 8, 8, generator=generator)
        net.train()(images).logsumexp(1).sum().backward()
        optimizer.step()


@given(st.floats(0.1, 0.99), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None, max_examples=10)
def test_momentum_and_decay_do_not_bring_a_pruned_weight_back(sparsity, before, after):
    """They still move a pruned weight under its mask, but neither the forward pass nor the folded file shows it."""
    net, layers = gated(Masked(sparsity=sparsity))
    optimizer = GroupedOptimizer(parameter_groups(net, [], RECIPE, None))
    train(net, optimizer, before)
    set_masks(layers, top_k([layer.dense.abs() for layer in layers], budget(layers)))
    pruned = [layer.gate.keep == 0 for layer in layers]
    dense = [layer.dense.detach().clone() for layer in layers]
    train(net, optimizer, after, seed=1)
    moved = [(layer.dense.detach() != old) & gone for layer, old, gone in zip(layers, dense, pruned, strict=True)]
    assert sum(int(m.sum()) for m in moved) > 0.9 * sum(int(gone.sum()) for gone in pruned)
    state = fold(net, layers)
    for layer, gone in zip(layers, pruned, strict=True):
        assert not net.get_submodule(layer.name).weight[gone].any()
        assert not state[f"{layer.name}.weight"][gone].any()
        assert bool(state[f"{layer.name}.weight"][~gone].all())


def test_a_pruned_weight_without_momentum_and_decay_does_not_move():
    """The mask hides the gradient of the loss, and without momentum and decay nothing else moves the weight."""
    net, layers = gated(Masked(sparsity=0.7))
    set_masks(layers, top_k([layer.dense.abs() for layer in layers], budget(layers)))
    dense = [layer.dense.detach().clone() for layer in layers]
    plain = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8, momentum=0.0, weight_decay=0.0)
    train(net, GroupedOptimizer(parameter_groups(net, [], plain, None)), 3)
    for layer, old in zip(layers, dense, strict=True):
        gone = layer.gate.keep == 0
        assert torch.equal(layer.dense[gone], old[gone])
        assert not torch.equal(layer.dense[~gone], old[~gone])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("declared", [0.0, 0.1])
def test_gates_decay_only_where_the_method_declares_it(rule, declared):
    """With zero gradients, the recipe's weight decay moves weights only, and the method's own moves scores."""
    net, layers = gated(WithLearnedGates(sparsity=0.5))
    rules = GateOptimizer(rule=rule, lr=0.1, weight_decay=declared)
    optimizer = GroupedOptimizer(parameter_groups(net, gate_parameters(layers), RECIPE, rules))
    before = [layer.dense.detach().clone() for layer in layers]
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for layer, old in zip(layers, before, strict=True):
        torch.testing.assert_close(layer.dense.detach(), old * (1 - 0.1 * 5e-3))
        assert bool((layer.gate.score == 1).all()) is (declared == 0)
        assert bool((layer.gate.score < 1).all()) is (declared > 0)


def test_a_rule_without_decay_is_the_default():
    """By default gate parameters have neither weight decay nor the recipe's momentum."""
    net, layers = gated(WithLearnedGates(sparsity=0.5))
    groups = parameter_groups(net, gate_parameters(layers), RECIPE, GateOptimizer(rule="sgd", lr=0.1))
    (gates,) = [group for group in groups if group["name"] == GATES]
    assert (gates["weight_decay"], gates["momentum"], gates.get("nesterov", False)) == (0.0, 0.0, False)


def test_evaluation_changes_no_tensor():
    """A forward pass in evaluation mode changes no bit of a parameter or buffer, in gates or elsewhere."""
    net, layers = gated(Masked(sparsity=0.5))
    train(net, GroupedOptimizer(parameter_groups(net, [], RECIPE, None)), 2)
    set_masks(layers, top_k([layer.dense.abs() for layer in layers], budget(layers)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.eval()
    with torch.no_grad():
        logits = [net(torch.ones(n, 3, 8, 8))[0] for n in (1, 5, 5)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in itertools.pairwise(logits))
