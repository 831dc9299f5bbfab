"""Euclidean projection onto {s in [0,1]^n, sum s <= K}, the ProbMask constraint (arXiv:2105.01571, Theorem 1).

    P(x) = clip(x - v, 0, 1),   F(v) = sum clip(x - v, 0, 1),   v = 0 if F(0) <= K, else the root of F(v) = K

v is the Lagrange multiplier of the budget: it lowers all entries equally, and the box clips them. F is continuous,
non-increasing and piecewise linear, with breakpoints at every x_i - 1 and x_i and slope -#{i: 0 < x_i - v < 1}
between them. It is neither convex nor concave, so Newton or secant steps alone need not converge.

Up to `SORT_LIMIT` entries the root is found by sorting the breakpoints (`_root_by_sorting`). With more entries, the
root of a sample of them is the start of two or three secant steps inside a bracket (`_SecantSearch`), each of which
evaluates F in one pass over the scores. A last pass verifies the sum. The official code bisects 21 times, one pass
each, and stops at an absolute tolerance below the resolution of its float32 sum; its sum may exceed K. Here sums that
decide are accumulated in float64, and the returned v is the right end of the bracket, so that F(v) never exceeds K.
Nothing is carried from one step to the next, so a resumed run finds the same v.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_STEPS = 60
"""Upper limit for every input. Three or four steps usually suffice; where secant steps fail, bisection takes over."""

ACCELERATOR_STEPS = 12
"""Fixed number of steps on an accelerator, where testing for convergence would synchronize the device."""

SORT_LIMIT = {"cpu": 1 << 11, "elsewhere": 1 << 16}
"""Largest number of entries that are solved by sorting; with more entries, a strided sample is sorted."""

SAMPLE_STRIDE = 64
"""On a CPU every 64th entry belongs to the sample."""

BLOCK = 1 << 17
"""Entries summed at a time on a CPU, so that the temporary tensor stays in cache."""

SMALL_LAYER = 1 << 16
"""Layers with fewer entries are concatenated on a CPU, to call fewer operations."""

NEAR = 1e-4
"""Relative distance from K within which a sum in the scores' own precision may be on the wrong side of K."""


def shift(scores: Sequence[Tensor], k: float) -> Tensor:
    """Return the smallest v >= 0, up to rounding, whose sum of clip(score - v, 0, 1) over all tensors is at most k.

    That sum, accumulated in float64, never exceeds k, and equals k up to rounding unless v is 0.

    Args:
        scores: tensors of any shape, of one floating dtype, on one device.
        k: the budget, 0 or more.

    Returns:
        A float64 tensor of shape () on that device. An accelerator is not synchronized.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"the budget must be 0 or more; found {k}")
    return _find_root(_as_vectors(scores), k, may_sync=scores[0].device.type == "cpu")


def project(scores: Sequence[Tensor], k: float) -> list[Tensor]:
    """Return the projection of `scores`, all tensors together, onto the constraint; inputs are not changed."""
    v = shift(scores, k)
    return [clipped(score, v) for score in scores]


def clipped(score: Tensor, v: Tensor | float, out: Tensor | None = None) -> Tensor:
    """Return clip(score - v, 0, 1) in the score's dtype, written into `out` if that is given."""
    return torch.sub(score, v, out=out).clamp_(0.0, 1.0)


def _find_root(vectors: Sequence[Tensor], k: float, *, may_sync: bool) -> Tensor:
    """Return the v of `shift`.

    With `may_sync` (CPU) the search looks at values: it sums in the scores' own precision far from K, and stops when it
    has converged. Without (accelerator) it takes a fixed number of steps with float64 sums.
    """
    at_zero = _clipped_sum(vectors, 0.0, exact=not may_sync)
    if may_sync and at_zero <= (1 + NEAR) * k and _clipped_sum(vectors, 0.0, exact=True) <= k:
        return torch.zeros_like(at_zero)
    search = _SecantSearch(*_initial_guess(vectors, k), k, torch.finfo(vectors[0].dtype).eps)
    exact = not may_sync
    for _ in range(MAX_STEPS if may_sync else ACCELERATOR_STEPS):
        total = _clipped_sum(vectors, search.v, exact=exact)
        search.narrow_bracket(total, exact=exact)
        if may_sync and exact and search.has_converged(total):
            break
        exact = not may_sync or bool(search.is_near(total))
        search.advance(total)
    return search.high if may_sync else torch.where(at_zero <= k, 0.0, search.high)


