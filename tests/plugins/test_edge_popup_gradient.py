"""edge-popup's straight-through gradient, and the frozen weights."""

from __future__ import annotations

import pytest
import torch
from edge_popup_cases import FEW, LAYOUTS, at, gate_of, layers_of, normal
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pruneboard_edge_popup import EdgePopup


class SortedTop(torch.autograd.Function):
    """1 at the last k of the sorted scores, 0 elsewhere, with a straight-through gradient."""

    @staticmethod
    def forward(ctx, positive, k):
        ranked = positive.reshape(-1).argsort(stable=True)
        flat = torch.zeros(positive.numel(), dtype=positive.dtype)
        flat[ranked[positive.numel() - k :]] = 1
        return flat.reshape(positive.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def reference(weight, score, k):
    """The masked weight; autograd differentiates the absolute value and the product."""
    return weight * SortedTop.apply(score.abs(), k)


def network(first, second):
    """A loss that is nonlinear in two weights: convolution, relu, linear, cross-entropy on fixed data."""
    hidden = functional.relu(functional.conv2d(normal((5, 2, 5, 5), 70), first)).mean((2, 3))
    return functional.cross_entropy(hidden @ second.T, torch.arange(5) % 4)


def test_score_gradient_is_the_derivative_in_the_mask():
    """dL/dscore_i is d L(w * (m + eps e_i)) / d eps * sign(score_i), by central differences, for every entry."""
    weights = [normal((4, 2, 3, 3), 1), normal((4, 4), 2)]
    scores = [normal((4, 2, 3, 3), 3), normal((4, 4), 4)]
    gates = [gate_of(w, s, keep) for w, s, keep in zip(weights, scores, (30, 7), strict=True)]
    network(*(gate(w) for gate, w in zip(gates, weights, strict=True))).backward()
    masks = [gate.kept(w).double() for gate, w in zip(gates, weights, strict=True)]

    def loss(layer, entry, eps):
        moved = [mask.clone() for mask in masks]
        moved[layer].view(-1)[entry] += eps
        return float(network(*(w * mask for w, mask in zip(weights, moved, strict=True))))

    for layer, gate in enumerate(gates):
        slopes = [(loss(layer, i, 1e-6) - loss(layer, i, -1e-6)) / 2e-6 for i in range(weights[layer].numel())]
        expected = torch.tensor(slopes).reshape(weights[layer].shape) * scores[layer].sign()
        torch.testing.assert_close(gate.score.grad, expected, rtol=1e-5, atol=1e-9)
        dropped = gate.score.grad[masks[layer] == 0]
        assert (dropped != 0).sum() > len(dropped) / 2


def test_pruned_entries_get_the_gradient_too():
    """dL/dscore = dL/dw~ * w * sign(score) for every entry, even if none is kept."""
    weight, score, upstream = (normal((7, 9), seed) for seed in (1, 2, 3))
    for keep in (0, 5, 63):
        gate = gate_of(weight, score, keep)
        gate(weight).backward(upstream)
        torch.testing.assert_close(gate.score.grad, upstream * weight * score.sign())
        assert gate.score.grad.all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keep", [0, 1, 40, 161, 162])
def test_agrees_with_the_formula_in_plain_pytorch(layout, keep):
    """Value and gradients equal autograd of w * top_k(|score|) with a sort, to 1e-6 in float64."""
    weight = normal((6, 3, 3, 3), 1).to(memory_format=layout).requires_grad_()
    score = normal((6, 3, 3, 3), 2).to(memory_format=layout).requires_grad_()
    gate = gate_of(weight.detach(), score.detach(), keep)
    images, upstream = normal((2, 3, 6, 6), 3).to(memory_format=layout), normal((2, 6, 4, 4), 4)
    found = functional.conv2d(images, gate(weight))
    expected = functional.conv2d(images, reference(weight, score, keep))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(found, (weight, gate.score), upstream)
    theirs = torch.autograd.grad(expected, (weight, score), upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_score_of_zero_gets_no_gradient():
    """A score of exactly 0 has no loss gradient, as in the official code, because sign(0) = 0."""
    weight = normal((4,), 1)
    gate = gate_of(weight, torch.tensor([0.0, 1.0, -1.0, 0.0]), 2)
    gate(weight).sum().backward()
    torch.testing.assert_close(gate.score.grad, weight * torch.tensor([0.0, 1.0, -1.0, 0.0]))


def test_backward_keeps_no_extra_tensor():
    """With the weight frozen, only the weight and the score themselves are saved for the backward pass."""
    weight = normal((4, 5), 1)
    gate = gate_of(weight, normal((4, 5), 2), 7)
    saved = [tensor for tensor in gate(weight).grad_fn.saved_tensors if tensor is not None]
    assert {tensor.data_ptr() for tensor in saved} == {weight.data_ptr(), gate.score.data_ptr()}


@FEW
@given(st.integers(0, 1000), st.integers(1, 29))
def test_swapping_edges_lowers_a_linear_loss(seed, keep):
    """The paper's theorem: if a step swaps edges and carries no score past 0, a linear loss falls."""
    weight, slope, drawn = (normal((30,), 3 * seed + i) for i in range(3))
    score = drawn.sign() * (1 + 0.1 * drawn.abs())
    gate = gate_of(weight, score, keep)
    before = gate.kept(weight)
    (slope * gate(weight)).sum().backward()
    with torch.no_grad():
        gate.score -= 0.5 / float((slope * weight).abs().max()) * gate.score.grad
    after = gate.kept(weight)
    assert torch.equal(gate.score.sign(), score.sign())
    fall = (slope * weight)[before].sum() - (slope * weight)[after].sum()
    assert torch.equal(before, after) or fall > 0


def test_pruned_weights_return():
    """Gradient descent on the scores alone finds the mask under which random weights equal a target."""
    weight = normal((200,), 1)
    wanted = normal((200,), 2).abs()
    target = wanted > wanted.median()
    gate = gate_of(weight, 0.1 * normal((200,), 3), 100)
    optimizer = torch.optim.SGD([gate.score], lr=0.05, momentum=0.9)
    first = int((gate.kept(weight) & target).sum())
    for _ in range(100):
        optimizer.zero_grad()
        (gate(weight) - weight * target).square().sum().backward()
        optimizer.step()
    assert first < 65
    assert int((gate.kept(weight) & target).sum()) > 95


def test_frozen_weights_stay_bit_for_bit():
    """A frozen weight gets no gradient and keeps its bits while the scores are trained."""
    pruner = EdgePopup(sparsity=0.5)
    layers = layers_of(pruner)
    pruner.before_step(layers, at(0))
    before = [layer.dense.detach().clone() for layer in layers]
    scores = [layer.gate.score.detach().clone() for layer in layers]
    optimizer = torch.optim.SGD([layer.gate.score for layer in layers], lr=1.0, momentum=0.9, weight_decay=1e-4)
    for step in range(5):
        pruner.before_step(layers, at(step))
        sum(layer.gate(layer.dense).square().sum() for layer in layers).backward()
        optimizer.step()
    for layer, weight, score in zip(layers, before, scores, strict=True):
        assert layer.dense.grad is None
        assert torch.equal(layer.dense.view(torch.int32), weight.view(torch.int32))
        assert (layer.gate.score != score).all()
