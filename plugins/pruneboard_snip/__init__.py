"""SNIP: before training, keep the weights whose removal would change the loss most (arXiv:1810.02340, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pruneboard.api import Batch, ModelView, ScoringPruner
from pruneboard.scores import added


@final
@dataclass(frozen=True, kw_only=True)
class SNIP(ScoringPruner):
    """Prune once, at initialization, by connection sensitivity.

        s_j = |dL(m * w) / dm_j|  at m = 1  =  |dL / dw_j * w_j|

    s_j approximates, to first order, the change in loss when weight j is removed (m_j from 1 to 0). L is the mean
    loss of the first `images` images of the batch stream, rounded up to whole batches. The highest scores of all
    layers together are kept, and the weights that were scored are the ones that are trained. Where residual branches
    start closed (`api.ModelView`), s is the sum of two scores, each divided by its total: of the network as it
    starts, and of the network with its branches open.

    Source: Lee, Ajanthan and Torr, and namhoonlee/snip-public@f028496 snip/model.py (`get_sparse_mask`,
    `create_sparse_mask`), snip/prune.py.

    The mask is fixed before the first step, and a pruned weight never returns.

    Deviations:
        * The scored weights are the trained ones; the official code scores one draw (`w_bp`) and trains another
          (`w_ap`).
        * Biases are neither scored nor pruned; the official code prunes them too.
        * The count is the board's, ties break by position, and scores are not divided by their sum, which
          changes no ranking.
        * Normalization uses batch statistics, as in training; the official graph runs with `is_train` false, and so
          with the running statistics of an untrained network.
        * The second score, where branches start closed. The official networks have no such branches, nor do VGG and
          ViT here. By the first score alone every branch would be emptied, by the second alone the shortcuts.
        * `images` is 128, as in the paper's CIFAR-10 experiments, taken from the recipe's augmented stream and under
          the recipe's loss. Where the recipe's batch is larger, one whole batch is used.

    Attributes:
        images: minimum number of training images that the loss is averaged over; rounded up to whole batches.
    """

    images: int = 128

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: `images` is below 1.
        """
        super().__post_init__()
        if self.images < 1:
            raise ValueError(f"images must be 1 or more; found {self.images}")

    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return s per layer, of the weight's shape and dtype."""
        taken = list(self.take_images(batches))
        return added(sensitivity(view, taken, opened=opened) for opened in view.openings)

    def take_images(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches until they hold `images` images or more."""
        seen = 0
        while seen < self.images:
            batch = next(batches)
            yield batch
            seen += len(batch[1])


def sensitivity(view: ModelView, batches: Sequence[Batch], *, opened: bool) -> list[Tensor]:
    """Return |dL/dw * w| per layer, where L is the mean loss over all images of `batches`."""
    weights = [layer.dense.detach().requires_grad_() for layer in view.layers]
    gradients = [torch.zeros_like(weight) for weight in weights]
    seen = sum(len(labels) for _, labels in batches)
    for batch in batches:
        loss = view.loss(batch, weights, opened=opened) * (len(batch[1]) / seen)
        found = torch.autograd.grad(loss, weights)
        gradients = [total + gradient for total, gradient in zip(gradients, found, strict=True)]
    return [(gradient * weight.detach()).abs() for gradient, weight in zip(gradients, weights, strict=True)]
