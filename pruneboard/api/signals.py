"""The second types, for methods that need more: scores before the first step, gradients of pruned weights."""

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
"""Images, float32 of shape [batch, 3, side, side], and labels, int64 of shape [batch]."""


class ModelView(Protocol):
    """The model as a scoring pruner may use it: functions of given weights, with no side effect and no chance.

    timm starts the last normalization scale, or the gain, of a residual branch at 0: the branch is closed at first, and
    opens with the first steps. A score made of flow or of gradients would empty every closed branch; one of the opened
    network alone may empty the way past it, and then nothing at all flows when training starts. So a network can
    be looked at in both ways, `opened` or as it starts, and `openings` says which of them there are.

    Dropout and the like are off. Given float64 images, everything is computed in float64. The view is lent until
    `score` returns.
    """

    @property
    def layers(self) -> Sequence[Layer[Mask]]:
        """The prunable layers, in order."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""

    @property
    def openings(self) -> Sequence[bool]:
        """The values of `opened` that differ: True, and False where a branch starts closed."""

    def logits(
        self,
        images: Tensor,
        weights: Sequence[Tensor] | None = None,
        *,
        training: bool = True,
        rest: Callable[[Tensor], Tensor] | None = None,
        opened: bool = True,
    ) -> Tensor:
        """Return the logits, [batch, classes], differentiable in `weights`.

        Args:
            images: [batch, channels, height, width].
            weights: one per layer, in place of the dense ones.
            training: batch statistics (True) or running statistics (False) in normalization.
            rest: applied to every other floating-point parameter (SynFlow passes `torch.abs`).
            opened: scales and gains that start at 0 throughout count as 1; else they are as they start.

        Raises:
            RuntimeError: scoring is over.
        """

    def loss(self, batch: Batch, weights: Sequence[Tensor] | None = None, *, opened: bool = True) -> Tensor:
        """Return the recipe's mean loss of `batch` under batch statistics, differentiable in `weights`.

        Raises:
            RuntimeError: scoring is over.
        """


@dataclass(frozen=True, kw_only=True)
class ScoringPruner(Pruner[Mask]):
    """A second type: prunes once, before step 0, by a score per weight (SNIP, GraSP, SynFlow).

    The harness keeps the budget's highest scores over all layers, ties broken by position.
    """

    def traits(self, track: Track) -> Traits:
        """Declare that masks are fixed before the first step."""
        del track
        return Traits(harden_at=0.0)

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return one score tensor per layer, of its weight's shape; the highest are kept.

        `batches` is an endless stream of augmented training batches of its own, equal on every process and on any
        number of them; it is lent until this method returns. Every image passed through `view`, from the stream
        or not, is counted as training cost.
        """


@dataclass(frozen=True, kw_only=True)
class DenseGradientPruner(Pruner[Mask]):
    """A second type: moves its masks by the gradient of every weight, pruned ones included (RigL)."""

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def wants_gradients(self, at: Progress) -> bool:
        """Return whether this step ends with `update`; no gradient is collected in the others."""

    @abstractmethod
    def update(self, layers: Sequence[Layer[Mask]], dense_gradients: Sequence[Tensor], at: Progress) -> None:
        """Change masks after the optimizer's step.

        Args:
            layers: the prunable layers.
            dense_gradients: one per layer: gradient of the loss with respect to the *effective* weight,
                averaged over the global batch and equal on every process; not clipped.
            at: the step just taken.
        """