def _initial_guess(vectors: Sequence[Tensor], k: float) -> tuple[Tensor, Tensor]:
    """Return estimates of the root and of -F'(v), the number of entries with 0 < x - v < 1 there, from a sample."""
    n = sum(vector.numel() for vector in vectors)
    limit = SORT_LIMIT.get(vectors[0].device.type, SORT_LIMIT["elsewhere"])
    if n <= limit:
        return _root_by_sorting(torch.cat(list(vectors)).double(), k)
    stride = SAMPLE_STRIDE if vectors[0].device.type == "cpu" else -(-n // limit)
    sample = torch.cat([vector[::stride] for vector in vectors])
    scale = n / sample.numel()
    search = _SecantSearch(*_initial_guess([sample], k / scale), k / scale, torch.finfo(sample.dtype).eps)
    if sample.numel() > limit:
        for _ in range(3):
            total = _clipped_sum([sample], search.v, exact=False)
            search.narrow_bracket(total, exact=True)  # an estimate needs no float64
            search.advance(total)
    return search.v, search.slope * scale


def _root_by_sorting(x: Tensor, k: float) -> tuple[Tensor, Tensor]:
    """Return the root of F(v) = k for `x`, float64 [n], and -F'(v) just to the left of it.

    An entry is strictly inside (0, 1) while x - 1 < v < x, so F is linear between neighbours of these 2n breakpoints.
    """
    points, order = torch.cat([x - 1, x]).sort(stable=True)
    inside = torch.where(order < len(x), 1.0, -1.0).to(x).cumsum(0)  # entries inside, to the right of each breakpoint
    falls = inside[:-1] * points.diff()
    sums = torch.cat([falls, falls.new_zeros(1)]).flip(0).cumsum(0).flip(0)  # F at each breakpoint, from n to 0
    last = (sums >= k).sum().clamp(1, len(points) - 1) - 1  # start of the piece that contains the root
    slope = inside.take(last)  # not inside[last], which would synchronize an accelerator
    return (points.take(last) + (sums.take(last) - k) / slope.clamp_min(1)).clamp_min(0), slope


class _SecantSearch:
    """A secant search for the root of the decreasing function F(v) - k, inside a bracket.

    The caller evaluates F at `v`, calls `narrow_bracket` and then `advance`, and repeats. All state is tensors on
    the scores' device, so that no method but `has_converged` synchronizes it.

    Attributes:
        v: where to evaluate F next.
        slope: estimate of -F'(v).
        low: largest v known to have F(v) > k, 0 at first.
        high: smallest v known to have F(v) <= k, infinite at first.
    """

    def __init__(self, v: Tensor, slope: Tensor, k: float, eps: float) -> None:
        """Start at `v` with an estimate of -F'(v); `eps` is the machine epsilon of the scores' dtype."""
        self.v, self.slope, self.k, self.eps = v, slope, k, eps
        self.low, self.high = torch.zeros_like(v), torch.full_like(v, torch.inf)
        self._previous = (torch.full_like(v, torch.nan), torch.full_like(v, torch.nan))  # v and F(v)
        self._min_step = torch.full_like(v, eps / 8)

    def is_near(self, total: Tensor) -> Tensor:
        """Return whether `total` is so near k that only a float64 sum decides on which side of it F(v) is."""
        return (total - self.k).abs() <= NEAR * self.k

    def narrow_bracket(self, total: Tensor, *, exact: bool) -> None:
        """Narrow the bracket by `total`, the sum at `v`; one that is not exact is ignored near k."""
        counts = exact | ~self.is_near(total)
        self.low = torch.where(counts & (total > self.k), self.v, self.low)
        self.high = torch.where(counts & (total <= self.k), self.v, self.high)

    def has_converged(self, total: Tensor) -> bool:
        """Return whether the exact sum at `v` is at most k and equal up to rounding, or the bracket is that narrow."""
        hit = (total <= self.k) & (self.k - total <= 4 * self.eps * self.k)
        return bool(hit | (self.high - self.low <= 0.5 * self.eps * self.low.clamp_min(1.0)))

    def advance(self, total: Tensor) -> None:
        """Choose the next `v`, given the sum at this one."""
        fall, distance = self._previous[1] - total, self.v - self._previous[0]
        # The difference of two nearly equal sums is rounding error; then the old slope is the better estimate.
        reliable = (fall / distance > 0) & (fall.abs() > 10 * NEAR * NEAR * self.k)
        self.slope = torch.where(reliable, fall / distance, self.slope)
        self._previous = (self.v, total)
        # Aim just below k, because the sum must not exceed it. Where it still does, by a little, v must rise by
        # enough to change x - v in the scores' precision: the minimum step doubles until it does.
        over = total > self.k
        step = (total - (1 - 2 * self.eps) * self.k) / self.slope
        self._min_step = torch.where(over & self.is_near(total), 2 * self._min_step, self.eps / 8)
        target = self.v + torch.where(over, torch.maximum(step, self._min_step), step)
        # Bisect instead where the step leaves the bracket, or far from the root, where F may be so flat on one side
        # that secant steps progress slowly. Without an upper end, expand.
        middle = torch.where(self.high.isinf(), 2 * self.v + 1, (self.low + self.high) / 2)
        is_slow = self.high.isfinite() & ((total - self.k).abs() > self.k / 2)
        self.v = torch.where((target > self.low) & (target < self.high) & ~is_slow, target, middle)


def _as_vectors(scores: Sequence[Tensor]) -> list[Tensor]:
    """Return the scores as few 1-d tensors: one on an accelerator, where every operation is a kernel launch."""
    flat = [score.detach().reshape(-1) for score in scores]
    small = [f for f in flat if f.device.type != "cpu" or f.numel() < SMALL_LAYER]
    large = [f for f in flat if f.device.type == "cpu" and f.numel() >= SMALL_LAYER]
    return [*large, torch.cat(small)] if small else large


def _clipped_sum(vectors: Sequence[Tensor], v: Tensor | float, *, exact: bool) -> Tensor:
    """Return F(v), the sum of clip(x - v, 0, 1) over all entries: float64, shape ().

    With `exact` everything is accumulated in float64; else blocks are summed in the scores' own precision, which is
    four times faster on a CPU.
    """
    dtype = torch.float64 if exact else None
    if vectors[0].device.type != "cpu":
        return torch.stack([clipped(vector, v).sum(dtype=dtype) for vector in vectors]).double().sum()
    blocks = [block for vector in vectors for block in torch.split(vector, BLOCK)]
    buffer = vectors[0].new_empty(max(map(len, blocks)))
    sums = [clipped(block, v, out=buffer[: block.numel()]).sum(dtype=dtype) for block in blocks]
    return torch.stack(sums).double().sum()
