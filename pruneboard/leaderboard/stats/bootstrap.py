"""The seed bootstrap: what would another sample of seeds have given?

n seeds are drawn from the n seeds with replacement, the same ones for everything that shares them, so that
pairing is kept; what is asked is computed from each such resample; the interval runs between the points
that leave 2.5 % of the resamples on either side (Efron's percentile interval). With few seeds that is too
narrow, and `COVERAGE` says by how much.

Up to 7 seeds all resamples are enumerated with their exact weights, so nothing is random at all.
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
"""Resamples drawn where they are not enumerated. Beyond each end lie 50 of them, so the share beyond it is
2.5 % give or take .35 % (one standard error): little beside what the method itself lacks at such n."""

EXACT_UP_TO = 7
"""Seeds up to which every resample is enumerated: 7 seeds have 1,716 different resamples, fewer than would be
drawn; 8 have 6,435."""

TAIL = 0.025
"""Share of the resamples beyond either end."""

# fmt: off
_PERCENT = (
    50, 75, 80, 84, 86, 88, 89, 90, 90,
    91, 91, 92, 92, 92, 92, 92, 93, 93, 93, 93, 93, 93, 93, 93, 93, 93, 93, 94, 94,
)
# fmt: on
COVERAGE = {n: percent / 100 for n, percent in enumerate(_PERCENT, start=2)}
"""Seeds, 2 to 30 -> how often the interval of a mean of normal data holds the true mean, to two decimals, by a
simulation of 200,000 samples each with the very resamples that are used here. (1/2 and 3/4 are exact: there the
interval runs from the least value to the greatest.) The tests simulate it again."""

_CELLS = 2**21  # numbers in the largest array of one block of resamples: 16 MiB


@dataclass(frozen=True)
class Interval:
    """A number computed from n seeds, and its seed-bootstrap interval.

    Attributes:
        value: the number itself.
        low: lower end of the interval; None where a single seed leaves nothing to resample.
        high: upper end.
        n: number of seeds.
        coverage: how often an interval of this kind holds the truth at this n, in place of the nominal .95;
            None where there is no interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    coverage: float | None


def coverage(n: int) -> float | None:
    """Return the entry of `COVERAGE` for n seeds: the last one beyond the table (it still rises), None below 2."""
    return None if n < 2 else COVERAGE[min(n, max(COVERAGE))]


def resampled_means(groups: Sequence[Mapping[int, float]]) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of resamples: means of shape (resamples, groups), and the resamples' weights.

    The seeds of all groups are resampled together. A group's mean is over those resampled seeds that it has,
    and NaN where it has none of them.

    Args:
        groups: seed -> value, none of them empty.
    """
    import numpy as np

    position = {seed: index for index, seed in enumerate(sorted(set().union(*groups)))}
    columns = np.array([position[seed] for group in groups for seed in sorted(group)])
    values = np.array([group[seed] for group in groups for seed in sorted(group)], dtype=float)
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    for counts, weights in _resamples(len(position), len(values)):
        picked = counts[:, columns]
        with np.errstate(invalid="ignore"):
            yield np.add.reduceat(picked * values, starts, axis=1) / np.add.reduceat(picked, starts, axis=1), weights


def ends(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the percentile interval of weighted values.

    The lower end is the least value with at least `TAIL` of the weight at or below it, the upper end the
    greatest with at least as much at or above it; so changing the sign of all values swaps the ends.
    """
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered, weight = values[order], weights[order]
    need = TAIL * weight.sum()
    low = np.searchsorted(np.cumsum(weight), need)
    high = len(ordered) - 1 - np.searchsorted(np.cumsum(weight[::-1]), need)
    return float(ordered[low]), float(ordered[high])


def _resamples(n: int, width: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of (how often each of n seeds was drawn, weight of that), small enough for `width` columns."""
    rows = max(1, _CELLS // max(n, width))
    if n <= EXACT_UP_TO:
        counts, weights = _enumerated(n)
        yield from ((counts[at : at + rows], weights[at : at + rows]) for at in range(0, len(counts), rows))
    else:
        yield from _drawn(n, rows)


@lru_cache(maxsize=EXACT_UP_TO)
def _enumerated(n: int) -> tuple[Floats, Floats]:
    """Return every resample of n seeds once, and in how many of the n**n ordered draws it comes up."""
    import numpy as np

    picks = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(pick, minlength=n) for pick in picks], dtype=float)
    ways = [math.factorial(n) // math.prod(math.factorial(int(count)) for count in row) for row in counts]
    return counts, np.array(ways, dtype=float)


def _drawn(n: int, rows: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield `RESAMPLES` drawn resamples: the same ones for every set of n seeds, in blocks of any size."""
    import numpy as np

    # numpy promises that the raw bits stay what they are in later versions, which it does not of its draws.
    bits = np.random.PCG64(draws.key("seed bootstrap", n))
    for done in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - done)
        picks = (bits.random_raw(size * n) % np.uint64(n)).astype(np.int64).reshape(size, n)
        cells = (picks + n * np.arange(size)[:, None]).ravel()
        yield np.bincount(cells, minlength=size * n).reshape(size, n).astype(float), np.ones(size)
