"""Resampled intervals: against plain enumeration and scipy, and how often they hold the truth."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import bootstrap
from pruneboard.leaderboard.stats.probabilities import MIN_COVERAGE, MIN_COVERAGE_WITH_TIES

ROOT = Path(__file__).parents[3]
ACCURACIES = st.integers(0, 64).map(lambda count: count / 64)
"""Correct images of 64: sums and means of a few are exact, so that ties are ties in any order of addition."""


def seeds(least, most):
    """Seed -> accuracy."""
    return st.dictionaries(st.integers(0, 9), ACCURACIES, min_size=least, max_size=most)


def percentile(values):
    """The ends of equally likely values: as few as leave 2.5 % of them at or beyond."""
    ordered = sorted(values)
    beyond = math.ceil(Fraction(25, 1000) * len(ordered)) - 1
    return ordered[beyond], ordered[-1 - beyond]


def interval(values):
    """The interval of one mean, as the module computes it."""
    ((means, weights),) = bootstrap.resampled_means([dict(enumerate(values))])
    return bootstrap.percentile_interval(means[:, 0], weights)


# Resamples


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_samples_are_enumerated(n):
    """All n**n draws of n seeds, taken one by one, give the same ends."""
    values = np.random.default_rng(n).normal(size=n)
    assert interval(values) == pytest.approx(percentile([sum(draw) / n for draw in product(values, repeat=n)]))


@pytest.mark.parametrize("n", range(2, bootstrap.EXACT_UP_TO + 1))
def test_every_resample_is_there_once_with_its_weight(n):
    """C(2n - 1, n) different resamples, together n**n draws; fewer than would be drawn."""
    ((counts, weights),) = bootstrap._resamples(n, 1)
    assert len({tuple(row) for row in counts}) == len(counts) == math.comb(2 * n - 1, n) <= stats.RESAMPLES
    assert weights.sum() == n**n
    assert (counts.sum(axis=1) == n).all()


def test_as_many_seeds_are_enumerated_as_are_cheaper_than_drawing():
    """One seed more would have more resamples than are drawn."""
    assert math.comb(2 * bootstrap.EXACT_UP_TO + 1, bootstrap.EXACT_UP_TO + 1) > stats.RESAMPLES


@pytest.mark.parametrize("beyond", range(1, 60))
def test_a_fortieth_is_cut_off_whatever_the_rounding(beyond):
    """Of 40 k equally likely values the k-th from either side is the end."""
    values = np.arange(40.0 * beyond)
    assert bootstrap.percentile_interval(values, np.ones_like(values)) == (beyond - 1, 39 * beyond)


@pytest.mark.parametrize("n", [6, 7, 10, 25])
def test_larger_samples_agree_with_scipy(n):
    """The percentile interval of scipy.stats.bootstrap, from draws of its own, lies within a tenth of a width."""
    values = np.random.default_rng(n).normal(size=n)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    low, high = interval(values)
    width = high - low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=width / 10)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=width / 10)


def test_draws_are_what_they_were():
    """Ten seeds are resampled by the same 2,000 draws on every machine and under every version of numpy."""
    ((counts, weights),) = bootstrap._resamples(10, 1)
    assert counts[:2].astype(int).tolist() == [[3, 2, 1, 1, 0, 0, 1, 0, 2, 0], [0, 2, 2, 0, 2, 1, 1, 0, 0, 2]]
    assert (len(counts), weights.sum()) == (stats.RESAMPLES, stats.RESAMPLES)


@pytest.mark.parametrize("n", [5, 10])
def test_blocks_change_nothing(n, monkeypatch):
    """Memory is bounded by cutting the resamples into blocks, which hold the same resamples."""
    whole = np.concatenate([counts for counts, _ in bootstrap._resamples(n, 1)])
    monkeypatch.setattr(bootstrap, "_BLOCK_SIZE", 200)
    blocks = [counts for counts, _ in bootstrap._resamples(n, 1)]
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), whole)


def test_groups_are_resampled_together():
    """What two groups share is drawn alike for both: mirrored values have mirrored means in every resample."""
    values = dict(enumerate(np.random.default_rng(0).normal(size=12)))
    for means, _ in bootstrap.resampled_means([values, {seed: -value for seed, value in values.items()}]):
        assert means[:, 0] == pytest.approx(-means[:, 1])


def test_a_group_without_a_drawn_seed_has_no_mean():
    """Of the 27 draws of seeds 0, 1, 2 the 8 without seed 0 leave nothing of a group that has no other."""
    ((means, weights),) = bootstrap.resampled_means([{0: 1.0}, {1: 2.0, 2: 4.0}])
    assert weights[np.isnan(means[:, 0])].sum() == 8
    assert weights[np.isnan(means[:, 1])].sum() == 1


# Coverage


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30])
def test_coverage_is_what_the_table_says(n):
    """Of intervals of the mean of normal data the tabulated share holds the true mean."""
    held = holds(np.random.default_rng(n).normal(size=(2_000, n))) / 2_000
    assert held == pytest.approx(stats.COVERAGE[n], abs=0.02)


def holds(samples):
    """Count the samples whose interval holds 0."""
    blocks = list(bootstrap.resampled_means([dict(enumerate(row)) for row in samples.tolist()]))
    means = np.concatenate([block for block, _ in blocks])
    weights = np.concatenate([block for _, block in blocks])
    found = [bootstrap.percentile_interval(column, weights) for column in means.T]
    return sum(low <= 0 <= high for low, high in found)


def test_the_table_of_the_docs_is_this_one():
    """docs/statistics.md prints both tables as they are."""
    page = (ROOT / "docs/statistics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (seeds|mean, area|P\(A > B\)) \| (.+) \|$", page, re.MULTILINE))
    ns, means, chances = ([int(cell) for cell in rows[key].split(" | ")] for key in ("seeds", "mean, area", "P(A > B)"))
    assert means == [round(100 * stats.COVERAGE[n]) for n in ns]
    assert chances == [round(100 * stats.PROBABILITY_COVERAGE.get(n, MIN_COVERAGE)) for n in ns]


def test_loading_the_module_loads_no_arrays():
    """Arrays (numpy, scipy) are paid for by the boards that need them."""
    code = "import sys, pruneboard.leaderboard.stats; print(sorted({'numpy', 'scipy', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Probabilities


def wins(n, won, tied=0):
    """A pair of methods of which the first wins so many of n seeds."""
    return {seed: 1.0 - (seed >= won) for seed in range(n)}, {
        seed: 0.5 * (not won <= seed < won + tied) for seed in range(n)
    }


def test_wins_count_one_and_ties_one_half():
    """Two wins, a tie and a loss over the four shared seeds: 2.5 of 4."""
    found = stats.probability_above({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.1, 9: 1.0}, {0: 0.5, 1: 0.5, 2: 0.7, 3: 0.5, 8: 0.0})
    assert found is not None
    assert (found.value, found.n) == (2.5 / 4, 4)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6).filter(lambda given: len(set(given)) > 1))
@settings(deadline=None, max_examples=40)
def test_its_interval_is_that_of_all_resamples(outcomes):
    """Resampling the outcomes in all n**n ways gives the same ends, without a draw."""
    first, second = dict(enumerate(outcomes)), dict.fromkeys(range(len(outcomes)), 0.5)
    found = stats.probability_above(first, second)
    assert found is not None
    expected = percentile([sum(draw) / len(outcomes) for draw in product(outcomes, repeat=len(outcomes))])
    assert (found.low, found.high) == pytest.approx(expected)


@given(seeds(0, 8), seeds(0, 8))
@settings(deadline=None, max_examples=60)
def test_the_other_way_round_is_the_complement(first, second):
    """P(A > B) and P(B > A) add up to 1, their intervals mirror each other and hold them."""
    one, other = stats.probability_above(first, second), stats.probability_above(second, first)
    if not first.keys() & second.keys():
        assert one is None
        assert other is None
        return
    assert one.value + other.value == pytest.approx(1)
    if one.n == 1:
        assert (one.low, one.high, one.coverage) == (None, None, None)
    else:
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
        assert 0 <= one.low <= one.value <= one.high <= 1


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_seeds_that_agree_leave_an_interval_all_the_same(n):
    """As many wins in a row have a chance of 2.5 % at the lower end: the exact binomial's one-sided bound."""
    found = stats.probability_above(*wins(n, n))
    assert found is not None
    assert found.low == pytest.approx(scipy.stats.beta.ppf(0.025, n, 1))
    assert found.low**n == pytest.approx(0.025)
    assert (found.value, found.high) == (1, 1)
    tied = stats.probability_above(*wins(n, 0, n))
    assert tied is not None
    assert (tied.value, tied.low + tied.high) == (0.5, pytest.approx(1))


