"""Samples of seeds and an independent percentile interval, for tests of the seed bootstrap."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

from pruneboard.leaderboard.stats import bootstrap

ACCURACIES = st.integers(0, 64).map(lambda count: count / 64)
"""Correct images of 64: sums and means of a few are exact, so that ties are ties in any order of addition."""


def seed_scores(least, most):
    """A strategy for mappings seed -> accuracy."""
    return st.dictionaries(st.integers(0, 9), ACCURACIES, min_size=least, max_size=most)


def percentile(values):
    """Return the ends of equally likely values: 2.5 % of them are at or beyond each end."""
    ordered = sorted(values)
    beyond = math.ceil(Fraction(25, 1000) * len(ordered)) - 1
    return ordered[beyond], ordered[-1 - beyond]


def interval(values):
    """Return the interval of one mean, as computed by the module under test."""
    ((means, weights),) = bootstrap.resampled_means([dict(enumerate(values))])
    return bootstrap.percentile_interval(means[:, 0], weights)
