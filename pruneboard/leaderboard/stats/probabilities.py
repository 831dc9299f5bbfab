"""P(A > B): how often would method A come out above method B, were both run once more from one seed?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pruneboard.leaderboard.stats.bootstrap import TAIL, Interval

PROBABILITY_COVERAGE = {2: 0.97, 3: 0.97, 4: 0.94, 5: 0.91, 6: 0.87}
"""Seeds -> how often the interval holds the true probability at the least, whichever that is: summed exactly over
all outcomes (no ties), rounded down."""

AT_LEAST = 0.84
"""The same for any number of seeds: it is least near 0 and 1, where a percentile interval is too narrow at any n."""

AT_LEAST_TIED = 0.70
"""The same where ties count: it is least where most seeds tie."""


def probability_above(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Estimate P(first > second) over the seeds both have; None if they share none.

    The share of seeds at which `first` is above (Bouthillier et al. 2021, arXiv:2103.03098), a tie counting
    one half as in Mann and Whitney's statistic. Its seed bootstrap needs no drawing: the sum over n resampled
    seeds follows the n-fold convolution of what the seeds gave. Where all seeds gave the same, every
    resample does too, and the interval would be a point; its ends are then those of the exact binomial: the
    others of the three outcomes may together be as likely as leaves n equal seeds in a row a chance of 2.5 %.

    Args:
        first: seed -> score; higher is better.
        second: seed -> score from the same initial weights, split and order.
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
    low, high = _unanimous(n, value) if n in {wins, ties, n - wins - ties} else _mixed(n, wins, ties)
    return Interval(value, low, high, n, _coverage(n, ties))


def _coverage(n: int, ties: int) -> float:
    return AT_LEAST_TIED if ties else PROBABILITY_COVERAGE.get(n, AT_LEAST)


def _unanimous(n: int, value: float) -> tuple[float, float]:
    share: float = TAIL ** (1 / n)  # of the outcome that was seen, at the least
    return value * share, 1 - (1 - value) * share


@lru_cache(maxsize=4096)
def _mixed(n: int, wins: int, ties: int) -> tuple[float, float]:
    """Return the percentile ends of the exact bootstrap distribution."""
    import numpy as np

    size = 2 * n + 1  # a loss is worth 0, a tie 1, a win 2
    once = np.array([n - wins - ties, ties, wins]) / n
    chance = np.fft.irfft(np.fft.rfft(once, size) ** n, size)
    need = TAIL - 1e-9  # the transform's rounding, and more
    low = int(np.argmax(np.cumsum(chance) >= need))
    high = 2 * n - int(np.argmax(np.cumsum(chance[::-1]) >= need))
    return low / (2 * n), high / (2 * n)
