"""Arithmetic for pruners: budgets, exact top-k masks, layer-wise allocations, LAMP scores, and ramps.

A typical pruner ranks its weights with `importance`, makes masks with `select` or `top_k`, and writes them with
`set_masks`. All counts are exact: masks and allocations keep exactly the number of positions they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from pruneboard.api import Gate, Layer, Mask

G = TypeVar("G", bound=Gate)
Number = TypeVar("Number", float, Fraction)

Allocation = Literal["uniform", "global", "erk", "lamp"]
"""How a budget is divided: by one count per layer (`uniform`, `erk`), or by one ranking of all (`global`, `lamp`)."""


def kept_of(n: int, sparsity: float) -> int:
    """Return how many of `n` positions a sparsity keeps: `n - round(sparsity * n)`, the rounding of every board."""
    return n - round(sparsity * n)


def budget(layers: Sequence[Layer[G]]) -> int:
    """Return the exact number of positions to keep over all layers.

    Raises:
        ValueError: the layers have no budget, because the pruner declares `hits_target=False`.
    """
    if any(layer.keep is None for layer in layers):
        raise ValueError("these layers have no budget: their pruner declares hits_target=False")
    return sum(layer.keep or 0 for layer in layers)


def top_k(scores: Sequence[Tensor], k: int, *, checked: bool = True) -> list[Tensor]:
    """Return bool masks that keep exactly the `k` highest of all `scores` together.

    Ties break by (layer, row-major flat index), the first position first, so the masks of a smaller k are subsets.

    Args:
        scores: one tensor per layer, of any shape and strides, all of one floating-point dtype and on one device.
        k: number of positions to keep, from 0 to the number of all entries.
        checked: whether to reject scores that are not finite. The check synchronizes with an accelerator, which
            nothing else in this function does; with False, the scores must be known to be finite.

    Returns:
        One mask per layer, of its score's shape.

    Raises:
        ValueError: k is out of range, or `checked` is true and a score is NaN or infinite.
    """
    flat = torch.cat([score.detach().reshape(-1) for score in scores])
    if not 0 <= k <= flat.numel():
        raise ValueError(f"cannot keep {k} of {flat.numel()} positions")
    # NaN and infinity appear in the minimum or the maximum, which takes a twentieth of the time of a full check.
    if checked and flat.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(flat))).all()):
        raise ValueError("scores must be finite numbers; found NaN or infinity")
    kept = _by_partition(flat, k) if flat.device.type == "cpu" else _by_sorting(flat, k)
    parts = torch.split(kept, [score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def top_k_per_layer(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
    """Return bool masks that keep exactly the `keep[i]` highest entries of `scores[i]`; ties break as in `top_k`."""
    return [top_k([score], k)[0] for score, k in zip(scores, keep, strict=True)]


def _by_sorting(flat: Tensor, k: int) -> Tensor:
    """Select by sorting, which never copies a value to the host and thus never synchronizes with an accelerator."""
    order = flat.sort(stable=True, descending=True).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[:k], value=True)


def _by_partition(flat: Tensor, k: int) -> Tensor:
    """Select by a partition at the k-th highest score; on a CPU, sorting takes many times as long."""
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    place = flat.numel() - k  # index of the k-th highest in ascending order
    if flat.dtype in (torch.float32, torch.float64):
        # numpy takes half the time and a third of the memory of `kthvalue`, which also moves the indices.
        threshold = torch.from_numpy(np.partition(flat.numpy(), place))[place]
    else:
        threshold = flat.kthvalue(place + 1).values
    kept = flat > threshold  # fewer than k; the first of those equal to the threshold fill the rest
    ties = torch.nonzero(flat == threshold).squeeze(1)
    kept[ties[: k - int(torch.count_nonzero(kept))]] = True
    return kept


def added(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sum of several score lists, each divided by its own total, so that all have equal weight.

    A single list is returned unchanged. A list whose scores are all 0 contributes nothing.

    Args:
        parts: one or more lists, each of one tensor of non-negative scores per layer.
    """
    first, *others = parts
    if not others:
        return list(first)
    result = [torch.zeros_like(score) for score in first]
    for part in (first, *others):
        total = float(torch.stack([score.sum(dtype=torch.float64) for score in part]).sum())
        if total:
            result = [before + score / total for before, score in zip(result, part, strict=True)]
    return result


def set_masks(layers: Sequence[Layer[Mask]], masks: Sequence[Tensor]) -> None:
    """Write one mask per layer into the layer's gate.

    Args:
        layers: the layers, whose gates are masks.
        masks: zeros and ones, or bool tensors, of the weights' shapes.
    """
    for layer, mask in zip(layers, masks, strict=True):
        layer.gate.set(mask)


def largest_remainder(shares: Sequence[float | Fraction], sizes: Sequence[int], k: int) -> list[int]:
    """Round `shares` to integers that sum to exactly `k`, by the method of the largest remainders.

    Each layer first gets the floor of its share, at most its size. The remaining positions go to the largest
    fractional parts; ties go to the earlier layer. Shares that do not sum to k are corrected in the same order.

    Args:
        shares: number of positions that each layer would keep without rounding, 0 or more.
        sizes: number of positions of each layer.
        k: total number of positions to keep.

    Raises:
        ValueError: k is negative or exceeds the sum of `sizes`, or a share is negative.
    """
    if not 0 <= k <= sum(sizes):
        raise ValueError(f"cannot keep {k} of {sum(sizes)} positions")
    if any(share < 0 for share in shares):
        raise ValueError(f"a share is a number of kept positions, 0 or more; found {min(shares)}")
    exact = [min(Fraction(share), Fraction(size)) for share, size in zip(shares, sizes, strict=True)]
    keep = [int(share) for share in exact]
    order = sorted(range(len(keep)), key=lambda i: (-(exact[i] - keep[i]), i))
    while sum(keep) != k:
        step = 1 if sum(keep) < k else -1
        for i in order if step > 0 else reversed(order):
            if sum(keep) == k:
                break
            if 0 <= keep[i] + step <= sizes[i]:
                keep[i] += step
    return keep


