"""Comparison of methods over several boards: mean ranks, Wilcoxon's signed-rank tests, Holm's correction.

The procedure is that of Demšar (2006, JMLR 7:1-30). A board is one observation. Its operating points share seeds and
are not independent, so the caller combines them to one score, such as a mean or an area.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from pruneboard.leaderboard.stats.ranks import DECIMALS, descending_ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.05
"""Significance level for adjusted p-values."""

_EXACT_BOARDS = 50  # with more boards, the normal approximation is used, as in scipy.stats.wilcoxon


@dataclass(frozen=True)
class PairTest:
    """The test of two methods over all boards.

    Attributes:
        p: two-sided p-value of the signed-rank test, whose null hypothesis is that differences are symmetric about 0.
        adjusted: p after Holm's correction for all pairs; below `LEVEL`, the methods differ.
        wins: number of boards on which the first method is better.
        losses: number of boards on which it is worse.
    """

    p: float
    adjusted: float
    wins: int
    losses: int


@dataclass(frozen=True)
class MethodComparison:
    """The comparison of methods over several boards.

    Attributes:
        boards: number of boards that contain all the methods.
        mean_rank: method -> mean rank over those boards, 1 for the best; equal scores share the mean of their ranks.
            Empty if there is no such board.
        pairs: (method, method) in alphabetical order -> test. Empty if there are too few boards.
        needed: number of boards from which the smallest possible p-value stays below `LEVEL` after the correction.
    """

    boards: int
    mean_rank: Mapping[str, float]
    pairs: Mapping[tuple[str, str], PairTest]
    needed: int

    @property
    def verdict(self) -> str:
        """Why there are no tests; empty if there are."""
        return f"too few boards: {self.boards} of at least {self.needed}" if self.boards < self.needed else ""


def compare_methods(
    scores: Mapping[Hashable, Mapping[str, float]], methods: Collection[str] | None = None
) -> MethodComparison:
    """Compare methods over the boards that contain all of them.

    Args:
        scores: board -> method -> score; higher is better.
        methods: the methods to compare; by default those of all boards. Every additional method can reduce the number
            of boards and, through the correction, the power of the tests.
    """
    import numpy as np

    names = sorted(set().union(*scores.values()) if methods is None else set(methods))
    table = np.array([[found[name] for name in names] for found in scores.values() if found.keys() >= set(names)])
    needed = boards_needed(math.comb(len(names), 2))
    return MethodComparison(
        boards=len(table),
        mean_rank=dict(zip(names, _mean_ranks(table), strict=True)) if table.size else {},
        pairs=_pairs(names, table) if len(table) >= needed else {},
        needed=needed,
    )


def boards_needed(pairs: int) -> int:
    """Return the smallest number of boards with 2**(1 - boards) * pairs <= `LEVEL`.

    An exact signed-rank test of n boards has 2**n equally likely sign patterns, so its smallest two-sided p-value is
    2 / 2**n, when all differences have the same sign. Holm's correction multiplies the smallest p by the number of
    pairs. With fewer boards, no result could be significant.
    """
    return 1 + math.ceil(math.log2(pairs / LEVEL)) if pairs else 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing (Holm 1979, Scandinavian Journal of Statistics 6:65-70).

    With the m p-values in increasing order p_(1) <= ... <= p_(m), the adjusted ones are

        adjusted_(i) = max over j <= i of min(1, (m - j + 1) * p_(j)).

    If adjusted p-values are compared with a level, the probability of any false rejection is at most that level,
    whatever the dependence between the tests.

    Args:
        p_values: in any order.

    Returns:
        The adjusted p-values, in the order of `p_values`.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def signed_rank_p_value(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test for differences `[boards]`.

    The absolute differences are ranked; equal ones share the mean of their ranks. W+ is the sum of the ranks of the
    positive differences. Under the null hypothesis every sign pattern is equally likely, which gives the distribution
    of W+ for the observed ranks, and

        p = 2 * P(W+ <= min(w, total - w)), at most 1.

    This is exact even with ties. scipy's `method="exact"` uses the distribution of untied ranks instead, and its p can
    be too small with ties. Zero differences are dropped, as in `scipy.stats.wilcoxon` by default; if all differences
    are zero, p is 1. Beyond 50 differences, scipy's normal approximation is used.
    """
    kept = differences[differences != 0]
    if not len(kept):
        return 1.0
    if len(kept) > _EXACT_BOARDS:
        from scipy import stats

        return float(stats.wilcoxon(kept).pvalue)
    magnitudes = abs(kept)[None]
    # Twice the mean rank of each tie, (best + worst) / 2 * 2, so that all ranks and their sums are integers.
    doubled = (descending_ranks(-magnitudes) + len(kept) + 1 - descending_ranks(magnitudes))[0]
    above = int(doubled[kept > 0].sum())
    probability = _rank_sums(tuple(sorted(doubled.tolist())))
    return min(1.0, 2 * float(probability[: min(above, len(probability) - 1 - above) + 1].sum()))


@lru_cache(maxsize=256)
def _rank_sums(ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the probability of each value of W+ if every rank is positive or negative with probability 1/2.

    Adding one rank r convolves the distribution with (delta_0 + delta_r) / 2, so 2**n sign patterns are summed in n
    steps.
    """
    import numpy as np

    probability = np.ones(1)
    for rank in ranks:
        probability = (np.pad(probability, (0, rank)) + np.pad(probability, (rank, 0))) / 2
    return probability


def _mean_ranks(table: NDArray[np.float64]) -> list[float]:
    """Return the mean rank of each column of `[boards, methods]`; equal scores share the mean of their ranks."""
    best, worst = descending_ranks(table), table.shape[1] + 1 - descending_ranks(-table)
    return [statistics.fmean(column) for column in ((best + worst) / 2).T.tolist()]


def _pairs(names: Sequence[str], table: NDArray[np.float64]) -> dict[tuple[str, str], PairTest]:
    import numpy as np

    found = {}
    for first, second in combinations(range(len(names)), 2):
        differences = np.round(table[:, first] - table[:, second], DECIMALS)
        found[names[first], names[second]] = differences
    p_values = [signed_rank_p_value(differences) for differences in found.values()]
    return {
        pair: PairTest(p, adjusted, int((differences > 0).sum()), int((differences < 0).sum()))
        for (pair, differences), p, adjusted in zip(found.items(), p_values, holm(p_values), strict=True)
    }
