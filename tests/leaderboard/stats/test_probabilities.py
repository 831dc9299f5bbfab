"""Tests P(A > B): its value, its bootstrap interval, and the coverage of the interval."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap_cases import percentile, seed_scores
from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats.probabilities import MIN_COVERAGE, MIN_COVERAGE_WITH_TIES


def paired_scores(n, won, tied=0):
    """Return the scores of two methods over n seeds, of which the first wins `won` and ties `tied`."""
    return {seed: 1.0 - (seed >= won) for seed in range(n)}, {
        seed: 0.5 * (not won <= seed < won + tied) for seed in range(n)
    }


def test_wins_count_one_and_ties_one_half():
    """Two wins, a tie and a loss over the four common seeds are 2.5 of 4."""
    found = stats.probability_above({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.1, 9: 1.0}, {0: 0.5, 1: 0.5, 2: 0.7, 3: 0.5, 8: 0.0})
    assert found is not None
    assert (found.value, found.n) == (2.5 / 4, 4)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6).filter(lambda given: len(set(given)) > 1))
@settings(deadline=None, max_examples=40)
def test_the_interval_equals_full_enumeration(outcomes):
    """Resampling the outcomes in all n**n ways gives the same ends."""
    first, second = dict(enumerate(outcomes)), dict.fromkeys(range(len(outcomes)), 0.5)
    found = stats.probability_above(first, second)
    assert found is not None
    expected = percentile([sum(draw) / len(outcomes) for draw in product(outcomes, repeat=len(outcomes))])
    assert (found.low, found.high) == pytest.approx(expected)


@given(seed_scores(0, 8), seed_scores(0, 8))
@settings(deadline=None, max_examples=60)
def test_the_reverse_probability_is_the_complement(first, second):
    """P(A > B) and P(B > A) add up to 1, and their intervals mirror each other and contain them."""
    one, other = stats.probability_above(first, second), stats.probability_above(second, first)
    if not first.keys() & second.keys():
        assert (one, other) == (None, None)
        return
    assert one.value + other.value == pytest.approx(1)
    if one.n == 1:
        assert (one.low, one.high, one.coverage) == (None, None, None)
    else:
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
        assert 0 <= one.low <= one.value <= one.high <= 1


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_unanimous_seeds_have_a_binomial_interval(n):
    """If all n seeds agree, the lower end is the probability at which they do so in 2.5 % of all samples."""
    found = stats.probability_above(*paired_scores(n, n))
    assert found is not None
    assert found.low == pytest.approx(scipy.stats.beta.ppf(0.025, n, 1))
    assert found.low**n == pytest.approx(0.025)
    assert (found.value, found.high) == (1, 1)
    tied = stats.probability_above(*paired_scores(n, 0, n))
    assert tied is not None
    assert (tied.value, tied.low + tied.high) == (0.5, pytest.approx(1))


@pytest.mark.parametrize("n", [*range(2, 13), 15, 20, 30, 60, 100])
def test_coverage_is_at_least_the_reported_minimum(n):
    """Summed over all outcomes, next to every end of an interval, where the coverage jumps."""
    found = [stats.probability_above(*paired_scores(n, won)) for won in range(n + 1)]
    low, high = np.array([one.low for one in found]), np.array([one.high for one in found])

    def covered(p):
        return scipy.stats.binom.pmf(range(n + 1), n, p) @ ((low <= p) & (p <= high))

    beside = np.concatenate([low - 1e-9, low + 1e-9, high - 1e-9, high + 1e-9])
    least = min(covered(p) for p in beside[(beside > 0) & (beside < 1)])
    assert {one.coverage for one in found} == {stats.PROBABILITY_COVERAGE.get(n, MIN_COVERAGE)}
    assert found[0].coverage <= least < found[0].coverage + 0.03
    assert np.mean([covered(p) for p in np.linspace(0.005, 0.995, 199)]) > 0.935


@pytest.mark.parametrize("n", [2, 3, 4, 6, 10, 20])
def test_coverage_with_ties_is_at_least_the_reported_minimum(n):
    """The same on a grid of probabilities of a win, a tie and a loss."""
    share, split = np.meshgrid(np.linspace(0, 0.995, 100), np.linspace(0, 1, 201))
    win, loss = (1 - share) * split, (1 - share) * (1 - split)
    covered = np.zeros_like(share)
    for won, tied in ((a, b) for a in range(n + 1) for b in range(n + 1 - a)):
        found = stats.probability_above(*paired_scores(n, won, tied))
        ways = math.comb(n, won) * math.comb(n - won, tied)
        covers = (found.low - 1e-9 <= win + share / 2) & (win + share / 2 <= found.high + 1e-9)
        covered += ways * win**won * share**tied * loss ** (n - won - tied) * covers
        assert not tied or found.coverage == MIN_COVERAGE_WITH_TIES
    assert MIN_COVERAGE_WITH_TIES <= covered.min() < MIN_COVERAGE_WITH_TIES + 0.07
