"""SNIP: keep the weights whose removal would change the loss most, before training (arXiv:1810.02340)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pruneboard.api import Batch, ModelView, ScoringPruner


@final
@dataclass(frozen=True, kw_only=True)
class SNIP(ScoringPruner):
    """Prune once, at initialization, by connection sensitivity.

        s_j = |dL(m * w) / dm_j|  at m = 1  =  |dL / dw_j * w_j|

    L is the mean loss of the first `images` training images of a stream of its own, in whole batches. The highest
    scores of all layers together are kept, and the weights that were scored are those that are trained.

    Source: Lee, Ajanthan and Torr, and namhoonlee/snip-public@f028496 snip/model.py (`get_sparse_mask`,
    `create_sparse_mask`), snip/prune.py.

    What happens to a pruned weight: the mask is fixed before the first step, and the weight never comes back.

    Deviations:
        * The weights stay: the official code scores one draw (`w_bp`) and trains another (`w_ap`).
        * Biases are neither scored nor pruned; the official code prunes them too.
        * The count is the board's, ties break by position, and scores are not divided by their sum, which
          changes no ranking.
        * Normalization uses the batch, as in training; the official graph is run with `is_train` false, so by the
          running statistics of a network that was never trained. Branches that start closed are open
          (`api.ModelView`); the official networks have none.
        * `images` are 128, as the paper's CIFAR-10 experiments have it, of the recipe's augmented stream and
          under the recipe's loss. Where the recipe's batch is larger, one batch is used whole.

    Attributes:
        images: training images that the loss is taken over, at least; rounded up to whole batches.
    """

    images: int = 128

    def __post_init__(self) -> None:
        """Refuse fewer than one image."""
        super().__post_init__()
        if self.images < 1:
            raise ValueError(f"images is 1 or more; found {self.images}")

    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return |dL/dw * w| per layer, of the weights' shapes and dtype."""
        weights = [layer.dense.detach().requires_grad_() for layer in view.layers]
        gradients = [torch.zeros_like(weight) for weight in weights]
        seen = 0
        while seen < self.images:
            batch = next(batches)
            size = len(batch[1])
            loss = view.loss(batch, weights) * size  # a sum over images, so that batches add up to one
            found = torch.autograd.grad(loss, weights)
            gradients = [total + gradient for total, gradient in zip(gradients, found, strict=True)]
            seen += size
        return [(gradient / seen * weight.detach()).abs() for gradient, weight in zip(gradients, weights, strict=True)]
