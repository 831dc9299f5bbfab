"""SynFlow: before training and without data, prune so that no layer collapses (arXiv:2006.05467, NeurIPS 2020)."""

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
    """Prune in many rounds, at initialization, by the flow through each weight.

        R = sum of the logits of f(ones; |theta|),    s_j = |dR/dw_j * w_j|  for the weights that remain
        after round r of N the n d^(r/N) highest of them remain,    d the share of the n weights to keep

    f is the network in evaluation mode with every parameter replaced by its absolute value; `ones` is one image of
    ones. Without biases, the scores of every layer that all paths pass through sum to R: flow is conserved. A layer
    with few weights left therefore has high scores. Because every round computes the scores anew, the rounds never
    remove the last weight of such a layer while other layers can lose some; pruning in a single round could. A layer
    beside a shortcut, or a shortcut itself, can be emptied; the network still passes its input on.

    Where residual branches start closed (`api.ModelView`), s is the sum of two scores, each divided by its total: of
    the network as it starts, and of the network with its branches open. While a branch is closed, all paths pass
    through its shortcut.

    Source: Tanaka, Kunin, Yamins and Ganguli, and ganguli-lab/Synaptic-Flow@378fcee Pruners/pruners.py
    (`SynFlow.score`, `_global_mask`), prune.py (`prune_loop`).

    A pruned weight takes no part in later rounds and never returns.

    Deviations:
        * Counts are exact in every round and ties break by position; the official threshold drops every weight
          that ties with it.
        * Everything is computed in float64, because R grows exponentially with depth and overflows float32 in deep
          networks. The official code computes in float32 and has float64 in a comment.
        * A weight that was pruned in a round never returns. In the official code it scores 0 from then on, like a
          weight whose paths are all cut, and the threshold breaks the tie.
        * Running statistics are used as they are; the official code takes their absolute values too. Before any
          training they are 0 and 1, so there is no difference.
        * The second score, where branches start closed; the official networks have no such branches. By the score of
          the opened network alone, shortcuts can be emptied, and then no signal passes when training starts (timm's
          `test_resnet` at sparsity .9 ended at chance accuracy).

    In a network that does more than multiply, add and rectify (attention, layer normalization, weight
    standardization), R is not a sum over paths. The scores are computed as above, but the conservation theorem does
    not hold.

    Attributes:
        rounds: rounds of scoring and pruning; the paper uses 100.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: `rounds` is below 1.
        """
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds must be 1 or more; found {self.rounds}")

    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return the last round's scores per layer, float64; -1 for weights that an earlier round pruned."""
        del batches  # SynFlow needs no data
        masks = [torch.ones_like(layer.dense, dtype=torch.bool) for layer in view.layers]
        for round_ in range(1, self.rounds):
            masks = top_k(self.saliency(view, masks), self.remaining(view, round_))
        return self.saliency(view, masks)

    def remaining(self, view: ModelView, round_: int) -> int:
        """Return how many weights remain after round r, counted from 1: n d^(r/N), but at least the budget."""
        n, k = sum(layer.dense.numel() for layer in view.layers), budget(view.layers)
        return max(k, round(n * math.pow(k / n, round_ / self.rounds)))

    def saliency(self, view: ModelView, masks: Sequence[Tensor]) -> list[Tensor]:
        """Return |dR/dw * w| of the weights in `masks`, and -1 elsewhere: below the 0 that a weight in it may score.

        Raises:
            ValueError: the flow R is not finite.
        """
        weights = [
            (layer.dense.detach().double().abs() * mask).requires_grad_()
            for layer, mask in zip(view.layers, masks, strict=True)
        ]
        found = added(flow_scores(view, weights, opened=opened) for opened in view.openings)
        return [score.masked_fill(~mask, -1) for score, mask in zip(found, masks, strict=True)]


def flow_scores(view: ModelView, weights: Sequence[Tensor], *, opened: bool) -> list[Tensor]:
    """Return |dR/dw * w| per layer, for `weights` in float64 and 0 or more.

    Raises:
        ValueError: R is not finite.
    """
    ones = torch.ones(1, *view.image_shape, dtype=torch.float64, device=weights[0].device)
    total = view.logits(ones, weights, training=False, rest=torch.abs, opened=opened).sum()
    if not bool(torch.isfinite(total)):
        raise ValueError(f"the flow R is {total.item()} in float64: this network is too deep for SynFlow")
    gradients = torch.autograd.grad(total, weights)
    return [(gradient * weight.detach()).abs() for gradient, weight in zip(gradients, weights, strict=True)]
