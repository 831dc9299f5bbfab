"""Rank intervals: against plain enumeration, and what another sample of seeds really does to a rank."""

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


def by_hand(scores):
    """Rank intervals from all n**n draws, in exact arithmetic and without an array."""
    scores = {name: {s: Fraction(v) for s, v in row.items()} for name, row in scores.items() if len(row) > 1}
    means = {name: statistics.mean(row.values()) for name, row in scores.items()}
    seeds = sorted(set().union(*scores.values()))
    drawn = {name: [] for name in scores}
    for draw in product(seeds, repeat=len(seeds)):
        own = {name: [row[seed] for seed in draw if seed in row] for name, row in scores.items()}
        now = {name: statistics.mean(values) if values else means[name] for name, values in own.items()}
        for name in (name for name, values in own.items() if values):
            drawn[name].append(place(now, name))
    return {name: (place(means, name), *ends(drawn[name])) for name in scores} if len(scores) > 1 else {}


def place(means, name):
    """1 plus the number of better means."""
    return 1 + sum(mean > means[name] for mean in means.values())


def ends(values):
    """The percentile ends of equally likely values."""
    beyond = math.ceil(Fraction(25, 1000) * len(values)) - 1
    return sorted(values)[beyond], sorted(values)[-1 - beyond]


@given(BOARDS)
@settings(deadline=None, max_examples=40)
def test_ranks_are_those_of_all_resamples(scores):
    """Number, ends and who is ranked agree with counting through every draw; the rank is always inside."""
    expected = {
        name: RankInterval(rank, min(low, rank), max(high, rank), len(scores[name]))
        for name, (rank, low, high) in by_hand(scores).items()
    }
    assert stats.rank_intervals(scores) == expected


@given(BOARDS, st.integers(-8, 8), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_and_level_do_not_matter(scores, shift, random):
    """Another order of methods and seeds, and the same amount more for everyone, change nothing."""

    def shuffled(mapping):
        return dict(random.sample(list(mapping.items()), len(mapping)))

    moved = {name: shuffled({seed: value + shift for seed, value in row.items()}) for name, row in scores.items()}
    assert stats.rank_intervals(shuffled(moved)) == stats.rank_intervals(scores)


@given(st.lists(st.lists(st.floats(0, 1), min_size=10, max_size=10), min_size=2, max_size=6))
@settings(deadline=None, max_examples=20)
def test_drawn_intervals_hold_the_rank_within_the_board(rows):
    """With ten seeds, which are drawn and not enumerated: 1 <= low <= rank <= high <= methods."""
    found = stats.rank_intervals({index: dict(enumerate(row)) for index, row in enumerate(rows)})
    assert all(1 <= one.low <= one.rank <= one.high <= len(rows) for one in found.values())
    assert min(one.rank for one in found.values()) == 1


def test_pairing_is_kept():
    """A method that is a little better at every seed is never overtaken, however much seeds differ."""
    noise = np.random.default_rng(0).normal(size=10)
    found = stats.rank_intervals({"better": dict(enumerate(noise + 0.001)), "worse": dict(enumerate(noise))})
    assert found == {"better": RankInterval(1, 1, 1, 10), "worse": RankInterval(2, 2, 2, 10)}


def test_a_rival_whose_seeds_are_not_drawn_keeps_its_place():
    """Two seeds of ten are missing from a tenth of the resamples: nobody climbs for that."""
    found = stats.rank_intervals({"few": {0: 0.9, 1: 0.9}, "many": dict.fromkeys(range(10), 0.1)})
    assert found == {"few": RankInterval(1, 1, 1, 2), "many": RankInterval(2, 2, 2, 10)}


def test_one_seed_is_not_ranked_and_nobodys_rival():
    """A lucky single run takes no place from anyone, and a method left alone has no rank."""
    assert stats.rank_intervals({"lucky": {0: 1.0}, "a": {0: 0.5, 1: 0.5}}) == {}
    found = stats.rank_intervals({"lucky": {0: 1.0}, "a": {0: 0.5, 1: 0.5}, "b": {0: 0.4, 1: 0.4}})
    assert (found.keys(), found["a"].rank) == ({"a", "b"}, 1)


def test_rounding_makes_no_difference():
    """.1 and .2 have the mean of .3 and 0, though not in floating point."""
    found = stats.rank_intervals({"a": {0: 0.1, 1: 0.2}, "b": {0: 0.3, 1: 0.0}})
    assert statistics.fmean([0.1, 0.2]) != statistics.fmean([0.3, 0.0])
    assert {one.rank for one in found.values()} == {1}


def test_equal_methods_share_the_first_place():
    """Copies are all first, and stay so in every resample."""
    found = stats.rank_intervals({name: {0: 0.1, 1: 0.7, 2: 0.4} for name in "abc"})
    assert set(found.values()) == {RankInterval(1, 1, 1, 3)}


def test_an_interval_is_widened_to_hold_its_rank():
    """Eighty methods of one mean are all first, though hardly one of them is in a fortieth of the resamples."""
    values = np.random.default_rng(0).permuted(np.tile(np.arange(10.0), (80, 1)), axis=1)
    found = stats.rank_intervals({index: dict(enumerate(row)) for index, row in enumerate(values.tolist())})
    assert {(one.rank, one.low) for one in found.values()} == {(1, 1)}
    assert min(one.high for one in found.values()) > 40


@given(st.lists(st.lists(ACCURACIES, min_size=5, max_size=5), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_rows_are_ranked_as_scipy_does(rows):
    """Ranks of each row are scipy's `min` ranks of the scores turned round."""
    assert np.array_equal(descending_ranks(np.array(rows)), scipy.stats.rankdata(-np.array(rows), "min", axis=1))


@pytest.mark.parametrize(("n", "gap", "measured"), [(3, 1, 0.98), (6, 1, 1.0), (3, 0.25, 0.86), (6, 0.25, 0.95)])
def test_coverage_of_a_rank_depends_on_the_gaps(n, gap, measured):
    """Of five methods whose true means lie so many deviations of a run apart, this share of ranks is held."""
    random, methods = np.random.default_rng(n), range(5)
    held = 0
    for _ in range(500):
        scores = {method: dict(enumerate(random.normal(-gap * method, size=n).tolist())) for method in methods}
        found = stats.rank_intervals(scores)
        held += sum(found[method].low <= method + 1 <= found[method].high for method in methods)
    assert held / 2_500 == pytest.approx(measured, abs=0.02)
