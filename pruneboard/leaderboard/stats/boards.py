"""Several boards together: mean ranks, Wilcoxon's signed-rank test for each pair, Holm's correction.

A board is one observation: its operating points share seeds, so they enter as one score (a mean, or an area),
which is the caller's choice. Demšar (2006, JMLR 7:1-30) is the source of the procedure.
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
"""What an adjusted p-value is compared with."""

_EXACT_BOARDS = 50  # beyond, the normal approximation, as in scipy.stats.wilcoxon


@dataclass(frozen=True)
class Pair:
    """Two methods over all boards.

    Attributes:
        p: two-sided p-value of the signed-rank test: are the differences symmetric about 0?
        adjusted: the same after Holm's correction for all pairs; below `LEVEL` the pair differs.
        wins: boards on which the first method is above the second.
        losses: boards on which it is below.
    """

    p: float
    adjusted: float
    wins: int
    losses: int


@dataclass(frozen=True)
class Across:
    """What several boards say together.

    Attributes:
        boards: number of boards that have all the methods.
        mean_rank: method -> rank averaged over those boards, 1 the best; equal scores share the mean of
            their ranks. Empty without a board.
        pairs: (method, method), in alphabetical order -> test. Empty where there are too few boards.
        needed: boards it takes for the smallest possible p-value to survive the correction.
    """

    boards: int
    mean_rank: Mapping[str, float]
    pairs: Mapping[tuple[str, str], Pair]
    needed: int

    @property
    def verdict(self) -> str:
        """Why there are no tests, in a few words; empty where there are."""
        return f"too few boards: {self.boards}, and it takes {self.needed}" if self.boards < self.needed else ""


def across_boards(scores: Mapping[Hashable, Mapping[str, float]], methods: Collection[str] | None = None) -> Across:
    """Compare methods over the boards on which all of them are.

    Args:
        scores: board -> method -> score; higher is better.
        methods: the methods to compare; by default all that are on any board. Each method more may cost boards
            and, by the correction, power.
    """
    import numpy as np

    names = sorted(set().union(*scores.values()) if methods is None else set(methods))
    table = np.array([[found[name] for name in names] for found in scores.values() if found.keys() >= set(names)])
    needed = boards_needed(math.comb(len(names), 2))
    return Across(
        boards=len(table),
        mean_rank=dict(zip(names, _mean_ranks(table), strict=True)) if table.size else {},
        pairs=_pairs(names, table) if len(table) >= needed else {},
        needed=needed,
    )


def boards_needed(pairs: int) -> int:
    """Return the least number of boards with 2**(1 - boards) * pairs <= `LEVEL`.

    2**(1 - boards) is the smallest two-sided p-value of an exact signed-rank test; times the number of pairs
    is what Holm's correction makes of the smallest.
    """
    return 1 + math.ceil(math.log2(pairs / LEVEL)) if pairs else 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being many, in the order given (Holm 1979, Scandinavian Journal of Statistics 6:65-70).

    The smallest of m is multiplied by m, the next by m - 1 and so on; none falls below the one before it,
    none rises above 1. Whatever the tests' dependence, the chance of any false rejection stays below the
    level that the adjusted values are compared with.
    """
    adjusted = [0.0] * len(p_values)
    state = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        state = max(state, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = state
    return adjusted


def signed_rank(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, shape (boards,).

    Zero differences are dropped, as `scipy.stats.wilcoxon` does by default, and nothing but zeros gives 1. Equal
    magnitudes share the mean of their ranks, and the distribution is that of all signs given those ranks:
    exact with ties too, where scipy's `exact` is that of the untied ranks (on ties it can be too small).
    Beyond 50 differences it is scipy's normal approximation.
    """
    kept = differences[differences != 0]
    if not len(kept):
        return 1.0
    if len(kept) > _EXACT_BOARDS:
        from scipy import stats

        return float(stats.wilcoxon(kept).pvalue)
    magnitudes = abs(kept)[None]
    doubled = (descending_ranks(-magnitudes) + len(kept) + 1 - descending_ranks(magnitudes))[0]
    above = int(doubled[kept > 0].sum())
    chance = _rank_sums(tuple(sorted(doubled.tolist())))
    return min(1.0, 2 * float(chance[: min(above, len(chance) - 1 - above) + 1].sum()))


@lru_cache(maxsize=256)
def _rank_sums(ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the chance of each sum of the ranks that get a plus, every sign being equally likely."""
    import numpy as np

    chance = np.ones(1)
    for rank in ranks:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    return chance


def _mean_ranks(table: NDArray[np.float64]) -> list[float]:
    """Return the mean of the columns' ranks over the rows; equal scores share the mean of their ranks."""
    best, worst = descending_ranks(table), table.shape[1] + 1 - descending_ranks(-table)
    return [statistics.fmean(column) for column in ((best + worst) / 2).T.tolist()]


def _pairs(names: Sequence[str], table: NDArray[np.float64]) -> dict[tuple[str, str], Pair]:
    import numpy as np

    found = {}
    for first, second in combinations(range(len(names)), 2):
        differences = np.round(table[:, first] - table[:, second], DECIMALS)
        found[names[first], names[second]] = differences
    p_values = [signed_rank(differences) for differences in found.values()]
    return {
        pair: Pair(p, adjusted, int((differences > 0).sum()), int((differences < 0).sum()))
        for (pair, differences), p, adjusted in zip(found.items(), p_values, holm(p_values), strict=True)
    }
