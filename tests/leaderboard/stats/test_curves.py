"""Tests the area of a curve: worked examples, numpy's trapezoid rule, invariances and coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap_cases import ACCURACIES, interval, percentile, seed_scores
from pruneboard.leaderboard import stats

POINTS = (0.5, 0.75, 0.875, 0.9375, 0.96875)
"""Compression 2, 4, 8, 16, 32: a step of one in its logarithm."""


def test_a_worked_example():
    """Drops 1, 2, 5 at compression 2, 4, 16 give (1.5 * 1 + 3.5 * 2) / 3."""
    found = stats.area({0.5: {0: 1.0}, 0.75: {0: 2.0}, 0.9375: {0: 5.0}}, (0.5, 0.75, 0.9375))
    assert found.interval == stats.Interval(pytest.approx(8.5 / 3), None, None, 1, None)
    assert (found.lowest, found.highest, found.coverage) == (0.5, 0.9375, 1)


@given(seed_scores(1, 6), st.sets(st.sampled_from(POINTS), min_size=2))
@settings(deadline=None, max_examples=40)
def test_a_constant_drop_is_its_own_area(drops, points):
    """Width and spacing of the points do not matter, and the interval is that of a mean."""
    found = stats.area(dict.fromkeys(points, drops), points).interval
    assert found.value == pytest.approx(np.mean(list(drops.values())))
    assert found.n == len(drops)
    if len(drops) > 1:
        assert (found.low, found.high) == pytest.approx(interval([drops[seed] for seed in sorted(drops)]), abs=1e-12)
        assert found.coverage == stats.COVERAGE[len(drops)]


@given(st.lists(st.lists(ACCURACIES, min_size=3, max_size=3), min_size=5, max_size=5))
@settings(deadline=None, max_examples=30)
def test_areas_equal_scipys_trapezoid_rule(rows):
    """All 27 draws of three seeds, integrated one by one with scipy, give the same area and ends."""
    found = stats.area({point: dict(enumerate(row)) for point, row in zip(POINTS, rows, strict=True)}, POINTS).interval
    x, drops = np.log2(1 / (1 - np.array(POINTS))), np.array(rows)
    areas = [scipy.integrate.trapezoid(drops[:, draw].mean(axis=1), x) / 4 for draw in product(range(3), repeat=3)]
    assert found.value == pytest.approx(scipy.integrate.trapezoid(drops.mean(axis=1), x) / 4)
    assert (found.low, found.high) == pytest.approx(percentile(areas))


@given(st.lists(seed_scores(2, 4), min_size=5, max_size=5), st.floats(-3, 3), st.floats(-1, 1))
@settings(deadline=None, max_examples=40)
def test_areas_are_linear_in_the_drops(rows, scale, shift):
    """Scaling and shifting all drops scales and shifts the area and its ends; negation swaps the ends."""
    curve = dict(zip(POINTS, rows, strict=True))
    moved = {point: {seed: scale * drop + shift for seed, drop in row.items()} for point, row in curve.items()}
    one, other = stats.area(curve, POINTS).interval, stats.area(moved, POINTS).interval
    assert other.value == pytest.approx(scale * one.value + shift, abs=1e-9)
    if one.low is not None and other.low is not None:
        assert (other.low, other.high) == pytest.approx(
            sorted([scale * one.low + shift, scale * one.high + shift]), abs=1e-9
        )


def test_rounding_puts_no_area_outside_its_interval():
    """Equal drops of any number of 355 images: resampled sums round differently, but the area stays inside."""
    for wrong in range(1, 40):
        found = stats.area(
            {p: dict.fromkeys(range(2), wrong / 355) for p in (0.5, 0.75, 0.9)}, (0.5, 0.75, 0.9)
        ).interval
        assert found.low <= found.value <= found.high


def test_points_share_their_resampled_seeds():
    """A seed with opposite drops at two points cancels out in every resample."""
    drops = dict(enumerate(np.random.default_rng(5).normal(size=9)))
    found = stats.area({0.5: drops, 0.75: {seed: -drop for seed, drop in drops.items()}}, (0.5, 0.75)).interval
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_missing_points_reduce_the_coverage():
    """The area is over the finished points, and the result states their range and their share of the board."""
    found = stats.area({0.75: {0: 1.0}, 0.5: {}, 0.9375: {0: 3.0}, 0.6: {0: 9.0}}, POINTS)
    assert (found.interval.value, found.lowest, found.highest) == (2.0, 0.75, 0.9375)
    assert (found.finished, found.points, found.coverage) == (2, 5, 0.4)


def test_fewer_than_two_points_have_no_area():
    """One point has no width, no point has no range, and a board without points has coverage 0."""
    assert stats.area({0.75: {0: 1.0}}, POINTS) == stats.Area(None, 0.75, 0.75, 1, 5)
    assert stats.area({}, POINTS) == stats.Area(None, None, None, 0, 5)
    assert stats.area({}, []).coverage == 0


def test_n_is_that_of_the_point_with_fewest_seeds():
    """A point with a single seed leaves the area without an interval, however many seeds the others have."""
    found = stats.area({0.5: dict.fromkeys(range(6), 1.0), 0.75: {0: 1.0}}, POINTS).interval
    assert (found.n, found.low, found.coverage) == (1, None, None)


def test_points_without_common_seeds_have_no_interval():
    """If no resample contains a seed of every point, there is an area without an interval."""
    points = [1 - 2.0**-power for power in range(1, 51)]
    curve = {point: {2 * index: 1.0, 2 * index + 1: 2.0} for index, point in enumerate(points)}
    found = stats.area(curve, points).interval
    assert (found.value, found.low, found.coverage) == (pytest.approx(1.5), None, None)


@pytest.mark.parametrize("point", [1.0, -0.1, float("nan")])
def test_points_must_be_sparsities(point):
    """Compression is not defined outside [0, 1)."""
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        stats.area({}, [0.5, point])


@pytest.mark.parametrize("n", [3, 6, 10])
def test_coverage_of_an_area_equals_that_of_a_mean(n):
    """If all points have all seeds, the area is a mean over seeds, even if points vary together."""
    random = np.random.default_rng(n)
    covered = 0
    for _ in range(1_000):
        drops = random.normal(size=n) + random.normal(size=(len(POINTS), n))
        found = stats.area({p: dict(enumerate(row)) for p, row in zip(POINTS, drops.tolist(), strict=True)}, POINTS)
        covered += found.interval.low <= 0 <= found.interval.high
    assert covered / 1_000 == pytest.approx(stats.COVERAGE[n], abs=0.035)