def uniform(sizes: Sequence[int], k: int) -> list[int]:
    """Return the number of positions each layer keeps if all keep the same share; the counts sum to `k`.

    Args:
        sizes: number of positions of each layer.
        k: total number of positions to keep.
    """
    total = sum(sizes)
    return largest_remainder([Fraction(k * size, total) for size in sizes], sizes, k)


def erk(shapes: Sequence[Sequence[int]], k: int) -> list[int]:
    """Return the number of positions each layer keeps under the Erdos-Renyi-Kernel allocation; the counts sum to `k`.

    density_l = min(1, eps * sum(shape_l) / prod(shape_l)), with eps such that the counts sum to k
    (RigL, arXiv:1911.11134; google-research/rigl@d39fc7d sparse_utils.py:121-188). As long as a layer would exceed
    density 1, the densest one is kept completely and subtracted from the budget, and eps is solved for again.

    Args:
        shapes: shape of each layer's weight.
        k: total number of positions to keep.
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [Fraction(sum(shape)) for shape in shapes]  # eps * raw: kept positions before the cap at density 1
    whole: set[int] = set()  # layers that are kept completely
    while True:
        free = [i for i in range(len(sizes)) if i not in whole]
        left = k - sum(sizes[i] for i in whole)
        if not free or left <= 0:
            break
        eps = Fraction(left) / sum(raw[i] for i in free)
        densest = max(free, key=lambda i: raw[i] / sizes[i])
        if eps * raw[densest] <= sizes[densest]:
            return largest_remainder([sizes[i] if i in whole else eps * raw[i] for i in range(len(sizes))], sizes, k)
        whole.add(densest)
    return largest_remainder([sizes[i] if i in whole else 0 for i in range(len(sizes))], sizes, k)


def lamp(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return LAMP scores (float64, of the weights' shapes), to be ranked over all layers together.

    score(w_u) = w_u^2 / sum of w_v^2 over the v of the same layer with w_v^2 >= w_u^2, own value included
    (arXiv:2010.07611, equation 1). The largest weight of every layer has score 1, so no layer is pruned completely
    as long as at least as many positions are kept as there are layers. The sums are accumulated in float64 from the
    largest weight down; the official code subtracts a cumulative sum from the total, which loses the largest weights
    to cancellation.
    """
    return [_lamp(weight.detach()) for weight in weights]


def _lamp(weight: Tensor) -> Tensor:
    squares = weight.reshape(-1).double().square()
    ordered, order = squares.sort(descending=True, stable=True)
    at_least = ordered.cumsum(0)  # the denominator: squares are in descending order
    scores = torch.empty_like(squares)
    scores[order] = torch.where(at_least > 0, ordered / at_least, torch.zeros_like(at_least))
    return scores.reshape(weight.shape)


def cubic(fraction: Number, start: Number, end: Number, first: Number, last: Number) -> Number:
    """Return the cubic ramp of Zhu and Gupta (arXiv:1710.01878): `first` until `start`, `last` from `end` on.

    In between, value = last + (first - last) (1 - (fraction - start) / (end - start))^3. If all arguments are of type
    `Fraction`, the result is exact.
    """
    if fraction >= end:
        return last
    if fraction <= start:  # the formula could differ from `first` by a rounding error
        return first
    return last + (first - last) * (1 - (fraction - start) / (end - start)) ** 3


def still_kept(k: int, n: int, share: float | Fraction) -> int:
    """Return how many of `n` positions are kept when a share of those to be pruned, n - k, has not been pruned yet.

    The count k + floor(share (n - k)) is computed exactly: it is k at share 0, n at share 1, and monotone in between.

    Args:
        k: number of positions that are kept in the end.
        n: number of all positions.
        share: in [0, 1].
    """
    return k + math.floor((n - k) * Fraction(share))


def importance(weights: Sequence[Tensor], allocation: Allocation) -> list[Tensor]:
    """Return the non-negative scores that rank weights under `allocation`: LAMP scores for `lamp`, otherwise |w|."""
    return lamp(weights) if allocation == "lamp" else [weight.detach().abs() for weight in weights]


def select(
    layers: Sequence[Layer[G]], scores: Sequence[Tensor], allocation: Allocation, share: float | Fraction = 0
) -> list[Tensor]:
    """Return bool masks that keep the highest `scores`, as many of each layer as `allocation` prescribes.

    Args:
        layers: the layers that the scores belong to; their `keep` is the budget.
        scores: one tensor per layer, of its weight's shape.
        allocation: `uniform` and `erk` fix one count per layer, `global` and `lamp` one count for all layers together.
        share: share of the positions to be pruned that are still kept, in [0, 1]; see `still_kept`. At 0 the masks
            keep exactly the budget.

    Raises:
        ValueError: the layers have no budget, or a score is NaN or infinite.
    """
    k, sizes = budget(layers), [score.numel() for score in scores]
    if allocation in ("global", "lamp"):
        return top_k(scores, still_kept(k, sum(sizes), share))
    uniform_keep = [layer.keep or 0 for layer in layers]
    keep = erk([tuple(score.shape) for score in scores], k) if allocation == "erk" else uniform_keep
    return top_k_per_layer(scores, [still_kept(k, n, share) for k, n in zip(keep, sizes, strict=True)])