@pytest.mark.parametrize("n", [*range(2, 13), 15, 20, 30, 60, 100])
def test_coverage_of_a_probability_is_at_least_what_is_said(n):
    """Summed over all outcomes, at every probability just beside an end, where coverage jumps."""
    found = [stats.probability_above(*wins(n, won)) for won in range(n + 1)]
    low, high = np.array([one.low for one in found]), np.array([one.high for one in found])

    def held(p):
        return scipy.stats.binom.pmf(range(n + 1), n, p) @ ((low <= p) & (p <= high))

    beside = np.concatenate([low - 1e-9, low + 1e-9, high - 1e-9, high + 1e-9])
    least = min(held(p) for p in beside[(beside > 0) & (beside < 1)])
    assert {one.coverage for one in found} == {stats.PROBABILITY_COVERAGE.get(n, MIN_COVERAGE)}
    assert found[0].coverage <= least < found[0].coverage + 0.03
    assert np.mean([held(p) for p in np.linspace(0.005, 0.995, 199)]) > 0.935


@pytest.mark.parametrize("n", [2, 3, 4, 6, 10, 20])
def test_coverage_with_ties_is_at_least_what_is_said(n):
    """The same with any share of ties, on a grid."""
    share, split = np.meshgrid(np.linspace(0, 0.995, 100), np.linspace(0, 1, 201))
    win, loss = (1 - share) * split, (1 - share) * (1 - split)
    held = np.zeros_like(share)
    for won, tied in ((a, b) for a in range(n + 1) for b in range(n + 1 - a)):
        found = stats.probability_above(*wins(n, won, tied))
        ways = math.comb(n, won) * math.comb(n - won, tied)
        covers = (found.low - 1e-9 <= win + share / 2) & (win + share / 2 <= found.high + 1e-9)
        held += ways * win**won * share**tied * loss ** (n - won - tied) * covers
        assert not tied or found.coverage == MIN_COVERAGE_WITH_TIES
    assert MIN_COVERAGE_WITH_TIES <= held.min() < MIN_COVERAGE_WITH_TIES + 0.07


