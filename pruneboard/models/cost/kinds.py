"""What goes through a network in the place of its tensors when paths are followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class UndecidedError(Exception):
    """A network whose paths cannot be followed; the message says at what."""


class Tracked(Tensor):
    """A tensor that stands for paths. Outside of `reach` operations make plain tensors of it."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Flow(Tracked):
    """Activations: positive where a path from the input arrives, 0 elsewhere."""


class Shares(Flow):
    """Activations that sum to 1 over their last dimension."""


class Kernel(Tracked):
    """A weight: positive where it is not 0, 0 elsewhere."""


class Step(torch.autograd.Function):
    """1 where a number is positive and 0 elsewhere, on the way there and on the way back."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Return which numbers are positive."""
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        """Return which gradients are positive."""
        return (grads[0] > 0).to(grads[0].dtype)


def step(x: Tensor) -> Tensor:
    """Return 1 where `x` is positive and 0 elsewhere, float64; gradients through it are 0 or 1, too."""
    stepped: Tensor = Step.apply(x)
    return stepped


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments, those in lists and tuples included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors(value)
