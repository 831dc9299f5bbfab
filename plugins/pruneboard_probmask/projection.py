"""Euclidean projection onto {s in [0,1]^n, sum s <= K}, the ProbMask constraint (arXiv:2105.01571, Theorem 1).

    P(x) = clip(x - v, 0, 1),   v = 0 if sum clip(x, 0, 1) <= K, else the root of sum clip(x - v, 0, 1) = K

The sum falls piecewise linearly with v. Of a few thousand entries the root is found exactly, by sorting the ends
of the pieces; of more it starts from that of a sample, whose error two or three secant steps take away, each one
pass over the scores, kept inside a bracket. Nothing is carried from step to step, so a resumed run finds the same v.
The official code bisects 21 times, a pass each, to an absolute tolerance below the resolution of its float32 sum,
and may return a sum above K; here the sum that decides is accumulated in float64 and never exceeds K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 60
"""Three or four do; where the secant leaves the bracket or creeps, the bracket is halved: this bounds every input."""

STEPS_AHEAD = 12
"""Taken on an accelerator, always: to ask whether fewer would do is to wait for it."""

SORTED = {"cpu": 1 << 11, "elsewhere": 1 << 16}
"""Entries that are sorted; of more, every `STRIDE`-th stands for the others."""

STRIDE = 64

BLOCK = 1 << 17
"""Entries handled at a time on a CPU, so that the temporary stays in cache."""

SMALL = 1 << 16
"""Layers of fewer entries are handled together on a CPU."""

NEAR = 1e-4
"""As a share of K; within it a sum in the scores' own precision is not trusted, and the next is in float64."""


def shift(scores: Sequence[Tensor], k: float) -> Tensor:
    """Return the v >= 0 with sum over all tensors of clip(score - v, 0, 1) = k, or 0 where that sum is at most k.

    The sum, accumulated in float64, never exceeds k.

    Args:
        scores: tensors of any shape, of one floating dtype on one device.
        k: the budget, 0 or more.

    Returns:
        float64 without dimension, on that device, which is not waited for unless it is the CPU.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"the budget is 0 or more; found {k}")
    return _root(_pieces(scores), k, waits=scores[0].device.type == "cpu")


def project(scores: Sequence[Tensor], k: float) -> list[Tensor]:
    """Return the projection of `scores`, all tensors together, onto the constraint; inputs are not changed."""
    v = shift(scores, k)
    return [clipped(score, v) for score in scores]


def clipped(score: Tensor, v: Tensor | float, out: Tensor | None = None) -> Tensor:
    """Return clip(score - v, 0, 1) in the score's dtype, in `out` if that is given."""
    return torch.sub(score, v, out=out).clamp_(0.0, 1.0)


def _root(pieces: Sequence[Tensor], k: float, *, waits: bool) -> Tensor:
    """Return the v of `shift`; `waits` says whether numbers may be looked at, which on a CPU costs nothing."""
    at_zero = _sum(pieces, 0.0, exact=not waits)
    if waits and at_zero <= (1 + NEAR) * k and _sum(pieces, 0.0, exact=True) <= k:
        return torch.zeros_like(at_zero)
    search = _Search(*_guess(pieces, k), k, torch.finfo(pieces[0].dtype).eps)
    exact = not waits
    for _ in range(STEPS if waits else STEPS_AHEAD):
        total = _sum(pieces, search.v, exact=exact)
        search.see(total, sure=exact)
        if waits and exact and search.done(total):
            break
        exact = not waits or bool(search.close(total))
        search.move(total)
    return search.high if waits else torch.where(at_zero <= k, 0.0, search.high)


