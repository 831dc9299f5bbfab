"""P(A > B): the probability that method A is better than method B if both are run with one new seed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pruneboard.leaderboard.stats.bootstrap import TAIL, Interval

PROBABILITY_COVERAGE = {2: 0.97, 3: 0.97, 4: 0.94, 5: 0.91, 6: 0.87}
"""Number of seeds -> smallest coverage of the interval over all true probabilities, without ties. Summed exactly over
all outcomes and rounded down."""

MIN_COVERAGE = 0.84
"""The same for any other number of seeds. The minimum is near 0 and 1, where percentile intervals are too narrow."""

MIN_COVERAGE_WITH_TIES = 0.70
"""The same if there are ties. The minimum is where most seeds tie."""


def probability_above(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Estimate P(first > second) over the common seeds; None if there are none.

    The estimate is the fraction of seeds for which `first` is higher (Bouthillier et al. 2021, arXiv:2103.03098). A tie
    counts one half, as in the statistic of Mann and Whitney. The interval is the exact seed bootstrap. If all seeds
    have the same outcome (win, tie or loss), every resample has it too, and the bootstrap interval would be a single
    point; in this case the interval is the exact binomial one.

    Args:
        first: seed -> score; higher is better.
        second: seed -> score with the same initial weights, split and order.
    """
    seeds = first.keys() & second.keys()
    n = len(seeds)
    if not n:
        return None
    wins = sum(first[seed] > second[seed] for seed in seeds)
    ties = sum(first[seed] == second[seed] for seed in seeds)
    value = (wins + ties / 2) / n
    if n == 1:
        return Interval(value, None, None, n, None)
    low, high = _binomial_ends(n, value) if n in {wins, ties, n - wins - ties} else _bootstrap_ends(n, wins, ties)
    return Interval(value, low, high, n, _coverage(n, ties))


def _coverage(n: int, ties: int) -> float:
    return MIN_COVERAGE_WITH_TIES if ties else PROBABILITY_COVERAGE.get(n, MIN_COVERAGE)


def _binomial_ends(n: int, value: float) -> tuple[float, float]:
    """Return the ends if all n seeds have the same outcome, worth `value` (0, .5 or 1).

    If that outcome has probability p, n seeds all have it with probability p**n. The smallest p for which this is
    `TAIL` is p = TAIL**(1 / n). The remaining probability 1 - p can consist entirely of losses (lower end) or entirely
    of wins (upper end).
    """
    least: float = TAIL ** (1 / n)
    return value * least, 1 - (1 - value) * least


@lru_cache(maxsize=4096)
def _bootstrap_ends(n: int, wins: int, ties: int) -> tuple[float, float]:
    """Return the percentile ends of the exact bootstrap distribution.

    Nothing has to be resampled: with loss = 0, tie = 1 and win = 2, the sum of n seeds drawn with replacement is
    distributed as the n-fold convolution of the observed frequencies, which the FFT computes as an n-th power.
    """
    import numpy as np

    size = 2 * n + 1  # possible sums: 0 to 2 n
    frequencies = np.array([n - wins - ties, ties, wins]) / n
    probability = np.fft.irfft(np.fft.rfft(frequencies, size) ** n, size)
    need = TAIL - 1e-9  # more than the rounding error of the FFT
    low = int(np.argmax(np.cumsum(probability) >= need))
    high = 2 * n - int(np.argmax(np.cumsum(probability[::-1]) >= need))
    return low / (2 * n), high / (2 * n)