# Area


POINTS = (0.5, 0.75, 0.875, 0.9375, 0.96875)
"""Compression 2, 4, 8, 16, 32: a step of one in its logarithm."""


def test_a_worked_area():
    """Drops 1, 2, 5 at compression 2, 4, 16: (1.5 * 1 + 3.5 * 2) / 3."""
    found = stats.area({0.5: {0: 1.0}, 0.75: {0: 2.0}, 0.9375: {0: 5.0}}, (0.5, 0.75, 0.9375))
    assert found.interval == stats.Interval(pytest.approx(8.5 / 3), None, None, 1, None)
    assert (found.lowest, found.highest, found.coverage) == (0.5, 0.9375, 1)


@given(seeds(1, 6), st.sets(st.sampled_from(POINTS), min_size=2))
@settings(deadline=None, max_examples=40)
def test_the_area_of_an_equal_drop_is_that_drop(drops, points):
    """Width and spacing do not matter, and the interval is that of a mean."""
    found = stats.area(dict.fromkeys(points, drops), points).interval
    assert found.value == pytest.approx(np.mean(list(drops.values())))
    assert found.n == len(drops)
    if len(drops) > 1:
        assert (found.low, found.high) == pytest.approx(interval([drops[seed] for seed in sorted(drops)]), abs=1e-12)
        assert found.coverage == stats.COVERAGE[len(drops)]


@given(st.lists(st.lists(ACCURACIES, min_size=3, max_size=3), min_size=5, max_size=5))
@settings(deadline=None, max_examples=30)
def test_an_area_is_numpys_trapezoid_in_every_resample(rows):
    """All 27 draws of three seeds, integrated one by one, give the same number and ends."""
    found = stats.area({point: dict(enumerate(row)) for point, row in zip(POINTS, rows, strict=True)}, POINTS).interval
    x, drops = np.log2(1 / (1 - np.array(POINTS))), np.array(rows)
    areas = [scipy.integrate.trapezoid(drops[:, draw].mean(axis=1), x) / 4 for draw in product(range(3), repeat=3)]
    assert found.value == pytest.approx(scipy.integrate.trapezoid(drops.mean(axis=1), x) / 4)
    assert (found.low, found.high) == pytest.approx(percentile(areas))


