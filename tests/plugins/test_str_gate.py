"""Soft thresholding and its gradients against STR's paper, and the journey of its thresholds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from str_cases import FEW, draw, published

from pruneboard_str import ThresholdGate
from pruneboard_str.gate import soft_threshold

WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40)
THRESHOLDS = st.floats(-120, 5, width=32)


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_weights_shrink_and_keep_their_sign(weights, s):
    """|w~| is at most |w|, no sign turns, and w~ is exactly 0 where and only where |w| is at most the threshold."""
    weight, threshold = torch.tensor(weights), torch.tensor([s])
    effective = soft_threshold(weight, threshold)
    assert bool((effective.abs() <= weight.abs()).all())
    assert bool((effective * weight >= 0).all())
    assert torch.equal(effective == 0, weight.abs() <= torch.sigmoid(threshold))


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_it_is_the_published_formula_bit_for_bit(weights, s):
    """The gate's weight equals sign(w) relu(|w| - sigmoid(s)) to the last bit, in float32."""
    weight = torch.tensor(weights)
    gate = ThresholdGate(weight, s, learn=True)
    assert torch.equal(gate(weight), published(weight, torch.tensor([s])))


def test_gradients_are_the_published_ones():
    """Forward and both gradients agree with autograd through the paper's formula to 1e-6 in float64."""
    for s in (-6.0, -2.0, 0.0, 1.0):
        weight, upstream = draw(40, 30).requires_grad_(), draw(40, 30, seed=1)
        threshold = torch.tensor([s], dtype=torch.float64, requires_grad=True)
        ours, theirs = soft_threshold(weight, threshold), published(weight, threshold)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        found = torch.autograd.grad(ours, (weight, threshold), upstream)
        expected = torch.autograd.grad(theirs, (weight, threshold), upstream)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_the_written_formula():
    """dL/dw is the gradient where |w| > g, and dL/ds is -g'(s) sum of sign(w) dL/dw~ there."""
    weight, upstream = draw(500).requires_grad_(), draw(500, seed=1)
    threshold = torch.tensor([-0.3], dtype=torch.float64, requires_grad=True)
    to_weight, to_s = torch.autograd.grad(soft_threshold(weight, threshold), (weight, threshold), upstream)
    g = 1 / (1 + math.exp(0.3))
    above = [(w, u) for w, u in zip(weight.tolist(), upstream.tolist(), strict=True) if abs(w) > g]
    assert to_s.item() == pytest.approx(-g * (1 - g) * sum(math.copysign(u, u * w) for w, u in above), rel=1e-12)
    assert torch.equal(to_weight, torch.where(weight.abs() > g, upstream, 0.0))


def test_gradients_are_finite_differences():
    """In float64, away from the kink, both gradients are those that finite differences measure."""
    weight = draw(6, 5)
    weight[(weight.abs() - 0.5).abs() < 1e-3] = 1.0
    inputs = (weight.requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(soft_threshold, inputs)


def test_no_more_memory_than_the_result():
    """For its backward pass the gate keeps its own result and the threshold, and no other tensor."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        soft_threshold(draw(50, 20).requires_grad_(), torch.tensor([-1.0], dtype=torch.float64))
    assert sorted(saved) == [1, 1000]


def test_sparsity_rises_with_the_threshold():
    """Along rising s no weight that was pruned returns, from none pruned to all."""
    weight = draw(1000, dtype=torch.float32) * 0.2
    levels = [soft_threshold(weight, torch.tensor([s])) != 0 for s in torch.linspace(-110, 5, 60).tolist()]
    assert bool(levels[0].all())
    assert not bool(levels[-1].any())
    assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(levels))


@pytest.mark.parametrize("s", [-110.0, -3200.0, -12800.0])
def test_far_below_zero_it_is_the_identity(s):
    """Where sigmoid(s) underflows the weight passes bit for bit, its gradient too, and s gets exactly none."""
    weight = draw(200, dtype=torch.float32)
    weight[:3] = 0.0
    weight[3] = 1e-44
    threshold, upstream = torch.tensor([s], requires_grad=True), draw(200, seed=1, dtype=torch.float32)
    effective = soft_threshold(weight.requires_grad_(), threshold)
    to_weight, to_s = torch.autograd.grad(effective, (weight, threshold), upstream)
    assert torch.equal(effective, weight)
    assert torch.equal(to_weight, upstream)
    assert to_s.item() == 0


@pytest.mark.parametrize("hardened", [False, True])
def test_a_loaded_gate_is_the_saved_one(hardened):
    """All of a gate's state is in its tensors: loaded into a fresh one they give the same weight."""
    weight = draw(20, 10, dtype=torch.float32)
    saved, fresh = ThresholdGate(weight, -1.0, learn=True), ThresholdGate(weight, -5.0, learn=True)
    if hardened:
        saved.harden(weight > 0.5)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(weight), saved(weight))
    assert torch.equal(fresh.kept(weight), saved.kept(weight))
