"""The state of a method: what stands in front of each prunable weight, and that weight as a pruner sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn


class Gate(nn.Module, ABC):
    """Dense weight -> effective weight of the same shape and dtype; holds all state of a method for one layer.

    Trainable state is a parameter of one or more dimensions (the engine cannot hold 0-dimensional ones),
    other state a buffer. Under mixed precision a gate still sees and returns float32.
    """

    _source: Callable[[], torch.Generator] | None = None

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight. It is evaluated once per forward pass, however many layers use it.

        In training mode it may draw from `self.draw()`; in evaluation mode it must be deterministic.
        """

    def draw(self) -> torch.Generator:
        """Return a generator, on the weight's device, keyed on (seed, step, forward pass, layer).

        It gives the same numbers on every process, and again when a run is resumed.

        Raises:
            RuntimeError: the gate is not attached to a model by the harness.
        """
        if self._source is None:
            raise RuntimeError("this gate is not attached to a model, so its draws have no key yet")
        return self._source()

    def folded(self, weight: Tensor) -> Tensor:
        """Return the final effective weight, which replaces `weight` in the plain model."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(weight)  # type: ignore[no-any-return]
        finally:
            self.train(training)

    def kept(self, weight: Tensor) -> Tensor:
        """Return the positions that count as kept, a bool tensor of `weight`'s shape.

        The harness counts them against the budget and checks that nothing else is non-zero.
        """
        return self.folded(weight) != 0


class Mask(Gate):
    """The ready-made gate: `weight * keep`, with `keep` a 0/1 buffer of the weight's shape and dtype.

    The gradient is masked too, so a pruned weight receives no loss gradient; weight decay and momentum
    still move it underneath. Whether it may come back is the pruner's decision.
    """

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Start with every position kept."""
        super().__init__()
        # Of the weight's dtype: multiplying by a bool mask is some thirty times slower on a CPU.
        self.register_buffer("keep", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * keep`."""
        return weight * self.keep

    def set(self, keep: Tensor) -> None:
        """Replace the mask by `keep`, a tensor of the same shape holding 0 and 1 (or bool)."""
        with torch.no_grad():
            self.keep.copy_(keep)  # never through a view: channels_last buffers are not contiguous

    def kept(self, weight: Tensor) -> Tensor:
        """Return the mask as bool, whatever the weights hold."""
        del weight
        return self.keep != 0


G = TypeVar("G", bound=Gate)


@dataclass(frozen=True)
class Layer(Generic[G]):
    """One prunable weight, as a pruner sees it.

    Attributes:
        index: position among the prunable layers, 0-based.
        name: for messages and diagnostics only; a method must not depend on it.
        dense: the dense weight, any shape. Write to it only through `Progress.assign`.
        gate: this method's gate in front of it.
        keep: positions this layer would keep if every layer kept the same share, rounded by the harness so
            that the sum over layers is the board's exact budget. None where the sparsity emerges.
    """

    index: int
    name: str
    dense: nn.Parameter
    gate: G
    keep: int | None
