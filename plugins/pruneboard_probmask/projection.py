"""Euclidean projection onto {s in [0,1]^n, sum s <= K}, the ProbMask constraint (arXiv:2105.01571, Theorem 1).

    P(x) = clip(x - v, 0, 1),   v = 0 if sum clip(x, 0, 1) <= K, else the root of sum clip(x - v, 0, 1) = K

The root is found by Newton's method on the piecewise linear sum, kept inside a bracket (bisection where a
step would leave it, and a step that doubles while rounding hides any progress; the k-capped simplex of
arXiv:2110.08471). The official code bisects 21 times to an
absolute tolerance below the resolution of its float32 sum and may return a sum above K; here sums are
accumulated in float64 and the result never exceeds K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_STEPS = 60
"""Newton needs 2 to 7 steps; each bisection in between halves the bracket, so this bounds every input."""

BLOCK = 1 << 16
"""Entries handled at a time on a CPU, so that the temporaries stay in cache."""


def shift(scores: Sequence[Tensor], k: float) -> float:
    """Return the v >= 0 with sum over all tensors of clip(score - v, 0, 1) = k, or 0 where that sum is at most k.

    The sum, accumulated in float64, never exceeds k.

    Args:
        scores: tensors of any shape.
        k: the budget, 0 or more.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"the budget is 0 or more; found {k}")
    total, active = _sum(scores, 0.0)
    if total <= k:
        return _feasible(scores, k, 0.0, max(active, 1.0))  # in the scores' own precision it may be rounded down
    eps = torch.finfo(scores[0].dtype).eps
    low, high = 0.0, max(float(score.max()) for score in scores if score.numel())
    v, nudge = 0.0, 0.0
    for _ in range(MAX_STEPS):
        if total > k:
            low, nudge = v, max(2 * nudge, 0.25 * eps)
        else:
            high = v
        # Done when the sum is at most k and within rounding of it, or the bracket is down to rounding.
        if 0 <= k - total <= 4 * eps * k or high - low <= 0.25 * eps * max(1.0, high):
            break
        newton = v + (total - k) / active if active else high
        if total > k:
            # A Newton step below the resolution of the scores would change nothing, again and again.
            newton = max(newton, v + nudge)
        v = newton if low < newton < high else 0.5 * (low + high)
        total, active = _sum(scores, v)
    return _feasible(scores, k, v if total <= k else high, max(active, 1.0))


def _feasible(scores: Sequence[Tensor], k: float, v: float, active: float) -> float:
    """Return the first v, a rounding error or so further, whose sum is at most k when accumulated in float64."""
    nudge = 0.25 * torch.finfo(scores[0].dtype).eps
    while (excess := _sum(scores, v, exact=True)[0] - k) > 0:
        v += max(excess / active, nudge)
        nudge *= 2
    return v


def project(scores: Sequence[Tensor], k: float) -> list[Tensor]:
    """Return the projection of `scores`, all tensors together, onto the constraint; inputs are not changed."""
    v = shift(scores, k)
    return [clipped(score, v) for score in scores]


def clipped(score: Tensor, v: float) -> Tensor:
    """Return clip(score - v, 0, 1) in the score's dtype."""
    return (score - v).clamp_(0.0, 1.0)


def _sum(scores: Sequence[Tensor], v: float, *, exact: bool = False) -> tuple[float, float]:
    """Return the sum of clip(score - v, 0, 1) and the number of entries strictly inside (0, 1).

    Blocks are summed in the scores' own precision, which is four times faster on a CPU, and added up in
    float64. `exact` sums everything in float64, and counts nothing.
    """
    totals, active = [], []
    for score in scores:
        flat = score.detach().reshape(-1)
        # On an accelerator every block would be a launch; one synchronization for all layers stands below.
        for block in torch.split(flat, BLOCK if flat.device.type == "cpu" else max(1, flat.numel())):
            inside = clipped(block, v)
            totals.append(inside.sum(dtype=torch.float64 if exact else None))
            if not exact:
                # Entries above 0 less those at 1, counted in floats: sums of bools are slow on a CPU.
                active.append(inside.ceil().sum() - inside.floor().sum())
    return _added(totals), _added(active)


def _added(parts: Sequence[Tensor]) -> float:
    return float(torch.stack(list(parts)).double().sum()) if parts else 0.0
