"""Tensors that take the place of activations and weights while paths through a network are followed.

Both are float64 and never negative; a positive number means "a path passes here". Because nothing is ever negative,
sums cannot cancel: the sum of several paths is positive if and only if one of them is. Masks of 0 and 1 take the place
of the real weights for the same reason. `binarize` maps positive numbers back to 1 after each operation that adds, so
that the number of paths, which grows exponentially with depth, overflows neither forward nor backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class UndecidedError(Exception):
    """The paths through a network cannot be followed; the message names the operation."""


class Tracked(Tensor):
    """A tensor that carries paths. Operations outside `reach.FollowPaths` return plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Flow(Tracked):
    """Activations: positive where a path from the input arrives, 0 elsewhere."""


class SoftmaxFlow(Flow):
    """Softmax outputs over the last dimension: each row sums to 1, so it averages what it multiplies."""


class WeightMask(Tracked):
    """A prunable weight: positive where the weight is not 0, 0 elsewhere."""


class Binarize(torch.autograd.Function):
    """1 where a number is positive and 0 elsewhere, in the forward pass and for the gradient.

    The true derivative of this step is 0 almost everywhere and would end every path.
    """

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Return 1 where `x` is positive, else 0."""
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        """Return 1 where the gradient is positive, else 0."""
        return (grads[0] > 0).to(grads[0].dtype)


def binarize(x: Tensor) -> Tensor:
    """Return 1 where `x` is positive and 0 elsewhere, in float64; gradients through it are 0 or 1 too."""
    binary: Tensor = Binarize.apply(x)
    return binary


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among `values`, including those in nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors(value)
