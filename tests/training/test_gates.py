"""Attaching gates: layers and budget, what a gate must be, and masks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gate_cases import Masked, Noisy, gated, images, network, with_masks
from pruneboard.api import Gate, Mask, Pruner
from pruneboard.errors import PluginError, UsageError
from pruneboard.scores import budget
from pruneboard.training.gates import (
    cached_weights,
    gate_parameters,
    gate_tensors,
    gated_weights,
)


@given(st.floats(0, 0.99))
@settings(deadline=None, max_examples=30)
def test_layers_have_the_boards_budget(sparsity):
    """`keep` sums to n - round(s n), and fits every layer, at any sparsity."""
    _, layers, _ = gated(Masked(sparsity=sparsity))
    n = sum(layer.dense.numel() for layer in layers)
    assert budget(layers) == n - round(sparsity * n)
    assert all(0 <= layer.keep <= layer.dense.numel() for layer in layers)


def test_layers_are_in_order_with_their_own_weights():
    """Index, name and dense weight are those of the plain network, and the dense weight is still a parameter."""
    plain = dict(network().named_parameters())
    net, layers, _ = gated(Masked(sparsity=0.5))
    assert [(layer.index, layer.name) for layer in layers] == [(0, "0"), (1, "3.0"), (2, "5")]
    for layer in layers:
        assert torch.equal(layer.dense, plain[f"{layer.name}.weight"])
        assert any(layer.dense is parameter for parameter in net.parameters())


def test_layers_have_no_budget_if_sparsity_emerges():
    """With hits_target=False, `keep` is None in every layer."""
    _, layers, _ = gated(Masked(sparsity=0.5), hits_target=False)
    assert [layer.keep for layer in layers] == [None] * 3


def test_a_sparsity_that_keeps_nothing_is_refused():
    """A sparsity that rounds to no kept weight is a usage error."""
    with pytest.raises(UsageError, match="keeps none of the 246 prunable weights: lower it"):
        gated(Masked(sparsity=0.9999))


def test_a_gate_that_keeps_everything_changes_no_bit():
    """With every position kept, training and evaluation give the bits of the plain network."""
    plain, (net, _, _) = network(), gated(Masked(sparsity=0.5))
    for mode in (True, False):
        plain.train(mode)
        net.train(mode)
        assert torch.equal(net(images()), plain(images()))


def test_attaching_draws_nothing():
    """A gate that draws in training mode is attached without a draw, and the global generator does not move."""
    before = torch.get_rng_state()
    gated(Noisy(sparsity=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gate_is_evaluated_once_per_forward_pass():
    """However often the weight of a layer is read, its gate is evaluated once."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    calls = []
    layers[2].gate.register_forward_hook(lambda *_: calls.append(1))
    with cached_weights(gated_weights(net)):
        net[5](torch.ones(1, 6))
        net[5](torch.ones(1, 6))
    assert len(calls) == 1


class ZeroDim(Gate):
    def __init__(self, weight):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.0))

    def forward(self, weight):
        return weight


class Flat(Gate):
    def forward(self, weight):
        return weight.flatten()


class Double(Gate):
    def forward(self, weight):
        return weight.double()


def error_of(make) -> str:
    """Return the one-line message with which `attach` refuses the gates that `make` returns."""

    @dataclass(frozen=True, kw_only=True)
    class Broken(Pruner[Gate]):
        def gate(self, weight):
            return make(weight)

    with pytest.raises(PluginError) as caught:
        gated(Broken(sparsity=0.5))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gate_of_another_type_is_refused():
    """A plain module is not a gate."""
    assert "must return a pruneboard.api.Gate; for layer 0 it returned" in error_of(lambda _: nn.Identity())
    assert "NoneType" in error_of(lambda _: None)


def test_a_gate_shared_by_layers_is_refused():
    """Two layers may not have the same gate: each has a budget and a state of its own."""

    class Anything(Gate):
        def forward(self, weight):
            return weight

    shared = Anything()
    assert error_of(lambda _: shared).startswith("gate() returned the gate of layer 0 for layer ")


def test_a_0_dimensional_gate_parameter_is_refused():
    """DeepSpeed cannot hold it; the message says what to use instead."""
    assert error_of(ZeroDim) == (
        "gate parameter 'threshold' is 0-dimensional, which DeepSpeed cannot hold: use shape (1,)"
    )


def test_a_gate_that_changes_the_shape_is_refused():
    """The message names the layer and both shapes."""
    text = error_of(lambda _: Flat())
    assert text.startswith("the gate of layer 0 turns (4, 3, 3, 3) torch.float32 into (108,) torch.float32")


def test_a_gate_that_changes_the_dtype_is_refused():
    """The message names both dtypes."""
    assert "(4, 3, 3, 3) torch.float32 into (4, 3, 3, 3) torch.float64: it must keep shape and dtype" in error_of(
        lambda _: Double()
    )


def test_gate_state_is_named_by_layer():
    """`gate_tensors` has parameters and buffers of every gate, `gate_parameters` only the trainable ones."""
    _, layers, _ = gated(Noisy(sparsity=0.5))
    names = [f"{layer}/{tensor}" for layer in ("0", "3.0", "5") for tensor in ("scale", "shift")]
    assert list(gate_tensors(layers)) == names
    assert [p.shape for p in gate_parameters(layers)] == [(1,)] * 3
    layers[0].gate.scale.requires_grad_(False)
    assert len(gate_parameters(layers)) == 2
    assert gate_parameters(with_masks()[1]) == []


def test_a_mask_keeps_everything_at_first():
    """Its buffer is ones of the weight's shape and dtype, and all positions count as kept."""
    weight = network()[0].weight
    mask = Mask(weight)
    assert torch.equal(mask.keep, torch.ones_like(weight))
    assert bool(mask.kept(weight).all())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_mask_can_be_set_in_every_memory_format(memory_format):
    """A buffer that was converted to channels_last accepts a contiguous mask, with the same positions."""
    weight = network()[0].weight.detach()
    mask = Mask(weight).to(memory_format=memory_format)
    keep = (torch.arange(weight.numel()) % 5 == 0).reshape(weight.shape)
    mask.set(keep)
    assert mask.keep.is_contiguous(memory_format=memory_format)
    assert torch.equal(mask.kept(weight), keep)
    assert torch.equal(mask(weight), weight * keep)
