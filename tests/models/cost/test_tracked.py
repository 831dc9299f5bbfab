"""Tensors that carry paths."""

from __future__ import annotations

import torch

from pruneboard.models.cost.tracked import Flow, SoftmaxFlow, WeightMask, binarize, tensors


def test_binarize_maps_positive_numbers_and_gradients_to_1():
    """Forward and backward, positive becomes 1 and 0 stays 0, in float64."""
    x = torch.tensor([0.0, 1e-300, 3.0, 1e300], dtype=torch.float64, requires_grad=True)
    y = binarize(x)
    assert y.tolist() == [0, 1, 1, 1]
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([5.0, 0.0, 1e-300, 1e300], dtype=torch.float64))
    assert gradient.tolist() == [1, 0, 1, 1]


def test_operations_outside_the_mode_return_plain_tensors():
    """Without `FollowPaths`, a tracked tensor computes like any tensor, and its type is lost."""
    for kind in (Flow, SoftmaxFlow, WeightMask):
        tracked = torch.ones(2).as_subclass(kind)
        assert type(tracked) is kind
        assert type(tracked + 1) is torch.Tensor


def test_tensors_are_found_in_nested_arguments():
    """Lists and tuples are searched, other values are skipped."""
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    assert [len(tensor) for tensor in tensors([a, "text", [b, (c, None)], 3])] == [1, 2, 3]
    assert list(tensors([])) == []
