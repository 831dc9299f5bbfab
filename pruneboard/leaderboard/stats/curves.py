"""The mean drop over a trade-off curve, also called its area: that between the curve and the dense line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pruneboard.leaderboard.stats.bootstrap import Interval, coverage, percentile_interval, resampled_means


@dataclass(frozen=True)
class Area:
    """The mean drop over a curve.

    Attributes:
        interval: the area in the unit of the drops, with its bootstrap interval; `n` is the smallest number of seeds
            at any point. None if fewer than two points with different compression were finished.
        lowest: lowest finished sparsity; None if no point was finished.
        highest: highest finished sparsity.
        finished: number of the board's operating points that the method finished.
        points: number of the board's operating points.
    """

    interval: Interval | None
    lowest: float | None
    highest: float | None
    finished: int
    points: int

    @property
    def coverage(self) -> float:
        """Fraction of the board's operating points that are finished. Only areas with coverage 1 are comparable."""
        return self.finished / self.points if self.points else 0.0


def area(curve: Mapping[float, Mapping[int, float]], points: Collection[float]) -> Area:
    """Return the mean drop over log2 of the compression ratio, with a seed-bootstrap interval.

    With x_i = log2(1 / (1 - sparsity_i)) and d_i the mean drop over the seeds at point i, the trapezoid rule gives

        area = sum_i (d_i + d_(i+1)) / 2 * (x_(i+1) - x_i) / (x_last - x_first).

    Over this x, every halving of the weights has the same weight; over the sparsity itself, the range above 0.9 would
    hardly count. Division by the width makes the area a mean: a constant drop is its own area.

    For the interval, seeds are resampled for all points together. A resample that leaves a point without any seed is
    ignored.

    Args:
        curve: sparsity -> seed -> drop (dense minus method). A sparsity without seeds counts as not finished; a
            sparsity that is not an operating point of the board is ignored.
        points: sparsities of the board's operating points, in [0, 1).

    Raises:
        ValueError: a point is outside [0, 1).
    """
    known = points if isinstance(points, frozenset) else frozenset(points)
    _check_points(known)
    finished = sorted(point for point, drops in curve.items() if drops and point in known)
    # Sparsities so close to 0 or to each other that their compression rounds to the same number are one point.
    wide = len(finished) > 1 and _log_compression(finished[0]) < _log_compression(finished[-1])
    return Area(
        interval=_interval(finished, [curve[point] for point in finished]) if wide else None,
        lowest=finished[0] if finished else None,
        highest=finished[-1] if finished else None,
        finished=len(finished),
        points=len(known),
    )


@lru_cache(maxsize=8)  # all curves of a board have the same points, which may be thousands
def _check_points(points: frozenset[float]) -> None:
    wrong = sorted(point for point in points if not 0 <= point < 1)
    if wrong:
        raise ValueError(f"an operating point must be a sparsity in [0, 1); found {wrong[0]}")


def _log_compression(sparsity: float) -> float:
    return -math.log2(1 - sparsity)


def _interval(finished: Sequence[float], drops: Sequence[Mapping[int, float]]) -> Interval:
    weights = _trapezoid_weights([_log_compression(point) for point in finished])
    value = math.fsum(weight * statistics.fmean(drop.values()) for weight, drop in zip(weights, drops, strict=True))
    n = min(len(drop) for drop in drops)
    low, high = _bootstrap_ends(drops, weights) if n > 1 else (None, None)
    if low is None or high is None:
        return Interval(value, None, None, n, None)
    # Resampled sums round differently, so equal drops could put the value outside its interval by one last bit.
    return Interval(value, min(low, value), max(high, value), n, coverage(n))


def _trapezoid_weights(x: Sequence[float]) -> list[float]:
    """Return the weights of the points in the trapezoid rule: (x_(i+1) - x_(i-1)) / (2 * width). Their sum is 1."""
    width = x[-1] - x[0]
    before, after = [x[0], *x[:-1]], [*x[1:], x[-1]]
    return [(right - left) / (2 * width) for left, right in zip(before, after, strict=True)]


def _bootstrap_ends(
    drops: Sequence[Mapping[int, float]], weights: Sequence[float]
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile ends; None if every resample leaves some point without a seed."""
    import numpy as np

    blocks = [((means * weights).sum(axis=1), counts) for means, counts in resampled_means(drops)]
    areas, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    valid = ~np.isnan(areas)
    return percentile_interval(areas[valid], counts[valid]) if valid.any() else (None, None)
