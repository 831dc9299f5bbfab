"""Specialized pruner base classes: scores before the first step, and the gradients of pruned weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pruneboard.api.gates import Layer, Mask
from pruneboard.api.progress import Progress
from pruneboard.api.pruners import Pruner, Track, Traits

Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape `[batch, 3, side, side]`, and their labels, int64 of shape `[batch]`."""


class ModelView(Protocol):
    """The model as deterministic functions of given weights; valid only during `ScoringPruner.score`.

    Calls have no side effects: weights, running statistics, gradients and the model's mode stay as they are. Dropout
    and other random layers are off. If the images are float64, everything is computed in float64. Every image passed
    to `logits` or `loss` is charged as training cost.

    timm initializes the last normalization scale, or the gain, of a residual branch to 0. Such a branch is closed: it
    contributes nothing until the first steps open it. A score computed from signal or gradient flow would prune every
    closed branch entirely. If the branches are opened, the same score may prune the shortcuts entirely, and then no
    signal passes when training starts. A network can therefore be evaluated in both states: with the branches opened
    (`opened=True`), or as initialized (`opened=False`). `openings` lists the states in which this network differs.
    """

    @property
    def layers(self) -> Sequence[Layer[Mask]]:
        """The prunable layers, in the order of the network."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image, in pixels."""

    @property
    def openings(self) -> Sequence[bool]:
        """The values of `opened` that differ: `(True, False)` if a branch starts closed, else `(True,)`."""

    def logits(
        self,
        images: Tensor,
        weights: Sequence[Tensor] | None = None,
        *,
        training: bool = True,
        rest: Callable[[Tensor], Tensor] | None = None,
        opened: bool = True,
    ) -> Tensor:
        """Return the logits, of shape `[batch, classes]`, differentiable with respect to `weights`.

        Args:
            images: `[batch, channels, height, width]`, float32 or float64.
            weights: one tensor per layer, of its weight's shape, used instead of the dense weight; None for the
                dense weights. The masks are applied in either case.
            training: whether normalization uses the statistics of the batch (True) or the running ones (False).
            rest: applied to every other floating-point parameter (SynFlow passes `torch.abs`).
            opened: whether scales and gains that are initialized to 0 count as 1; if False, they count as they are.

        Raises:
            RuntimeError: `score` has returned.
        """

    def loss(self, batch: Batch, weights: Sequence[Tensor] | None = None, *, opened: bool = True) -> Tensor:
        """Return the recipe's mean loss over `batch`, a scalar differentiable with respect to `weights`.

        Normalization uses the statistics of the batch.

        Args:
            batch: images and labels.
            weights: as for `logits`.
            opened: as for `logits`.

        Raises:
            RuntimeError: `score` has returned.
        """


@dataclass(frozen=True, kw_only=True)
class ScoringPruner(Pruner[Mask]):
    """A method that prunes once, before step 0, by one score per weight (SNIP, GraSP, SynFlow).

    The harness keeps the highest scores over all layers, exactly as many as the budget says; ties break by position.
    """

    def traits(self, track: Track) -> Traits:
        """Declare that the masks are fixed before the first step."""
        del track
        return Traits(harden_at=0.0)

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return one score tensor per layer, of its weight's shape; the highest scores are kept.

        Both arguments are valid only during `score`; later use is a RuntimeError.

        Args:
            view: the model as a function of its weights. Every image passed to it is charged as training cost,
                whether or not it comes from `batches`.
            batches: an endless stream of augmented training batches, which training does not share. It is the same
                on every process and for any number of processes.

        Returns:
            Finite floating-point tensors, all of one dtype and on one device.
        """


@dataclass(frozen=True, kw_only=True)
class DenseGradientPruner(Pruner[Mask]):
    """A method that changes its masks by the gradient of every weight, including the pruned ones (RigL)."""

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def wants_gradients(self, at: Progress) -> bool:
        """Return whether `update` is called after this step; in other steps no gradients are collected.

        Args:
            at: the step about to be taken. Every process must return the same answer.
        """

    @abstractmethod
    def update(self, layers: Sequence[Layer[Mask]], dense_gradients: Sequence[Tensor], at: Progress) -> None:
        """Change masks after the optimizer's step and before `after_step`.

        Args:
            layers: the prunable layers, in the order of the network.
            dense_gradients: one tensor per layer, of its weight's shape: the gradient of the loss with respect to
                the *effective* weight, averaged over the global batch, not clipped, and the same on every process.
            at: the step just taken.
        """
