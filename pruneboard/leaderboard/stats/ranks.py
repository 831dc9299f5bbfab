"""Ranks, and between which ranks another sample of seeds might have put a method."""

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
"""Scores that agree to this many decimals are equal: the rounding of a sum must not decide a rank."""


@dataclass(frozen=True)
class RankInterval:
    """A rank and its seed-bootstrap interval.

    Attributes:
        rank: 1 is the best mean; equal means share the lower number.
        low: the better end of the interval.
        high: the worse end.
        n: number of the method's own seeds.
    """

    rank: int
    low: int
    high: int
    n: int


def rank_intervals(scores: Mapping[K, Mapping[int, float]]) -> dict[K, RankInterval]:
    """Rank methods by their mean over seeds, with percentile intervals from seeds resampled for all together.

    A method's mean in a resample is over the resampled seeds that it has. Where it has none, the resample
    does not count for it, and for the others it stands at its mean over all its seeds; to leave it out would
    let every rival past it for want of a seed. An interval always holds its rank.

    Args:
        scores: method -> seed -> score; higher is better.

    Returns:
        An entry for each method with two seeds or more. One seed is not ranked, and nobody's rival; neither
        is a method that has no rival left, so fewer than two such methods give an empty dictionary.
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
    """Rank each row of (rows, methods): 1 for the highest score, equal scores share the lower number."""
    import numpy as np

    rounded = np.round(scores, DECIMALS)
    order = np.argsort(-rounded, axis=1, kind="stable")
    ordered = np.take_along_axis(rounded, order, axis=1)
    starts = np.zeros(ordered.shape, dtype=np.int64)  # where the run of equal scores begins
    starts[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], np.arange(1, ordered.shape[1]), 0)
    ranks = np.empty_like(starts)
    np.put_along_axis(ranks, order, np.maximum.accumulate(starts, axis=1) + 1, axis=1)
    return ranks


def _resampled_ranks(groups: Sequence[Mapping[int, float]], means: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return for each method the weight of the resamples by its rank; at 0 those that do not count for it."""
    import numpy as np

    blocks, weights = [], []
    for drawn, weight in resampled_means(groups):
        absent = np.isnan(drawn)
        ranks = descending_ranks(np.where(absent, means, drawn))
        blocks.append(np.where(absent, 0, ranks).astype(np.int32))
        weights.append(weight)
    together, weight = np.concatenate(blocks), np.concatenate(weights)
    return [np.bincount(column, weight).astype(float) for column in together.T]


def _interval(rank: int, histogram: NDArray[np.float64], n: int) -> RankInterval:
    import numpy as np

    counted = histogram[1:]
    need = TAIL * counted.sum()
    low = 1 + int(np.searchsorted(np.cumsum(counted), need))
    high = len(counted) - int(np.searchsorted(np.cumsum(counted[::-1]), need))
    return RankInterval(rank, min(low, rank), max(high, rank), n)
