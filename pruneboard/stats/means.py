"""Means, paired differences, Student-t intervals.

With two seeds an interval is wide and with one there is none; a sample this small says nothing about its
own shape, which is why `label` names what a number of seeds is worth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

OFFICIAL = 6
"""Seeds from which a row is official: the smallest exact two-sided p of a paired signed-rank test is
.0625 at 5 and .031 at 6."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how far it can be trusted.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: sample standard deviation (n - 1 in the denominator); None for one value.
        low: lower end of the Student-t 95 % interval of the mean; None for one value.
        high: upper end.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return mean, sample deviation and the Student-t interval `mean ± t(n - 1) * sd / sqrt(n)`.

    Args:
        values: at least one finite number.
        confidence: coverage of the interval if the values are normal.
    """
    mean = statistics.fmean(values)
    n = len(values)
    if n < 2:
        return Estimate(n, mean)
    sd = statistics.stdev(values)
    half = _quantile(n - 1, (1 + confidence) / 2) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95) -> Estimate | None:
    """Estimate `first - second` over the seeds both have; None if they share none.

    Args:
        first: seed -> value.
        second: seed -> value under the same initial weights, split and order.
        confidence: as for `estimate`.
    """
    seeds = sorted(first.keys() & second.keys())
    return estimate([first[seed] - second[seed] for seed in seeds], confidence) if seeds else None


def label(n: int) -> str:
    """Return what `n` seeds are worth: `single`, `provisional` (2 to 5), `official` (6 or more); `none` for 0."""
    if n < 2:
        return "single" if n else "none"
    return "official" if n >= OFFICIAL else "provisional"


@lru_cache(maxsize=1024)
def _quantile(degrees: int, probability: float) -> float:
    from scipy import special  # half a second that only a board with repeated seeds has to pay

    return float(special.stdtrit(degrees, probability))
