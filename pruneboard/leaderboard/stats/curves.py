"""One number for a trade-off curve: the area between it and the dense line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pruneboard.leaderboard.stats.bootstrap import Interval, coverage, ends, resampled_means


@dataclass(frozen=True)
class Area:
    """The mean drop along a curve.

    Attributes:
        interval: the area in the unit of the drops, with its interval; `n` is the fewest seeds at any of the
            points it is made of. None where fewer than two points were finished.
        lowest: lowest sparsity it reaches down to; None where no point was finished.
        highest: highest sparsity it reaches up to.
        finished: operating points of the board that the method finished.
        points: operating points of the board.
    """

    interval: Interval | None
    lowest: float | None
    highest: float | None
    finished: int
    points: int

    @property
    def coverage(self) -> float:
        """Fraction of the board's operating points that the method finished; areas compare only where it is 1."""
        return self.finished / self.points if self.points else 0.0


def area(curve: Mapping[float, Mapping[int, float]], points: Collection[float]) -> Area:
    """Return the mean drop over the logarithm of the compression ratio, with a seed-bootstrap interval.

    The trapezoid rule on the mean drop at each operating point, over log2(1 / (1 - sparsity)), divided by the
    width: each halving of the weights counts alike, and a drop that is the same everywhere is the area.
    Seeds are resampled for all points together; a resample in which a point has no seed left does not count.

    Args:
        curve: sparsity -> seed -> drop (dense minus method). A sparsity without seeds is not finished, one
            that is no operating point of the board is ignored.
        points: the sparsities of the board's operating points, in [0, 1).

    Raises:
        ValueError: a point is outside [0, 1).
    """
    wrong = [point for point in points if not 0 <= point < 1]
    if wrong:
        raise ValueError(f"an operating point is a sparsity in [0, 1), not {wrong[0]}")
    finished = sorted(point for point in set(points) if curve.get(point))
    return Area(
        interval=_interval(finished, [curve[point] for point in finished]) if len(finished) > 1 else None,
        lowest=finished[0] if finished else None,
        highest=finished[-1] if finished else None,
        finished=len(finished),
        points=len(set(points)),
    )


def _interval(finished: Sequence[float], drops: Sequence[Mapping[int, float]]) -> Interval:
    shares = _shares([-math.log2(1 - point) for point in finished])
    value = math.fsum(share * statistics.fmean(drop.values()) for share, drop in zip(shares, drops, strict=True))
    n = min(len(drop) for drop in drops)
    low, high = _ends(drops, shares) if n > 1 else (None, None)
    if low is None or high is None:
        return Interval(value, None, None, n, None)
    return Interval(value, min(low, value), max(high, value), n, coverage(n))


def _shares(x: Sequence[float]) -> list[float]:
    """Return the trapezoid rule's weights of the points, which add up to 1."""
    width = x[-1] - x[0]
    before, after = [x[0], *x[:-1]], [*x[1:], x[-1]]
    return [(right - left) / (2 * width) for left, right in zip(before, after, strict=True)]


def _ends(drops: Sequence[Mapping[int, float]], shares: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile ends; None where every resample leaves some point without a seed."""
    import numpy as np

    blocks = [((means * shares).sum(axis=1), weights) for means, weights in resampled_means(drops)]
    areas, weights = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    counts = ~np.isnan(areas)
    return ends(areas[counts], weights[counts]) if counts.any() else (None, None)
