"""Shared arithmetic offered to plugins: exact top-k, allocations that sum exactly, ramps."""

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
"""How a budget is shared among layers; `global` and `lamp` rank the scores of all layers together."""


def kept_of(n: int, sparsity: float) -> int:
    """Return how many of `n` positions are kept: `n - round(sparsity * n)`, the rounding of every board."""
    return n - round(sparsity * n)


def budget(layers: Sequence[Layer[G]]) -> int:
    """Return the exact number of positions to keep over all layers.

    Raises:
        ValueError: the layers carry no budget, because the pruner declares that its sparsity emerges.
    """
    if any(layer.keep is None for layer in layers):
        raise ValueError("these layers carry no budget: their pruner declares hits_target=False")
    return sum(layer.keep or 0 for layer in layers)


def top_k(scores: Sequence[Tensor], k: int, *, checked: bool = True) -> list[Tensor]:
    """Return bool masks that keep exactly the `k` highest of all `scores` together.

    Ties break by (layer, flat index in row-major order), so that a smaller k keeps a subset.

    Args:
        scores: tensors of any shapes and strides, one floating dtype, one device.
        k: 0 to the number of all entries.
        checked: refuse scores that are not finite, which waits for an accelerator; nothing else here does.

    Raises:
        ValueError: k is out of range, or, where that is checked, a score is NaN or infinite.
    """
    flat = torch.cat([score.detach().reshape(-1) for score in scores])
    if not 0 <= k <= flat.numel():
        raise ValueError(f"cannot keep {k} of {flat.numel()} positions")
    # Extremes carry NaN and infinity along, in a twentieth of the time of a look at every number.
    if checked and flat.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(flat))).all()):
        raise ValueError("scores must be finite numbers; found NaN or infinity")
    kept = _by_partition(flat, k) if flat.device.type == "cpu" else _by_sorting(flat, k)
    parts = torch.split(kept, [score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def top_k_per_layer(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
    """Return bool masks that keep exactly the `keep[i]` highest entries of `scores[i]`; ties as in `top_k`."""
    return [top_k([score], k)[0] for score, k in zip(scores, keep, strict=True)]


def _by_sorting(flat: Tensor, k: int) -> Tensor:
    """Select without a look at any number, for which an accelerator would have to be waited for."""
    order = flat.sort(stable=True, descending=True).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[:k], value=True)


def _by_partition(flat: Tensor, k: int) -> Tensor:
    """Select without sorting, which takes a CPU many times as long."""
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    place = flat.numel() - k
    if flat.dtype in (torch.float32, torch.float64):
        # Half the time and a third of the memory of torch's, which moves positions along.
        threshold = torch.from_numpy(np.partition(flat.numpy(), place))[place]
    else:
        threshold = flat.kthvalue(place + 1).values
    kept = flat > threshold
    ties = torch.nonzero(flat == threshold).squeeze(1)
    kept[ties[: k - int(torch.count_nonzero(kept))]] = True
    return kept


def added(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sum of several scores of the same layers, each divided by its own total first.

    Each then has the same say, whatever its scale. A single one comes back as it is; one that is 0 throughout says
    nothing.

    Args:
        parts: one or more, each a list of scores of 0 or more per layer.
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
    """Write one mask per layer into its gate."""
    for layer, mask in zip(layers, masks, strict=True):
        layer.gate.set(mask)


def largest_remainder(shares: Sequence[float | Fraction], sizes: Sequence[int], k: int) -> list[int]:
    """Round `shares` (numbers of kept positions) to integers that sum to exactly `k`.

    Each layer first gets the floor of its share, at most its size; the rest goes to the largest fractional
    parts, ties to the earlier layer.

    Raises:
        ValueError: k exceeds the sum of `sizes` or is negative, or a share is negative.
    """
    if not 0 <= k <= sum(sizes):
        raise ValueError(f"cannot keep {k} of {sum(sizes)} positions")
    if any(share < 0 for share in shares):
        raise ValueError("a share is a number of kept positions, 0 or more")
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
    """Return kept counts per layer when every layer keeps the same share; they sum to `k`."""
    total = sum(sizes)
    return largest_remainder([Fraction(k * size, total) for size in sizes], sizes, k)


def erk(shapes: Sequence[Sequence[int]], k: int) -> list[int]:
    """Return kept counts per layer under the Erdos-Renyi-Kernel allocation; they sum to `k`.

    density_l = min(1, eps * sum(shape_l) / prod(shape_l)), with eps such that the kept counts sum to k
    (RigL, arXiv:1911.11134; google-research/rigl@d39fc7d sparse_utils.py:121-188). While a layer would
    exceed density 1, the densest one is kept whole, taken out of the budget, and eps solved again.
    """
    sizes = [_prod(shape) for shape in shapes]
    raw = [Fraction(sum(shape)) for shape in shapes]  # eps * raw = kept positions before the cap
    whole: set[int] = set()
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
    """Return LAMP scores, to be ranked over all layers together.

    score(w_u) = w_u^2 / sum of w_v^2 over the v of the same layer with w_v^2 >= w_u^2, own value included
    (arXiv:2010.07611, equation 1). The largest weight of every layer scores 1, so no layer is lost while
    as many positions are kept as there are layers. Sums are accumulated in float64 by suffix, where the
    official code subtracts a cumulative sum and loses the largest weights to cancellation.
    """
    return [_lamp(weight.detach()) for weight in weights]


def _lamp(weight: Tensor) -> Tensor:
    squares = weight.reshape(-1).double().square()
    ordered, order = squares.sort(descending=True, stable=True)
    suffix = ordered.cumsum(0)
    scores = torch.empty_like(squares)
    scores[order] = torch.where(suffix > 0, ordered / suffix, torch.zeros_like(suffix))
    return scores.reshape(weight.shape)


def cubic(fraction: Number, start: Number, end: Number, first: Number, last: Number) -> Number:
    """Return the cubic ramp of Zhu and Gupta (arXiv:1710.01878): `first` until `start`, `last` from `end` on.

    value = last + (first - last) (1 - (fraction - start) / (end - start))^3 in between; of `Fraction`s it is exact.
    """
    if fraction >= end:
        return last
    if fraction <= start:  # the formula itself may be a rounding off `first` here
        return first
    return last + (first - last) * (1 - (fraction - start) / (end - start)) ** 3


def still_kept(k: int, n: int, share: float | Fraction) -> int:
    """Return how many of `n` positions are kept while `share` of the n - k that must go are still there.

    The count k + floor(share (n - k)) is computed exactly: it is k at share 0, n at share 1, and monotone between.
    """
    return k + math.floor((n - k) * Fraction(share))


def importance(weights: Sequence[Tensor], allocation: Allocation) -> list[Tensor]:
    """Return the scores, 0 or more, that rank weights under `allocation`: LAMP scores for `lamp`, else |w|."""
    return lamp(weights) if allocation == "lamp" else [weight.detach().abs() for weight in weights]


def select(
    layers: Sequence[Layer[G]], scores: Sequence[Tensor], allocation: Allocation, share: float | Fraction = 0
) -> list[Tensor]:
    """Return bool masks that keep the highest `scores`, as many of each layer as `allocation` says.

    Args:
        layers: those the scores belong to; they carry the budget.
        scores: one tensor per layer, of its weight's shape.
        allocation: `uniform` and `erk` fix a count per layer, `global` and `lamp` one for all layers together.
        share: of the positions that must go, those still kept, in [0, 1], in each layer or over all alike; at 0
            the masks keep exactly the budget.

    Raises:
        ValueError: the layers carry no budget, or a score is NaN or infinite.
    """
    k, sizes = budget(layers), [score.numel() for score in scores]
    if allocation in ("global", "lamp"):
        return top_k(scores, still_kept(k, sum(sizes), share))
    even = [layer.keep or 0 for layer in layers]
    keep = erk([tuple(score.shape) for score in scores], k) if allocation == "erk" else even
    return top_k_per_layer(scores, [still_kept(k, n, share) for k, n in zip(keep, sizes, strict=True)])


def _prod(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
