"""Tests means, intervals and paired differences, against scipy.stats and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import means

FRACTIONS = st.floats(0, 1)


def test_a_worked_example():
    """2, 4, 6 have mean 4 and deviation 2; the .975 quantile of t(2) is 4.302653, divided by the root of 3."""
    found = stats.estimate([2.0, 4.0, 6.0])
    half = 4.302652729911275 * 2 / math.sqrt(3)
    assert (found.n, found.mean, found.sd) == (3, 4.0, 2.0)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))


@given(st.lists(FRACTIONS, min_size=2, max_size=12))
@settings(deadline=None, max_examples=50)
def test_the_interval_agrees_with_scipy(values):
    """Mean, deviation and interval agree with numpy and scipy.stats."""
    found = stats.estimate(values)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=1e-9)


def test_the_quantile_table_agrees_with_scipy():
    """The table of t quantiles, which avoids importing scipy, has scipy's values."""
    expected = [scipy.stats.t.ppf(0.975, degrees) for degrees in means.T_QUANTILES]
    assert list(means.T_QUANTILES) == list(range(1, 31))
    assert list(means.T_QUANTILES.values()) == pytest.approx(expected, rel=1e-9)


def test_one_value_has_no_spread():
    """A single seed has a mean, but no deviation and no interval."""
    assert stats.estimate([0.5]) == stats.MeanEstimate(1, 0.5, None, None, None)


def test_only_common_seeds_are_paired():
    """Seeds 1 and 3 are common: the differences are .1 and .3, whatever the other seeds contain."""
    found = stats.paired({0: 9.0, 1: 0.6, 3: 0.8}, {1: 0.5, 2: 7.0, 3: 0.5})
    assert found is not None
    assert (found.n, found.mean) == (2, pytest.approx(0.2))
    assert found.sd == pytest.approx(math.sqrt(0.02))


def test_without_common_seeds_there_is_no_difference():
    """Values of different seeds are never paired."""
    assert stats.paired({0: 1.0}, {1: 1.0}) is None


@given(st.dictionaries(st.integers(0, 9), FRACTIONS, min_size=1), FRACTIONS)
@settings(deadline=None, max_examples=50)
def test_a_constant_shift_has_no_spread(values, shift):
    """Pairing removes every effect that a seed has on both methods."""
    found = stats.paired({seed: value + shift for seed, value in values.items()}, values)
    assert found is not None
    assert found.mean == pytest.approx(shift, abs=1e-9)
    assert found.sd is None or found.sd == pytest.approx(0, abs=1e-9)


def test_labels_follow_the_number_of_seeds():
    """One seed is single, 2 to 5 are provisional, 6 or more are official."""
    assert [stats.label(n) for n in (0, 1, 2, 5, 6, 100)] == [
        *("none", "single", "provisional", "provisional", "official", "official")
    ]


def test_six_seeds_can_reach_significance():
    """A signed-rank test cannot give p below .05 with five pairs, but it can with six."""
    p = {n: scipy.stats.wilcoxon(np.arange(1, n + 1), method="exact").pvalue for n in (5, 6)}
    assert p[stats.OFFICIAL - 1] > 0.05 > p[stats.OFFICIAL]


@pytest.mark.parametrize("n", [2, 3, 6])
def test_t_intervals_have_nominal_coverage(n):
    """Of 20,000 samples of normal data, 95 % have the true mean in their interval."""
    samples = np.random.default_rng(n).normal(size=(20_000, n)).tolist()
    covered = sum(found.low <= 0 <= found.high for found in map(stats.estimate, samples))
    assert covered / 20_000 == pytest.approx(0.95, abs=0.01)


def test_paired_intervals_have_nominal_coverage():
    """This holds even if the common effect of seeds is far larger than the difference."""
    random = np.random.default_rng(0)
    first = random.normal(size=(8_000, 1, 3)) * 10 + random.normal(size=(8_000, 2, 3))
    found = [stats.paired(dict(enumerate(a)), dict(enumerate(b))) for a, b in first.tolist()]
    assert sum(one.low <= 0 <= one.high for one in found) / 8_000 == pytest.approx(0.95, abs=0.01)


@given(st.dictionaries(st.integers(0, 9), FRACTIONS, min_size=2), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_order_of_seeds_does_not_matter(values, random):
    """Mappings in another order give exactly the same difference."""
    second = {seed: random.random() for seed in values}
    shuffled = dict(random.sample(list(values.items()), len(values)))
    assert stats.paired(shuffled, second) == stats.paired(values, second)
