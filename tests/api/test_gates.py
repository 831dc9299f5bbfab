"""Gates and masks by themselves: evaluation, the positions kept, draws, and gradients."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from api_cases import Scaled, layer
from pruneboard.api import Gate, Mask

WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))


# Any gate


def test_a_gate_must_define_its_forward():
    """`Gate` is abstract: only `forward` is required."""
    with pytest.raises(TypeError, match="forward"):
        Gate()


@pytest.mark.parametrize("training", [True, False])
def test_folding_evaluates_without_noise_and_restores_the_mode(training):
    """`folded` is `forward` in evaluation mode without gradients; afterwards the gate has its mode again."""
    gate = Scaled().train(training)
    folded = gate.folded(WEIGHT)
    assert torch.equal(folded, WEIGHT * 0.5)
    assert not folded.requires_grad
    assert gate.training is training


def test_folding_restores_the_mode_after_an_error():
    """A gate that fails in evaluation mode is still in training mode afterwards."""

    class Failing(Scaled):
        def forward(self, weight):
            raise KeyError

    gate = Failing().train()
    with pytest.raises(KeyError):
        gate.folded(WEIGHT)
    assert gate.training


def test_nonzero_positions_count_as_kept():
    """By default the kept positions are those where the folded weight is not zero."""
    weight = torch.tensor([0.0, -2.0, 3.0, -0.0])
    kept = Scaled().kept(weight)
    assert kept.dtype == torch.bool
    assert kept.tolist() == [False, True, True, False]


def test_a_gate_outside_the_harness_cannot_draw():
    """Without a model there is no key, and the error says so."""
    with pytest.raises(RuntimeError, match="not attached to a model"):
        Scaled().draw()
    with pytest.raises(RuntimeError, match="not attached to a model"):
        Scaled()(torch.ones(2))


def test_an_attached_gate_draws_from_its_source():
    """Each call asks the harness for a new generator, which starts from the same key."""
    gate = Scaled()
    gate._source = lambda: torch.Generator().manual_seed(3)
    assert torch.equal(gate(WEIGHT), gate(WEIGHT))
    assert gate.draw().initial_seed() == 3


def test_the_source_of_draws_is_not_part_of_the_state():
    """Only parameters and buffers are in the state dict, from which a run resumes."""
    gate = Scaled()
    gate._source = torch.Generator
    assert list(gate.state_dict()) == ["scale"]


# Masks


def test_a_mask_keeps_everything_at_first():
    """Its buffer is ones of the weight's shape and dtype, and all positions count as kept."""
    for weight in (WEIGHT, WEIGHT.double()):
        mask = Mask(weight)
        assert torch.equal(mask.keep, torch.ones_like(weight))
        assert bool(mask.kept(weight).all())
        assert torch.equal(mask(weight), weight)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_mask_is_set_whatever_the_memory_format(memory_format):
    """A channels-last buffer accepts a contiguous mask, and returns its positions."""
    mask = Mask(WEIGHT).to(memory_format=memory_format)
    keep = (torch.arange(WEIGHT.numel()) % 5 == 0).reshape(WEIGHT.shape)
    mask.set(keep)
    assert mask.keep.is_contiguous(memory_format=memory_format)
    assert torch.equal(mask.kept(WEIGHT), keep)
    assert torch.equal(mask(WEIGHT), WEIGHT * keep)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.sampled_from([torch.bool, torch.float32, torch.int64]))
@settings(deadline=None, max_examples=30)
def test_a_mask_can_be_set_from_any_dtype(keep, dtype):
    """Zeros and ones of any dtype give the same positions, and the buffer keeps the weight's dtype."""
    weight = torch.ones(len(keep))
    mask = Mask(weight)
    mask.set(torch.tensor(keep).to(dtype))
    assert mask.keep.dtype == weight.dtype
    assert mask.kept(weight).tolist() == keep
    assert mask.folded(weight).tolist() == [float(k) for k in keep]


def test_a_mask_zeroes_the_gradient_of_pruned_weights():
    """Kept weights receive the dense gradient, and pruned weights exactly 0."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    mask = Mask(weight)
    mask.set(torch.tensor([True, False, True]))
    (mask(weight) * torch.tensor([5.0, 7.0, 9.0])).sum().backward()
    assert weight.grad.tolist() == [5.0, 0.0, 9.0]


def test_a_kept_zero_still_counts_as_kept():
    """What a mask keeps does not depend on the values of the weight."""
    mask = Mask(torch.zeros(2))
    mask.set(torch.tensor([1, 0]))
    assert mask.kept(torch.zeros(2)).tolist() == [True, False]


def test_a_mask_is_state_and_is_not_trained():
    """It is a buffer, which a state dict carries to another mask; there is no parameter."""
    mask, other = Mask(WEIGHT), Mask(WEIGHT)
    mask.set(WEIGHT > 0)
    other.load_state_dict(copy.deepcopy(mask.state_dict()))
    assert torch.equal(other.keep, mask.keep)
    assert list(mask.parameters()) == []


# Layers


def test_a_layer_is_frozen():
    """A hook changes the tensors of a layer, and cannot replace its gate or its budget."""
    one = layer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.gate = Mask(WEIGHT)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.keep = 9  # type: ignore[misc]
