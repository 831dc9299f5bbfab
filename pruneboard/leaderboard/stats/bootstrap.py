"""The seed bootstrap: confidence intervals by resampling seeds.

For a statistic T of the results of n seeds, n seeds s*_1, ..., s*_n are drawn with replacement from the n seeds, and
T* = T(s*_1, ..., s*_n) is computed. The interval is

    [q_.025, q_.975], the percentiles of the distribution of T* (Efron's percentile interval).

Seeds are the unit of resampling, not single runs. All methods and operating points that share a seed are drawn
together, so differences within a seed, such as the effect of common initial weights, are kept. No parametric form is
assumed, and the same procedure works for means, ranks and areas.

For up to 7 seeds, all n**n draws are enumerated. They are C(2n - 1, n) different multisets, each weighted by its
multinomial coefficient n! / (c_1! ... c_n!), where c_i is how often seed i was drawn. At these sizes this is cheaper
than drawing and has no Monte Carlo error.

With few seeds, percentile intervals are too narrow. The interval is not widened; instead, `COVERAGE` gives its actual
coverage, which is reported next to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from pruneboard import draws

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 2_000
"""Number of drawn resamples if they are not enumerated. 50 of them are beyond each end, so the share beyond an end is
2.5 % with a standard error of .35 %, which is small compared with the error of the method itself at such n."""

EXACT_UP_TO = 7
"""Largest number of seeds whose resamples are enumerated: 7 seeds have 1,716 different resamples, fewer than would be
drawn; 8 seeds have 6,435."""

TAIL = 0.025
"""Share of the resamples beyond each end of an interval."""

# fmt: off
_PERCENT = (
    50, 75, 80, 84, 86, 88, 89, 90, 90,
    91, 91, 92, 92, 92, 92, 92, 93, 93, 93, 93, 93, 93, 93, 93, 93, 93, 93, 94, 94,
)
# fmt: on
COVERAGE = {n: percent / 100 for n, percent in enumerate(_PERCENT, start=2)}
"""Number of seeds, 2 to 30 -> actual coverage of the nominal 95 % interval for the mean of normal data, to two
decimals. Simulated with 200,000 samples each and the resamples that are used here. The values for 2 and 3 are exact:
there the interval extends from the smallest value to the largest. The tests repeat the simulation."""

_BLOCK_SIZE = 2**21  # numbers in the largest array of one block of resamples: 16 MiB


@dataclass(frozen=True)
class Interval:
    """A statistic of n seeds with its seed-bootstrap interval.

    Attributes:
        value: the statistic.
        low: lower end of the interval; None for a single seed, which cannot be resampled.
        high: upper end.
        n: number of seeds.
        coverage: actual coverage of such an interval for this n, instead of the nominal .95; None if there is no
            interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    coverage: float | None


def coverage(n: int) -> float | None:
    """Return `COVERAGE` for n seeds; beyond the table its last entry, a lower bound; None for fewer than two seeds."""
    return None if n < 2 else COVERAGE[min(n, max(COVERAGE))]


def resampled_means(groups: Sequence[Mapping[int, float]]) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of resamples: means `[resamples, groups]` and weights `[resamples]`.

    The seeds of all groups are resampled together. The mean of a group is over the drawn seeds that the group has,
    counted as often as they were drawn; it is NaN if the group has none of them.

    Args:
        groups: one mapping seed -> value per group; none is empty.
    """
    import numpy as np

    position = {seed: index for index, seed in enumerate(sorted(set().union(*groups)))}
    columns = np.array([position[seed] for group in groups for seed in sorted(group)])
    values = np.array([group[seed] for group in groups for seed in sorted(group)], dtype=float)
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])  # of each group within `values`
    for counts, weights in _resamples(len(position), len(values)):
        picked = counts[:, columns]  # [resamples, values]: how often each value was drawn
        with np.errstate(invalid="ignore"):
            yield np.add.reduceat(picked * values, starts, axis=1) / np.add.reduceat(picked, starts, axis=1), weights


def percentile_interval(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the percentile interval of weighted values.

    The lower end is the smallest value with at least `TAIL` of the weight at or below it; the upper end is the largest
    value with at least `TAIL` of the weight at or above it. Both ends are therefore values that occur, without
    interpolation, and the interval of the negated values is the negated interval.
    """
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered, weight = values[order], weights[order]
    need = TAIL * weight.sum()
    low = np.searchsorted(np.cumsum(weight), need)
    high = len(ordered) - 1 - np.searchsorted(np.cumsum(weight[::-1]), need)
    return float(ordered[low]), float(ordered[high])


def _resamples(n: int, width: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of (counts `[resamples, n]`, weights `[resamples]`), small enough for arrays of `width` columns."""
    rows = max(1, _BLOCK_SIZE // max(n, width))
    if n <= EXACT_UP_TO:
        counts, weights = _enumerated(n)
        yield from ((counts[at : at + rows], weights[at : at + rows]) for at in range(0, len(counts), rows))
    else:
        yield from _drawn(n, rows)


@lru_cache(maxsize=EXACT_UP_TO)
def _enumerated(n: int) -> tuple[Floats, Floats]:
    """Return the counts of every different resample of n seeds, and how many of the n**n ordered draws give it."""
    import numpy as np

    picks = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(pick, minlength=n) for pick in picks], dtype=float)
    ways = [math.factorial(n) // math.prod(math.factorial(int(count)) for count in row) for row in counts]
    return counts, np.array(ways, dtype=float)


def _drawn(n: int, rows: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield `RESAMPLES` drawn resamples in blocks. They are the same for every set of n seeds and every block size."""
    import numpy as np

    # numpy guarantees that the raw bits of PCG64 stay the same in later versions, but not its methods such as `choice`.
    bits = np.random.PCG64(draws.key("seed bootstrap", n))
    for done in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - done)
        picks = (bits.random_raw(size * n) % np.uint64(n)).astype(np.int64).reshape(size, n)
        cells = (picks + n * np.arange(size)[:, None]).ravel()
        yield np.bincount(cells, minlength=size * n).reshape(size, n).astype(float), np.ones(size)
