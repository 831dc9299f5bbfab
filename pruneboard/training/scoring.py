"""Inputs of the specialized pruner base classes.

`ScoringPruner` gets a view of the model and training images, `DenseGradientPruner` the gradients of the loss with
respect to the effective weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.api import Batch, Layer, Mask
from pruneboard.data import BatchPlan, Dataset, train_batches
from pruneboard.models import is_scale
from pruneboard.processes import own_threads, phases
from pruneboard.training.gates import plain_name

SCORING_OVER = "scoring is over: the view and the batches are valid only during score()"


class ScoringView:
    """`api.ModelView` of a gated model: logits and loss as functions of given weights, without side effects.

    Attributes:
        layers: the prunable layers.
        image_shape: channels, height, width.
        openings: the values of `opened` that give different networks.
        images: number of images passed through the network so far, counted as training cost.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer[Mask]], side: int, label_smoothing: float) -> None:
        """Create a view of `model`, which has gates attached; `side` is the size of an image in pixels."""
        self.layers = layers
        self.image_shape = (3, side, side)
        self.images = 0
        self._passes = 0
        self._model = model
        self._smoothing = label_smoothing
        self._weights = [f"{layer.name}.parametrizations.weight.original" for layer in layers]
        self._opened = dict(_opened(model))
        self.openings = (True, False) if self._opened else (True,)
        self._over = False

    def logits(
        self,
        images: Tensor,
        weights: Sequence[Tensor] | None = None,
        *,
        training: bool = True,
        rest: Callable[[Tensor], Tensor] | None = None,
        opened: bool = True,
    ) -> Tensor:
        """Return logits [batch, classes] under `weights`; see `api.ModelView.logits`."""
        if self._over:
            raise RuntimeError(SCORING_OVER)
        self.images += len(images)
        self._passes += 1
        phases.report("scoring the weights before training: pass", self._passes)
        state = self._state(rest, self._opened if opened else {})
        if weights is not None:
            state |= dict(zip(self._weights, weights, strict=True))
        precise = images.dtype == torch.float64
        if precise:
            state = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
        with _restored_tensors(self._model), _normalization_mode(self._model, by_batch=training):
            found: Tensor = functional_call(self._model, state, (images,))
        return found if precise else found.float()

    def loss(self, batch: Batch, weights: Sequence[Tensor] | None = None, *, opened: bool = True) -> Tensor:
        """Return the mean cross-entropy of `batch` under `weights`."""
        images, labels = batch
        return functional.cross_entropy(
            self.logits(images, weights, opened=opened), labels, label_smoothing=self._smoothing
        )

    def close(self) -> None:
        """Make every later call raise."""
        self._over = True

    def _state(self, rest: Callable[[Tensor], Tensor] | None, opened: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every parameter by name, and a copy of every buffer, so that running statistics stay unchanged.

        Parameters in `opened` are replaced by the value there. Parameters that are neither a layer's weight nor part of
        a gate are passed through `rest`.
        """
        own = set(self._weights)
        state = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        for name, parameter in self._model.named_parameters():
            value = opened.get(name, parameter)
            if rest is not None and name not in own and ".parametrizations.weight.0." not in name:
                value = rest(value.detach())
            state[name] = value
        return state


def _opened(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor of ones, by name, for every normalization scale or gain that is entirely 0."""
    for name, parameter in model.named_parameters():
        path, _, own = (plain_name(name) or "").rpartition(".")
        if own and is_scale(model.get_submodule(path), own) and not bool(parameter.any()):
            yield name, torch.ones_like(parameter)


@contextmanager
def _restored_tensors(model: nn.Module) -> Iterator[None]:
    """Restore every module's own parameters and buffers after the block.

    `functional_call` leaves the given tensors in modules with two names, such as the gate of a shared weight.
    """
    own = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, parameters, buffers in own:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


@contextmanager
def _normalization_mode(model: nn.Module, *, by_batch: bool) -> Iterator[None]:
    """Normalize by batch or running statistics; all other modules are in evaluation mode, so nothing is random."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = by_batch and isinstance(module, _BatchNorm)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def endless_batches(dataset: Dataset, plan: BatchPlan, micro_batch: int) -> Iterator[Batch]:
    """Yield augmented training batches of `micro_batch` images without end, from a random stream of their own.

    They are the same on every process and for every number of processes.
    """
    whole = replace(plan, rank=0, world=1, micro_batch=micro_batch)
    epoch = 0
    while True:
        for batches in train_batches(dataset, whole, epoch=epoch, stream="scoring"):
            yield from batches
        epoch += 1


class RevocableBatches(Iterator[Batch]):
    """An iterator of batches that raises after `close`."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        """Wrap `batches`."""
        self._batches: Iterator[Batch] | None = batches

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            RuntimeError: scoring is over.
        """
        if self._batches is None:
            raise RuntimeError(SCORING_OVER)
        with own_threads.starting():
            return next(self._batches)

    def close(self) -> None:
        """Make every later `next` raise."""
        self._batches = None


@contextmanager
def valid_during_scoring(view: ScoringView, batches: Iterator[Batch]) -> Iterator[RevocableBatches]:
    """Close `view` and the batches after the block: a method that kept them could pass images that are not counted.

    Yields:
        The batches to pass to `score` in place of `batches`.
    """
    stream = RevocableBatches(batches)
    try:
        yield stream
    finally:
        view.close()
        stream.close()


@contextmanager
def dense_gradients(layers: Sequence[Layer[Any]], *, wanted: bool) -> Iterator[list[Tensor] | None]:
    """Collect the gradient of one step's loss with respect to every effective weight, even where the mask is 0.

    Yields:
        One tensor per layer, in the shape of its weight, complete when the block ends; None if `wanted` is false.
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
    """Return a forward hook for a gate that adds the gradient of the gate's output to `gradient`."""

    def add(found: Tensor) -> None:
        gradient.add_(found)

    def watch(gate: Any, inputs: Any, effective: Tensor) -> Tensor | None:
        del gate, inputs
        if not torch.is_grad_enabled():
            return None
        # On the supermask track weights are frozen, and no gradient would flow without `requires_grad_`.
        watched = effective if effective.requires_grad else effective.detach().requires_grad_()
        watched.register_hook(add)  # type: ignore[no-untyped-call]
        return watched

    return watch
