"""Ranks of methods with seed-bootstrap intervals."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pruneboard.leaderboard.stats.bootstrap import TAIL, resampled_means

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)

DECIMALS = 12
"""Scores that agree to this many decimals are equal, so that floating-point rounding cannot decide a rank."""


@dataclass(frozen=True)
class RankInterval:
    """A rank and its seed-bootstrap interval.

    Attributes:
        rank: 1 for the best mean; equal means share the lower number.
        low: the better end of the interval.
        high: the worse end.
        n: number of seeds of the method.
    """

    rank: int
    low: int
    high: int
    n: int


def rank_intervals(scores: Mapping[K, Mapping[int, float]]) -> dict[K, RankInterval]:
    """Rank methods by their mean over seeds, with seed-bootstrap intervals of the ranks.

    With m*_a the mean of method a over the drawn seeds that it has, the rank of a in a resample is

        r*_a = 1 + number of methods b with m*_b > m*_a,

    and the interval of a is the percentile interval of r*_a over all resamples. The same seeds are drawn for all
    methods in a resample: a method that is slightly better for every seed is never overtaken, however much the seeds
    differ. The interval is extended to contain the rank itself where necessary (many nearly equal methods).

    Args:
        scores: method -> seed -> score; higher is better.

    Returns:
        An entry for each method with two or more seeds. A method with a single seed is not ranked and does not affect
        the ranks of others. The result is empty if fewer than two methods remain.
    """
    import numpy as np

    names = [name for name, values in scores.items() if len(values) > 1]
    if len(names) < 2:
        return {}
    means = np.array([statistics.fmean(scores[name].values()) for name in names])
    resampled = _resampled_ranks([scores[name] for name in names], means)
    ranks = descending_ranks(means[None])[0]
    return {
        name: _interval(int(rank), histogram, len(scores[name]))
        for name, rank, histogram in zip(names, ranks, resampled, strict=True)
    }


def descending_ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rank each row of scores `[rows, methods]`: 1 for the highest score; equal scores share the lower number."""
    import numpy as np

    rounded = np.round(scores, DECIMALS)
    order = np.argsort(-rounded, axis=1, kind="stable")
    ordered = np.take_along_axis(rounded, order, axis=1)
    starts = np.zeros(ordered.shape, dtype=np.int64)  # index at which each run of equal scores begins
    starts[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], np.arange(1, ordered.shape[1]), 0)
    ranks = np.empty_like(starts)
    np.put_along_axis(ranks, order, np.maximum.accumulate(starts, axis=1) + 1, axis=1)
    return ranks


def _resampled_ranks(groups: Sequence[Mapping[int, float]], means: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return one histogram per method: total weight of the resamples by its rank.

    If none of the drawn seeds belongs to a method, the method has no mean in this resample. The resample is then
    ignored for this method (rank 0), and the others are ranked against its mean over all its seeds. If it were left
    out instead, the others would move up only because it has fewer seeds.
    """
    import numpy as np

    blocks, weights = [], []
    for drawn, weight in resampled_means(groups):
        absent = np.isnan(drawn)
        ranks = descending_ranks(np.where(absent, means, drawn))
        blocks.append(np.where(absent, 0, ranks).astype(np.int32))
        weights.append(weight)
    ranks, weight = np.concatenate(blocks), np.concatenate(weights)  # [resamples, methods], [resamples]
    return [np.bincount(column, weight).astype(float) for column in ranks.T]


def _interval(rank: int, histogram: NDArray[np.float64], n: int) -> RankInterval:
    import numpy as np

    counted = histogram[1:]  # without the resamples that are ignored for this method
    need = TAIL * counted.sum()
    low = 1 + int(np.searchsorted(np.cumsum(counted), need))
    high = len(counted) - int(np.searchsorted(np.cumsum(counted[::-1]), need))
    return RankInterval(rank, min(low, rank), max(high, rank), n)
