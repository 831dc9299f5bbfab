"""STR's gate: soft thresholding and its gradients, against the paper's formula."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from str_cases import FEW, normal, published

from pruneboard_str import ThresholdGate
from pruneboard_str.gate import soft_threshold

WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40)
THRESHOLDS = st.floats(-120, 5, width=32)


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_weights_shrink_and_keep_their_sign(weights, s):
    """|w~| is at most |w|, signs are kept, and w~ is exactly 0 if and only if |w| is at most the threshold."""
    weight, threshold = torch.tensor(weights), torch.tensor([s])
    effective = soft_threshold(weight, threshold)
    assert bool((effective.abs() <= weight.abs()).all())
    assert bool((effective * weight >= 0).all())
    assert torch.equal(effective == 0, weight.abs() <= torch.sigmoid(threshold))


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_the_gate_equals_the_published_formula_bit_for_bit(weights, s):
    """The gate's weight equals sign(w) relu(|w| - sigmoid(s)) bit for bit, in float32."""
    weight = torch.tensor(weights)
    gate = ThresholdGate(weight, s, learn=True)
    assert torch.equal(gate(weight), published(weight, torch.tensor([s])))


def test_gradients_equal_autograd_of_the_published_formula():
    """Value and gradients agree with autograd of the paper's formula to 1e-6 in float64."""
    for s in (-6.0, -2.0, 0.0, 1.0):
        weight, upstream = normal(40, 30).requires_grad_(), normal(40, 30, seed=1)
        threshold = torch.tensor([s], dtype=torch.float64, requires_grad=True)
        ours, theirs = soft_threshold(weight, threshold), published(weight, threshold)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        found = torch.autograd.grad(ours, (weight, threshold), upstream)
        expected = torch.autograd.grad(theirs, (weight, threshold), upstream)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_equal_the_documented_formula():
    """dL/dw is the upstream gradient where |w| > g, and dL/ds is -g'(s) sum of sign(w) dL/dw~ there."""
    weight, upstream = normal(500).requires_grad_(), normal(500, seed=1)
    threshold = torch.tensor([-0.3], dtype=torch.float64, requires_grad=True)
    to_weight, to_s = torch.autograd.grad(soft_threshold(weight, threshold), (weight, threshold), upstream)
    g = 1 / (1 + math.exp(0.3))
    above = [(w, u) for w, u in zip(weight.tolist(), upstream.tolist(), strict=True) if abs(w) > g]
    assert to_s.item() == pytest.approx(-g * (1 - g) * sum(math.copysign(u, u * w) for w, u in above), rel=1e-12)
    assert torch.equal(to_weight, torch.where(weight.abs() > g, upstream, 0.0))


def test_gradients_equal_finite_differences():
    """In float64, away from the kink, both gradients agree with finite differences."""
    weight = normal(6, 5)
    weight[(weight.abs() - 0.5).abs() < 1e-3] = 1.0
    inputs = (weight.requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(soft_threshold, inputs)


def test_backward_keeps_only_the_result_and_the_threshold():
    """Between forward and backward pass no other tensor than the result and the threshold is kept."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        soft_threshold(normal(50, 20).requires_grad_(), torch.tensor([-1.0], dtype=torch.float64))
    assert sorted(saved) == [1, 1000]


def test_sparsity_rises_with_the_threshold():
    """With rising s no pruned weight returns, and the range goes from none pruned to all pruned."""
    weight = normal(1000, dtype=torch.float32) * 0.2
    levels = [soft_threshold(weight, torch.tensor([s])) != 0 for s in torch.linspace(-110, 5, 60).tolist()]
    assert bool(levels[0].all())
    assert not bool(levels[-1].any())
    assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(levels))


@pytest.mark.parametrize("s", [-110.0, -3200.0, -12800.0])
def test_below_the_underflow_the_gate_is_the_identity(s):
    """Where sigmoid(s) underflows, weight and gradient pass bit for bit, and s gets exactly no gradient."""
    weight = normal(200, dtype=torch.float32)
    weight[:3] = 0.0
    weight[3] = 1e-44
    threshold, upstream = torch.tensor([s], requires_grad=True), normal(200, seed=1, dtype=torch.float32)
    effective = soft_threshold(weight.requires_grad_(), threshold)
    to_weight, to_s = torch.autograd.grad(effective, (weight, threshold), upstream)
    assert torch.equal(effective, weight)
    assert torch.equal(to_weight, upstream)
    assert to_s.item() == 0


@pytest.mark.parametrize("hardened", [False, True])
def test_a_loaded_gate_equals_the_saved_one(hardened):
    """A gate's state dict holds all of its state: loaded into a new gate it gives the same weight."""
    weight = normal(20, 10, dtype=torch.float32)
    saved, fresh = ThresholdGate(weight, -1.0, learn=True), ThresholdGate(weight, -5.0, learn=True)
    if hardened:
        saved.harden(weight > 0.5)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(weight), saved(weight))
    assert torch.equal(fresh.kept(weight), saved.kept(weight))