def _guess(pieces: Sequence[Tensor], k: float) -> tuple[Tensor, Tensor]:
    """Return about the root and about how many entries are strictly inside (0, 1) there, from a sample of them."""
    n = sum(piece.numel() for piece in pieces)
    most = SORTED.get(pieces[0].device.type, SORTED["elsewhere"])
    if n <= most:
        return _by_sorting(torch.cat(list(pieces)).double(), k)
    stride = STRIDE if pieces[0].device.type == "cpu" else -(-n // most)
    sample = torch.cat([piece[::stride] for piece in pieces])
    scale = n / sample.numel()
    search = _Search(*_guess([sample], k / scale), k / scale, torch.finfo(sample.dtype).eps)
    if sample.numel() > most:
        for _ in range(3):
            total = _sum([sample], search.v, exact=False)
            search.see(total, sure=True)
            search.move(total)
    return search.v, search.slope * scale


def _by_sorting(x: Tensor, k: float) -> tuple[Tensor, Tensor]:
    """Return the root for `x`, float64 [n], and the number of entries strictly inside (0, 1) just below it.

    An entry is inside between x - 1 and x, so the sum is linear between neighbours of these 2n points.
    """
    points, order = torch.cat([x - 1, x]).sort(stable=True)
    inside = torch.where(order < len(x), 1.0, -1.0).to(x).cumsum(0)
    falls = inside[:-1] * points.diff()
    sums = torch.cat([falls, falls.new_zeros(1)]).flip(0).cumsum(0).flip(0)  # at every point, falling from n to 0
    last = (sums >= k).sum().clamp(1, len(points) - 1) - 1
    slope = inside.take(last)  # to index with a tensor would be to look at it
    return (points.take(last) + (sums.take(last) - k) / slope.clamp_min(1)).clamp_min(0), slope


class _Search:
    """A secant search for the root of a falling sum, kept inside a bracket; its numbers stay on the scores' device."""

    def __init__(self, v: Tensor, slope: Tensor, k: float, eps: float) -> None:
        """Start at `v`, expecting the sum to fall by `slope` per unit; `eps` is of the scores' dtype."""
        self.v, self.slope, self.k, self.eps = v, slope, k, eps
        self.low, self.high = torch.zeros_like(v), torch.full_like(v, torch.inf)
        self._before = (torch.full_like(v, torch.nan), torch.full_like(v, torch.nan))
        self._nudge = torch.full_like(v, eps / 8)

    def close(self, total: Tensor) -> Tensor:
        """Return whether `total` is so close to k that only a sum in float64 says on which side."""
        return (total - self.k).abs() <= NEAR * self.k

    def see(self, total: Tensor, *, sure: bool) -> None:
        """Narrow the bracket by the sum at `v`; one that is not sure counts only if it is far from k."""
        counts = sure | ~self.close(total)
        self.low = torch.where(counts & (total > self.k), self.v, self.low)
        self.high = torch.where(counts & (total <= self.k), self.v, self.high)

    def done(self, total: Tensor) -> bool:
        """Return whether the exact `total` at `v` is within rounding of k, or the bracket within that of the scores."""
        hit = (total <= self.k) & (self.k - total <= 4 * self.eps * self.k)
        return bool(hit | (self.high - self.low <= 0.5 * self.eps * self.low.clamp_min(1.0)))

    def move(self, total: Tensor) -> None:
        """Take the next `v` from the sum at this one."""
        fall, way = self._before[1] - total, self.v - self._before[0]
        # Of two sums that are nearly equal the difference is rounding.
        told = (fall / way > 0) & (fall.abs() > 10 * NEAR * NEAR * self.k)
        self.slope = torch.where(told, fall / way, self.slope)
        self._before = (self.v, total)
        over = total > self.k
        # Just below k, for the sum must not exceed it; and at least far enough for the scores to notice.
        step = (total - (1 - 2 * self.eps) * self.k) / self.slope
        self._nudge = torch.where(over & self.close(total), 2 * self._nudge, self.eps / 8)
        there = self.v + torch.where(over, torch.maximum(step, self._nudge), step)
        middle = torch.where(self.high.isinf(), 2 * self.v + 1, (self.low + self.high) / 2)
        # Far off, a secant creeps along the side on which the sum is flat.
        creeps = self.high.isfinite() & ((total - self.k).abs() > self.k / 2)
        self.v = torch.where((there > self.low) & (there < self.high) & ~creeps, there, middle)


def _pieces(scores: Sequence[Tensor]) -> list[Tensor]:
    """Return the scores as few vectors: one on an accelerator, where every operation is a launch."""
    flat = [score.detach().reshape(-1) for score in scores]
    small = [f for f in flat if f.device.type != "cpu" or f.numel() < SMALL]
    large = [f for f in flat if f.device.type == "cpu" and f.numel() >= SMALL]
    return [*large, torch.cat(small)] if small else large


def _sum(pieces: Sequence[Tensor], v: Tensor | float, *, exact: bool) -> Tensor:
    """Return the sum of clip(x - v, 0, 1) over all entries, float64 without dimension.

    Blocks are summed in the scores' own precision, on a CPU four times faster, or exactly: in float64.
    """
    dtype = torch.float64 if exact else None
    if pieces[0].device.type != "cpu":
        return torch.stack([clipped(piece, v).sum(dtype=dtype) for piece in pieces]).double().sum()
    blocks = [block for piece in pieces for block in torch.split(piece, BLOCK)]
    room = pieces[0].new_empty(max(map(len, blocks)))
    sums = [clipped(block, v, out=room[: block.numel()]).sum(dtype=dtype) for block in blocks]
    return torch.stack(sums).double().sum()
