"""Tests rank intervals: against plain enumeration, and their actual coverage."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import RankInterval
from pruneboard.leaderboard.stats.ranks import descending_ranks

ACCURACIES = st.integers(0, 16).map(lambda count: count / 16)
BOARDS = st.dictionaries(
    st.sampled_from("abcdef"), st.dictionaries(st.integers(0, 3), ACCURACIES, max_size=4), min_size=2
)
"""Method -> seed -> accuracy, with gaps and many ties."""


def enumerated(scores):
    """Return the rank intervals from all n**n draws, in exact arithmetic and without arrays."""
    scores = {name: {s: Fraction(v) for s, v in row.items()} for name, row in scores.items() if len(row) > 1}
    means = {name: statistics.mean(row.values()) for name, row in scores.items()}
    seeds = sorted(set().union(*scores.values()))
    drawn = {name: [] for name in scores}
    for draw in product(seeds, repeat=len(seeds)):
        own = {name: [row[seed] for seed in draw if seed in row] for name, row in scores.items()}
        now = {name: statistics.mean(values) if values else means[name] for name, values in own.items()}
        for name in (name for name, values in own.items() if values):
            drawn[name].append(rank_of(now, name))
    return {name: (rank_of(means, name), *percentile(drawn[name])) for name in scores} if len(scores) > 1 else {}


def rank_of(means, name):
    """Return 1 plus the number of better means."""
    return 1 + sum(mean > means[name] for mean in means.values())


def percentile(values):
    """Return the percentile percentile of equally likely values."""
    beyond = math.ceil(Fraction(25, 1000) * len(values)) - 1
    return sorted(values)[beyond], sorted(values)[-1 - beyond]


@given(BOARDS)
@settings(deadline=None, max_examples=40)
def test_ranks_equal_full_enumeration(scores):
    """Ranks and ends agree with an enumeration of every draw, and the rank is always inside its interval."""
    expected = {
        name: RankInterval(rank, min(low, rank), max(high, rank), len(scores[name]))
        for name, (rank, low, high) in enumerated(scores).items()
    }
    assert stats.rank_intervals(scores) == expected


@given(BOARDS, st.integers(-8, 8), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_and_level_do_not_matter(scores, shift, random):
    """Another order of methods and seeds, and a constant added to all scores, change nothing."""

    def shuffled(mapping):
        return dict(random.sample(list(mapping.items()), len(mapping)))

    moved = {name: shuffled({seed: value + shift for seed, value in row.items()}) for name, row in scores.items()}
    assert stats.rank_intervals(shuffled(moved)) == stats.rank_intervals(scores)


@given(st.lists(st.lists(st.floats(0, 1), min_size=10, max_size=10), min_size=2, max_size=6))
@settings(deadline=None, max_examples=20)
def test_drawn_intervals_contain_the_rank(rows):
    """With ten seeds, which are drawn and not enumerated: 1 <= low <= rank <= high <= number of methods."""
    found = stats.rank_intervals({index: dict(enumerate(row)) for index, row in enumerate(rows)})
    assert all(1 <= one.low <= one.rank <= one.high <= len(rows) for one in found.values())
    assert min(one.rank for one in found.values()) == 1


def test_pairing_is_kept():
    """A method that is slightly better for every seed is never overtaken, however much the seeds differ."""
    noise = np.random.default_rng(0).normal(size=10)
    found = stats.rank_intervals({"better": dict(enumerate(noise + 0.001)), "worse": dict(enumerate(noise))})
    assert found == {"better": RankInterval(1, 1, 1, 10), "worse": RankInterval(2, 2, 2, 10)}


def test_a_method_without_drawn_seeds_keeps_its_mean():
    """In a tenth of the resamples none of its two seeds is drawn; the other method does not move up for that."""
    found = stats.rank_intervals({"few": {0: 0.9, 1: 0.9}, "many": dict.fromkeys(range(10), 0.1)})
    assert found == {"few": RankInterval(1, 1, 1, 2), "many": RankInterval(2, 2, 2, 10)}


def test_a_single_seed_is_not_ranked():
    """A lucky single run affects no other rank, and a single remaining method has no rank."""
    assert stats.rank_intervals({"lucky": {0: 1.0}, "a": {0: 0.5, 1: 0.5}}) == {}
    found = stats.rank_intervals({"lucky": {0: 1.0}, "a": {0: 0.5, 1: 0.5}, "b": {0: 0.4, 1: 0.4}})
    assert (found.keys(), found["a"].rank) == ({"a", "b"}, 1)


def test_rounding_makes_no_difference():
    """The means of .1 and .2 and of .3 and 0 are equal, though not in floating point."""
    found = stats.rank_intervals({"a": {0: 0.1, 1: 0.2}, "b": {0: 0.3, 1: 0.0}})
    assert statistics.fmean([0.1, 0.2]) != statistics.fmean([0.3, 0.0])
    assert {one.rank for one in found.values()} == {1}


def test_equal_methods_share_the_first_rank():
    """Copies of a method are all first, even in every resample."""
    found = stats.rank_intervals({name: {0: 0.1, 1: 0.7, 2: 0.4} for name in "abc"})
    assert set(found.values()) == {RankInterval(1, 1, 1, 3)}


def test_an_interval_is_extended_to_its_rank():
    """Eighty methods with equal means are all first, although hardly any is first in 2.5 % of the resamples."""
    values = np.random.default_rng(0).permuted(np.tile(np.arange(10.0), (80, 1)), axis=1)
    found = stats.rank_intervals({index: dict(enumerate(row)) for index, row in enumerate(values.tolist())})
    assert {(one.rank, one.low) for one in found.values()} == {(1, 1)}
    assert min(one.high for one in found.values()) > 40


@given(st.lists(st.lists(ACCURACIES, min_size=5, max_size=5), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_rows_are_ranked_as_scipy_does(rows):
    """The ranks of each row are scipy's `min` ranks of the negated scores."""
    assert np.array_equal(descending_ranks(np.array(rows)), scipy.stats.rankdata(-np.array(rows), "min", axis=1))


@pytest.mark.parametrize(("n", "gap", "measured"), [(3, 1, 0.98), (6, 1, 1.0), (3, 0.25, 0.86), (6, 0.25, 0.95)])
def test_coverage_of_a_rank_depends_on_the_gaps(n, gap, measured):
    """Share of true ranks inside the interval, for five methods whose true means are this many deviations apart."""
    random, methods = np.random.default_rng(n), range(5)
    covered = 0
    for _ in range(500):
        scores = {method: dict(enumerate(random.normal(-gap * method, size=n).tolist())) for method in methods}
        found = stats.rank_intervals(scores)
        covered += sum(found[method].low <= method + 1 <= found[method].high for method in methods)
    assert covered / 2_500 == pytest.approx(measured, abs=0.02)
