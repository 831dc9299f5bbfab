"""Gates, which hold a method's state for one weight, and layers, the prunable weights as a pruner sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn


class Gate(nn.Module, ABC):
    """A module that turns a dense weight into the effective weight that the network uses.

    It holds all state of a method for one layer: trainable state as parameters, other state as buffers. A parameter
    needs at least one dimension, because DeepSpeed cannot hold 0-dimensional ones. Under mixed precision a gate
    still receives and returns float32.
    """

    _source: Callable[[], torch.Generator] | None = None

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight.

        The harness evaluates a gate once per forward pass, even if several layers share the weight. In training mode
        the gate may draw random numbers from `self.draw()`; in evaluation mode it must be deterministic.

        Args:
            weight: the dense weight, any shape.

        Returns:
            A tensor of the weight's shape, dtype and device, differentiable in whatever the method trains.
        """

    def draw(self) -> torch.Generator:
        """Return a generator on the weight's device, keyed on (seed, step, forward pass, layer).

        Every call returns a new generator that starts from the same key. Its numbers are therefore the same on every
        process, and the same again after a run is resumed.

        Raises:
            RuntimeError: the harness has not attached the gate to a model.
        """
        if self._source is None:
            raise RuntimeError("this gate is not attached to a model: draw() works only within a run of the harness")
        return self._source()

    def folded(self, weight: Tensor) -> Tensor:
        """Return the final effective weight, which replaces `weight` in the plain model.

        By default this is `forward` in evaluation mode, without gradients; the gate's mode is restored.

        Args:
            weight: the dense weight at the end of training.

        Returns:
            A tensor of the weight's shape and dtype.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(weight)  # type: ignore[no-any-return]
        finally:
            self.train(training)

    def kept(self, weight: Tensor) -> Tensor:
        """Return which positions count as kept, by default those where the folded weight is not zero.

        The harness checks the number of kept positions against the budget, and that the folded weight is zero
        everywhere else. A method that may keep a weight whose value is zero overrides this.

        Args:
            weight: the dense weight at the end of training.

        Returns:
            A bool tensor of the weight's shape.
        """
        return self.folded(weight) != 0


class Mask(Gate):
    """The ready-made gate: `weight * keep`, where `keep` is a buffer of zeros and ones.

    A pruned weight receives no gradient of the loss, because the product masks that too. The dense weight still
    exists underneath, and weight decay and momentum still change it. Whether a pruned weight may return is the
    pruner's decision.

    Attributes:
        keep: 1 where the weight is kept and 0 where it is pruned, in the weight's shape and dtype.
    """

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Create a mask of the shape, dtype and device of `weight` that keeps every position."""
        super().__init__()
        # In the weight's dtype: on a CPU, multiplication by a bool mask takes about thirty times as long.
        self.register_buffer("keep", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * keep`."""
        return weight * self.keep

    def set(self, keep: Tensor) -> None:
        """Replace the mask.

        Args:
            keep: zeros and ones, or a bool tensor, of the weight's shape; any dtype and memory layout.
        """
        with torch.no_grad():
            self.keep.copy_(keep)  # not through view(-1): a channels_last buffer is not contiguous

    def kept(self, weight: Tensor) -> Tensor:
        """Return the mask as bool; a kept weight counts as kept even if its value is zero."""
        del weight
        return self.keep != 0


G = TypeVar("G", bound=Gate)


@dataclass(frozen=True)
class Layer(Generic[G]):
    """One prunable weight with its gate, as a pruner sees it.

    Attributes:
        index: position among the prunable layers, 0-based.
        name: for messages and diagnostics only; a method must not depend on it.
        dense: the dense weight, any shape. Change it with `Progress.assign` only.
        gate: the method's gate in front of this weight.
        keep: number of positions this layer keeps if every layer keeps the same share, rounded by the harness so
            that the sum over the layers is exactly the board's budget. None if the sparsity emerges
            (`Traits.hits_target` is False).
    """

    index: int
    name: str
    dense: nn.Parameter
    gate: G
    keep: int | None
