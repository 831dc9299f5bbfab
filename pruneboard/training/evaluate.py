"""Metrics of a network on a split, and the running statistics of its batch normalization.

Every image counts exactly once, for every number of processes: integer counts are summed, not averages averaged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.api import Batch
from pruneboard.training.engine import Engine


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation.

    Attributes:
        top1: share of images classified correctly, in [0, 1].
        top5: share whose class is among the five highest; None for 10 classes or fewer.
        loss: mean cross-entropy, no label smoothing.
        correct: number of images classified correctly.
        count: number of images.
        worst_class_top1: lowest top-1 over the classes that have images.
    """

    top1: float
    top5: float | None
    loss: float
    correct: int
    count: int
    worst_class_top1: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as they are stored in a record."""
        return asdict(self)


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor], batches: Iterable[Batch], classes: int, reduce: Callable[[Tensor], Tensor]
) -> Metrics:
    """Evaluate `forward` on all processes' batches: count per process, sum the counts, then divide.

    Args:
        forward: images [batch, 3, side, side] -> logits [batch, classes]; the caller sets evaluation mode.
        batches: this process's share of the split, without padding.
        classes: number of classes.
        reduce: sums a tensor over all processes.
    """
    totals: Tensor | None = None
    for images, labels in batches:
        counts = _count(forward(images).float(), labels, classes)
        totals = counts if totals is None else totals + counts
    if totals is None:  # the split has fewer images than there are processes
        totals = torch.zeros(2 + 2 * classes, dtype=torch.float64)
    return _scores(reduce(totals).cpu(), classes)


def _count(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return [loss sum, top-5 hits, hits per class, images per class], float64 of shape [2 + 2 classes].

    Counts are exact in float64 up to 2^53 images.
    """
    top = logits.topk(min(5, classes), dim=1).indices
    right = (logits.argmax(1) == labels).double()
    hits = torch.zeros(classes, dtype=torch.float64, device=logits.device).index_add_(0, labels, right)
    seen = torch.zeros_like(hits).index_add_(0, labels, torch.ones_like(right))
    loss = functional.cross_entropy(logits, labels, reduction="sum").double()
    top5 = (top == labels[:, None]).any(1).sum().double()
    return torch.cat([loss[None], top5[None], hits, seen])


def _scores(totals: Tensor, classes: int) -> Metrics:
    hits, seen = totals[2 : 2 + classes], totals[2 + classes :]
    count, correct = int(seen.sum()), int(hits.sum())
    present = seen > 0
    return Metrics(
        top1=correct / count,
        top5=float(totals[1]) / count if classes > 10 else None,
        loss=float(totals[0]) / count,
        correct=correct,
        count=count,
        worst_class_top1=float((hits[present] / seen[present]).min()),
    )


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalization modules that have running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def frozen_batch_statistics(modules: Iterable[_BatchNorm]) -> Iterator[None]:
    """During the block, normalize by batch statistics without updating the running statistics of `modules`."""
    modules = list(modules)
    for module in modules:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in modules:
            module.track_running_stats = True


@contextmanager
def restored_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics after the block, in place and bit for bit."""
    modules = batch_norms(model)
    saved = [{name: buffer.clone() for name, buffer in module.named_buffers()} for module in modules]
    try:
        yield
    finally:
        for module, buffers in zip(modules, saved, strict=True):
            for name, buffer in buffers.items():
                module.get_buffer(name).copy_(buffer)


@contextmanager
def _cumulative_averages(modules: Sequence[_BatchNorm]) -> Iterator[None]:
    """Set running statistics to the plain average over the calls of each module in the block; then use them."""
    momenta, handles = [module.momentum for module in modules], []
    for module in modules:
        module.reset_running_stats()
        # torch computes the same with the momentum None, but it reads the number of calls from the device every time.
        handles.append(module.register_forward_pre_hook(_momentum_of_each_call()))
        module.train()
    try:
        yield
    finally:
        for module, momentum, handle in zip(modules, momenta, handles, strict=True):
            handle.remove()
            module.momentum = momentum
            module.eval()


def _momentum_of_each_call() -> Callable[[_BatchNorm, Any], None]:
    """Return a hook that sets the momentum to 1, 1/2, 1/3, ..."""
    calls = itertools.count(1)

    def set_momentum(module: _BatchNorm, inputs: Any) -> None:
        del inputs
        module.momentum = 1 / next(calls)

    return set_momentum


@torch.no_grad()
def reestimate_statistics(engine: Engine, batches: Iterable[Batch]) -> None:
    """Set the running statistics to the plain average over `batches`, with gates in evaluation mode.

    The result is averaged over processes. Afterwards the whole model is in evaluation mode.
    """
    # Running statistics of training are exponential averages over the weights and masks of the last steps. Hardening
    # changes the masks at once, so they do not fit the hardened network. Callers pass 16 fixed augmented training
    # batches (`data.calibration_batches`), the same for every method: the result depends on the weights and these
    # batches only, not on the steps before, and costs every method the same.
    modules = batch_norms(engine.model)
    if not modules:
        return
    engine.model.eval()
    with _cumulative_averages(modules):
        for images, _ in batches:
            engine.forward(images)
    average_batch_statistics(engine)


def average_batch_statistics(engine: Engine) -> None:
    """Average the running statistics over processes, which DeepSpeed does not do."""
    engine.average_(b for m in batch_norms(engine.model) for b in (m.running_mean, m.running_var) if b is not None)
