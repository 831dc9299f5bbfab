"""SynFlow: prune before training, without data, so that no layer is cut through (arXiv:2006.05467)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pruneboard.api import Batch, ModelView, ScoringPruner
from pruneboard.scores import added, budget, top_k


@final
@dataclass(frozen=True, kw_only=True)
class SynFlow(ScoringPruner):
    """Prune in many rounds, at initialization, by the flow that runs through each weight.

        R = sum of the logits of f(ones; |theta|),    s_j = |dR/dw_j * w_j|  of the weights that are left
        after round r of N the n d^(r/N) highest of them are left,    d the share of the n weights to keep

    f is the network in evaluation mode with every parameter replaced by its absolute value, `ones` one image
    of ones. Without biases the scores of every layer that all paths go through sum to R, so that the rounds, which
    look again after each cut, never take the last weight of such a layer while others have some to give. A layer
    beside a shortcut, or a shortcut itself, may be emptied: the network still passes its input on. Where residual
    branches start closed (`api.ModelView`), s is the sum of two: of the network as it starts, and with its branches
    open, each divided by its total. A shortcut is a layer that all paths go through while its branch is closed.

    Source: Tanaka, Kunin, Yamins and Ganguli, and ganguli-lab/Synaptic-Flow@378fcee Pruners/pruners.py
    (`SynFlow.score`, `_global_mask`), prune.py (`prune_loop`).

    What happens to a pruned weight: it takes no part in the rounds that follow, and never comes back.

    Deviations:
        * Counts are exact in every round and ties break by position; the official threshold drops every weight
          that ties with it.
        * Everything is computed in float64, because R grows like a power of the depth and overflows float32 in deep
          networks; the official code computes in float32 and leaves float64 as a comment.
        * A weight that a round pruned never comes back. In the official code it scores 0 from then on, like one
          whose paths are all cut, and what breaks the tie is the threshold.
        * Running statistics are used as they are; the official code takes absolute values of them too. Before any
          training they are 0 and 1, which makes no difference.
        * The second score, where branches start closed; the official networks have none. By the opened network
          alone shortcuts may be emptied, and then nothing flows when training starts (timm's `test_resnet` at
          sparsity .9 ended at guessing).

    Where a network does more than multiply, add and rectify (attention, layer normalization, weight
    standardization), R is no sum over paths: the scores are computed as above, and the theorem is void.

    Attributes:
        rounds: of scoring and pruning; the paper's 100.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        """Refuse fewer than one round."""
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds is 1 or more; found {self.rounds}")

    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return the last round's scores per layer, float64, and -1 where an earlier round pruned."""
        del batches  # it needs no data
        masks = [torch.ones_like(layer.dense, dtype=torch.bool) for layer in view.layers]
        for round_ in range(1, self.rounds):
            masks = top_k(self.saliency(view, masks), self.left(view, round_))
        return self.saliency(view, masks)

    def left(self, view: ModelView, round_: int) -> int:
        """Return how many weights are left after a round, counted from 1: n d^(k/N), and never less than the budget."""
        n, k = sum(layer.dense.numel() for layer in view.layers), budget(view.layers)
        return max(k, round(n * math.pow(k / n, round_ / self.rounds)))

    def saliency(self, view: ModelView, masks: Sequence[Tensor]) -> list[Tensor]:
        """Return |dR/dw * w| of the weights in `masks`, and -1 elsewhere: below 0, because some in it may score 0.

        Raises:
            ValueError: the flow is no finite number.
        """
        weights = [
            (layer.dense.detach().double().abs() * mask).requires_grad_()
            for layer, mask in zip(view.layers, masks, strict=True)
        ]
        found = added(flow(view, weights, opened=opened) for opened in view.openings)
        return [score.masked_fill(~mask, -1) for score, mask in zip(found, masks, strict=True)]


def flow(view: ModelView, weights: Sequence[Tensor], *, opened: bool) -> list[Tensor]:
    """Return |dR/dw * w| of `weights`, float64 tensors of 0 or more.

    Raises:
        ValueError: R is no finite number.
    """
    ones = torch.ones(1, *view.image_shape, dtype=torch.float64, device=weights[0].device)
    total = view.logits(ones, weights, training=False, rest=torch.abs, opened=opened).sum()
    if not bool(torch.isfinite(total)):
        raise ValueError(f"the flow through this network is {total.item()} in float64: it is too deep for SynFlow")
    gradients = torch.autograd.grad(total, weights)
    return [(gradient * weight.detach()).abs() for gradient, weight in zip(gradients, weights, strict=True)]
