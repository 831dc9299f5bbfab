"""SNIP: keep the weights whose removal would change the loss most, before training (arXiv:1810.02340)."""

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

    L is the mean loss of the first `images` training images of a stream of its own, in whole batches. The highest
    scores of all layers together are kept, and the weights that were scored are those that are trained. Where residual
    branches start closed (`api.ModelView`), s is the sum of two: of the network as it starts, and with its branches
    open, each divided by its total.

    Source: Lee, Ajanthan and Torr, and namhoonlee/snip-public@f028496 snip/model.py (`get_sparse_mask`,
    `create_sparse_mask`), snip/prune.py.

    What happens to a pruned weight: the mask is fixed before the first step, and the weight never comes back.

    Deviations:
        * The weights stay: the official code scores one draw (`w_bp`) and trains another (`w_ap`).
        * Biases are neither scored nor pruned; the official code prunes them too.
        * The count is the board's, ties break by position, and scores are not divided by their sum, which
          changes no ranking.
        * Normalization uses the batch, as in training; the official graph is run with `is_train` false, so by the
          running statistics of a network that was never trained.
        * The second score, where branches start closed; the official networks have none, and there are none here in
          VGG or ViT. By the first alone every branch would be emptied, by the second alone the way past them.
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
        """Return s per layer, of the weights' shapes and dtype."""
        taken = list(self.enough(batches))
        return added(sensitivity(view, taken, opened=opened) for opened in view.openings)

    def enough(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches until they hold `images`."""
        seen = 0
        while seen < self.images:
            batch = next(batches)
            yield batch
            seen += len(batch[1])


def sensitivity(view: ModelView, batches: Sequence[Batch], *, opened: bool) -> list[Tensor]:
    """Return |dL/dw * w| per layer, L being the mean loss of all images of `batches` together."""
    weights = [layer.dense.detach().requires_grad_() for layer in view.layers]
    gradients = [torch.zeros_like(weight) for weight in weights]
    seen = sum(len(labels) for _, labels in batches)
    for batch in batches:
        loss = view.loss(batch, weights, opened=opened) * (len(batch[1]) / seen)
        found = torch.autograd.grad(loss, weights)
        gradients = [total + gradient for total, gradient in zip(gradients, found, strict=True)]
    return [(gradient * weight.detach()).abs() for gradient, weight in zip(gradients, weights, strict=True)]
