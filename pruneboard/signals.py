"""What the two second types of pruner get: the model as a function of its weights, and dense gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pruneboard.api import Batch, Layer, Mask
from pruneboard.data import BatchPlan, Dataset, train_batches


class View:
    """`api.ModelView` of a gated model: logits and loss as functions of given weights, with no side effect.

    Attributes:
        layers: the prunable layers.
        image_shape: channels, height, width.
        images: images passed through so far, which are charged as training cost.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer[Mask]], side: int, label_smoothing: float) -> None:
        """View `model`, whose gates are attached; `label_smoothing` is the recipe's."""
        self.layers = layers
        self.image_shape = (3, side, side)
        self.images = 0
        self._model = model
        self._smoothing = label_smoothing

    def logits(
        self,
        images: Tensor,
        weights: Sequence[Tensor] | None = None,
        *,
        training: bool = True,
        rest: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return logits [batch, classes] under `weights`; see `api.ModelView.logits`."""
        self.images += len(images)
        state = self._state(rest)
        if weights is not None:
            for layer, weight in zip(self.layers, weights, strict=True):
                state[f"{layer.name}.parametrizations.weight.original"] = weight
        was_training = self._model.training
        self._model.train(training)
        try:
            return functional_call(self._model, state, (images,)).float()  # type: ignore[no-any-return]
        finally:
            self._model.train(was_training)

    def loss(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Return the mean cross-entropy of `batch` under `weights`."""
        images, labels = batch
        return functional.cross_entropy(self.logits(images, weights), labels, label_smoothing=self._smoothing)

    def _state(self, rest: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
        """Every buffer copied, so that running statistics stay; every other weight passed through `rest`."""
        own = {f"{layer.name}.parametrizations.weight.original" for layer in self.layers}
        state: dict[str, Tensor] = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        for name, parameter in self._model.named_parameters():
            if rest is not None and name not in own and ".parametrizations.weight.0." not in name:
                state[name] = rest(parameter.detach())
        return state


def endless_batches(dataset: Dataset, plan: BatchPlan) -> Iterator[Batch]:
    """Yield augmented training micro-batches from a stream of their own, equal on every process, for ever."""
    whole = replace(plan, rank=0, world=1)
    epoch = 0
    while True:
        for batches in train_batches(dataset, whole, epoch=epoch, stream="scoring"):
            yield from batches
        epoch += 1


@contextmanager
def dense_gradients(layers: Sequence[Layer[Any]], *, wanted: bool) -> Iterator[list[Tensor] | None]:
    """Collect, over one step, the gradient of the loss with respect to every effective weight.

    Yields:
        One tensor per layer, complete when the block ends; None where `wanted` is false.
    """
    if not wanted:
        yield None
        return
    gradients = [torch.zeros_like(layer.dense) for layer in layers]
    handles = [
        layer.gate.register_forward_hook(_collector(gradient))
        for layer, gradient in zip(layers, gradients, strict=True)
    ]
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()


def _collector(gradient: Tensor) -> Callable[[Any, Any, Tensor], Tensor | None]:
    def add(found: Tensor) -> None:
        gradient.add_(found)

    def watch(gate: Any, inputs: Any, effective: Tensor) -> Tensor | None:
        del gate, inputs
        if not torch.is_grad_enabled():
            return None
        watched = effective if effective.requires_grad else effective.detach().requires_grad_()  # frozen weights
        watched.register_hook(add)  # type: ignore[no-untyped-call]
        return watched

    return watch
