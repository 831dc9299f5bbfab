"""Means, paired differences and Student-t intervals.

The interval is wide with two seeds and does not exist with one. A sample this small also cannot show whether its values
are normal, as the interval assumes. Therefore `label` classifies every row by its number of seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

OFFICIAL = 6
"""Number of seeds from which a row is official: the smallest exact two-sided p of a paired signed-rank test is .0625
with 5 seeds and .031 with 6."""

UPPER_QUANTILE = 0.975
"""Upper quantile of a two-sided 95 % interval."""

# fmt: off
_QUANTILES = (
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
    2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
    2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
    2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
    2.0555294386428735, 2.0518305164802846, 2.0484071417952454, 2.045229642132703, 2.0422724563012378,
)
# fmt: on
T_QUANTILES = dict(enumerate(_QUANTILES, start=1))
"""Degrees of freedom, 1 to 30 -> .975 quantile of Student's t, computed by scipy.special.stdtrit. The table exists
because importing scipy takes longer than `pruneboard compare` of a small folder."""


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over seeds with its Student-t interval.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: sample standard deviation, with n - 1 in the denominator; None for one value.
        low: lower end of the Student-t 95 % interval of the mean; None for one value.
        high: upper end.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float], confidence: float = 0.95) -> MeanEstimate:
    """Return mean, sample standard deviation and the Student-t interval `mean ± t(n - 1) * sd / sqrt(n)`.

    Args:
        values: at least one finite number.
        confidence: coverage of the interval if the values are normal.
    """
    mean = statistics.fmean(values)
    n = len(values)
    if n < 2:
        return MeanEstimate(n, mean)
    sd = statistics.stdev(values)
    half = _t_quantile(n - 1, (1 + confidence) / 2) * sd / math.sqrt(n)
    return MeanEstimate(n, mean, sd, mean - half, mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95) -> MeanEstimate | None:
    """Estimate the mean of `first - second` over the common seeds; None if there are none.

    Args:
        first: seed -> value.
        second: seed -> value with the same initial weights, split and order.
        confidence: as for `estimate`.
    """
    seeds = sorted(first.keys() & second.keys())
    return estimate([first[seed] - second[seed] for seed in seeds], confidence) if seeds else None


def label(n: int) -> str:
    """Return the status of n seeds: `none` (0), `single` (1), `provisional` (2 to 5) or `official` (6 or more)."""
    if n < 2:
        return "single" if n else "none"
    return "official" if n >= OFFICIAL else "provisional"


@lru_cache(maxsize=1024)
def _t_quantile(degrees: int, probability: float) -> float:
    if probability == UPPER_QUANTILE and degrees in T_QUANTILES:
        return T_QUANTILES[degrees]
    from scipy import special

    return float(special.stdtrit(degrees, probability))