@given(st.lists(seeds(2, 4), min_size=5, max_size=5), st.floats(-3, 3), st.floats(-1, 1))
@settings(deadline=None, max_examples=40)
def test_areas_scale_shift_and_mirror(rows, scale, shift):
    """The area of scaled and shifted drops is the area scaled and shifted; a change of sign swaps the ends."""
    curve = dict(zip(POINTS, rows, strict=True))
    moved = {point: {seed: scale * drop + shift for seed, drop in row.items()} for point, row in curve.items()}
    one, other = stats.area(curve, POINTS).interval, stats.area(moved, POINTS).interval
    assert other.value == pytest.approx(scale * one.value + shift, abs=1e-9)
    if one.low is not None and other.low is not None:
        assert (other.low, other.high) == pytest.approx(
            sorted([scale * one.low + shift, scale * one.high + shift]), abs=1e-9
        )


def test_rounding_puts_no_area_outside_its_interval():
    """Equal drops of any number of 355 images: resampled sums round differently, and the number stays inside."""
    for wrong in range(1, 40):
        found = stats.area(
            {p: dict.fromkeys(range(2), wrong / 355) for p in (0.5, 0.75, 0.9)}, (0.5, 0.75, 0.9)
        ).interval
        assert found.low <= found.value <= found.high


def test_points_share_their_resampled_seeds():
    """A seed that is bad at one point and as good at another cancels out in every resample."""
    drops = dict(enumerate(np.random.default_rng(5).normal(size=9)))
    found = stats.area({0.5: drops, 0.75: {seed: -drop for seed, drop in drops.items()}}, (0.5, 0.75)).interval
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_missing_points_are_told():
    """The area is over what was finished, and says from where to where and how much of the board that is."""
    found = stats.area({0.75: {0: 1.0}, 0.5: {}, 0.9375: {0: 3.0}, 0.6: {0: 9.0}}, POINTS)
    assert (found.interval.value, found.lowest, found.highest) == (2.0, 0.75, 0.9375)
    assert (found.finished, found.points, found.coverage) == (2, 5, 0.4)


def test_fewer_than_two_points_have_no_area():
    """One point has no width; no point has not even a range; a board without points has no coverage."""
    assert stats.area({0.75: {0: 1.0}}, POINTS) == stats.Area(None, 0.75, 0.75, 1, 5)
    assert stats.area({}, POINTS) == stats.Area(None, None, None, 0, 5)
    assert stats.area({}, []).coverage == 0


def test_an_area_is_worth_its_poorest_point():
    """One point with a single seed leaves the area without interval, however many the others have."""
    found = stats.area({0.5: dict.fromkeys(range(6), 1.0), 0.75: {0: 1.0}}, POINTS).interval
    assert (found.n, found.low, found.coverage) == (1, None, None)


def test_points_that_never_meet_in_a_resample_have_no_interval():
    """Of hundreds of seeds two per point are never all drawn again: a number without an interval."""
    points = [1 - 2.0**-power for power in range(1, 51)]
    curve = {point: {2 * index: 1.0, 2 * index + 1: 2.0} for index, point in enumerate(points)}
    found = stats.area(curve, points).interval
    assert (found.value, found.low, found.coverage) == (pytest.approx(1.5), None, None)


@pytest.mark.parametrize("point", [1.0, -0.1, float("nan")])
def test_a_point_that_is_no_sparsity_is_refused(point):
    """Compression is not defined there."""
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        stats.area({}, [0.5, point])


@pytest.mark.parametrize("n", [3, 6, 10])
def test_coverage_of_an_area_is_that_of_a_mean(n):
    """Where all points have all seeds the area is a mean over seeds, also when points vary together."""
    random = np.random.default_rng(n)
    held = 0
    for _ in range(1_000):
        drops = random.normal(size=n) + random.normal(size=(len(POINTS), n))
        found = stats.area({p: dict(enumerate(row)) for p, row in zip(POINTS, drops.tolist(), strict=True)}, POINTS)
        held += found.interval.low <= 0 <= found.interval.high
    assert held / 1_000 == pytest.approx(stats.COVERAGE[n], abs=0.035)
