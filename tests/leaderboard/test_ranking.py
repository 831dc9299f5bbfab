"""Tests ranks, leaders, P(> baseline), and curves."""

from __future__ import annotations

import math

import pytest

from fake_records import record
from leaderboard_cases import curve_of, full_board, only_board, row_of


def test_which_rows_are_ranked():
    """Single seeds and off-target rows are not ranked and do not affect other ranks; equal means share one."""
    tops = {"a": (0.9, 0.9), "b": (0.8, 0.8), "c": (0.9, 0.9), "d": (0.7, 0.7), "single": (0.99,)}
    made = [record(name, seed=s, top1=t) for name, values in tops.items() for s, t in enumerate(values)]
    made += [record("str", seed=s, top1=0.99, method__traits__hits_target=False) for s in (0, 1)]
    made += [record("alone", 0.5, seed=s) for s in (0, 1)] + [record("dense", None, seed=s) for s in (0, 1)]
    ranks = {row.method: row.rank for row in only_board(*made).rows}
    assert ranks == {"a": 1, "b": 3, "c": 1, "d": 4, "single": None, "str": None, "alone": None, "dense": None}


def test_rows_are_sorted():
    """Dense is first, then rows are sorted by sparsity and accuracy; at each sparsity, failed rows are last."""
    made = [record("lost", 0.5, status="oom"), record("b", 0.9, top1=0.7), record("c", 0.5, top1=0.8)]
    made += [record("d", 0.5, top1=0.9), record("dense", None, top1=0.1)]
    assert [row.method for row in only_board(*made).rows] == ["dense", "d", "c", "lost", "b"]


def test_a_leader_needs_a_clear_difference():
    """A constant small lead over all seeds makes a leader; being ahead on average but behind for some seed does not."""
    steady = only_board(*full_board())
    assert row_of(steady, "probmask", 0.5).leads
    assert not row_of(steady, "magnitude", 0.5).leads
    near = [record("str", 0.5, seed=s, top1=0.85 + (-1) ** s / 50) for s in range(4)]
    assert not any(row.leads for row in only_board(*full_board(), *near).rows if row.target == 0.5)


def test_ranks_have_intervals():
    """Rows that never change places have a rank interval of one rank, and P(> baseline) is 1 if all seeds are above."""
    board = only_board(*full_board())
    first = row_of(board, "probmask", 0.5)
    assert (first.rank, first.rank_low, first.rank_high) == (1, 1, 1)
    assert (first.above_baseline.value, first.above_baseline.n) == (1.0, 4)
    assert row_of(board, "random", 0.5).above_baseline is None


def test_leads_and_wins_need_equal_starts():
    """Without a seed of equal initial weights, there is neither a leader nor P(> baseline)."""
    made = full_board(points=(0.5,))
    other = [record("str", 0.5, seed=s, top1=0.89, model__initial_sha256="e" * 64) for s in range(4)]
    row = row_of(only_board(*made, *other), "str", 0.5)
    assert row.rank == 1
    assert not row.leads
    assert row.above_baseline is None
    assert row.unpaired == (0, 1, 2, 3)


def test_a_constant_drop_is_the_area():
    """A method that loses 5 points at every operating point has an area of 5 points and coverage 1."""
    curve = curve_of(only_board(*full_board()), "probmask")
    assert math.isclose(curve.area.value, 0.05)
    assert (curve.coverage, curve.missing) == (1.0, ())
    assert math.isclose(curve.area.low, 0.05)


def test_missing_and_failed_points_differ():
    """A point without any run is missing; one whose run failed is not missing, but not covered either."""
    made = [*full_board(), record("gmp", 0.5, seed=0), record("gmp", 0.75, seed=0, status="diverged")]
    curve = curve_of(only_board(*made), "gmp")
    assert curve.missing == (0.9375,)
    assert curve.coverage == 1 / 3
    assert [len(row.failures) for row in curve.rows] == [0, 1]


def test_a_curve_lists_a_limited_number_of_missing_points():
    """With thousands of operating points and methods, the lists would be millions of numbers; the coverage is exact."""
    made = [record("a", number / 1000) for number in range(1, 201)]
    curve = curve_of(only_board(*made, record("b", 0.5)), "b")
    assert (len(curve.missing), curve.missing[0], curve.coverage) == (100, 0.001, 1 / 201)


def test_curves_are_sorted_by_area():
    """The method with the smallest mean drop over all operating points is first."""
    assert [curve.rows[0].method for curve in only_board(*full_board()).curves] == ["probmask", "magnitude", "random"]


def near_chance(**changes):
    """Records of a board with 43 classes: 2.8 to 4.4 % for two methods, and two methods that have learned something."""
    tops = {"a": (0.028, 0.031, 0.03), "b": (0.042, 0.044, 0.043), "c": (0.3, 0.31, 0.3), "d": (0.2, 0.21, 0.2)}
    fields = {"data__classes": 43} | changes
    return [record(name, seed=s, top1=top, **fields) for name, values in tops.items() for s, top in enumerate(values)]


def ranks_and_levels(*made):
    """Return method -> (rank, level that it is not above) of the only operating point."""
    return {row.method: (row.rank, row.at_chance) for row in only_board(*made).rows}


def test_rows_that_are_not_above_the_majority_class_are_not_ranked():
    """Rows of 2.8 to 4.4 % are not ranked if always giving the most frequent class has 5.9 %, and take no rank."""
    board = only_board(*near_chance(data__majority=0.0594))
    assert board.chance_levels == {"chance": 1 / 43, "majority class": 0.0594}
    low = (None, "majority class")
    assert ranks_and_levels(*near_chance(data__majority=0.0594)) == {"a": low, "b": low, "c": (1, None), "d": (2, None)}


def test_without_the_majority_class_only_chance_counts():
    """Records of earlier versions know the number of classes only, and some not even that."""
    assert only_board(*near_chance()).chance_levels == {"chance": 1 / 43}
    assert ranks_and_levels(*near_chance())["a"] == (4, None)
    assert only_board(*near_chance(data__classes=None)).chance_levels == {}
    ranks = {name: rank for name, (rank, _) in ranks_and_levels(*near_chance(data__classes=None)).items()}
    assert ranks == {"a": 4, "b": 3, "c": 1, "d": 2}


@pytest.mark.parametrize(
    ("tops", "level"),
    [
        ((0.1, 0.1, 0.1), "chance"),  # a constant answer: no spread at all
        ((0.09, 0.11, 0.12), "chance"),
        ((0.05, 0.051, 0.05), "chance"),  # clearly below
        ((0.19, 0.2, 0.22), "majority class"),
        ((0.15, 0.151, 0.15), "majority class"),
        ((0.3, 0.5), "chance"),  # two seeds are too few for this spread
        ((0.22, 0.221, 0.22), None),
        ((0.1,), None),  # a single seed has no interval and no rank anyway
    ],
)
def test_an_interval_above_both_levels_is_needed(tops, level):
    """With ten classes, one of them a fifth of the test images, an interval that reaches either level has no rank."""
    made = [record("a", seed=s, top1=top, data__majority=0.2) for s, top in enumerate(tops)]
    made += [record(name, seed=s, top1=0.9, data__majority=0.2) for s in range(3) for name in ("b", "c")]
    board = only_board(*made)
    row = row_of(board, "a")
    assert row.at_chance == level
    assert (row.rank is None) is (level is not None or len(tops) == 1)
    assert {row_of(board, name).rank for name in ("b", "c")} == {1}


def test_one_record_cannot_take_the_ranks_of_all_others():
    """A level counts only if most finished runs agree on it; all runs of a board have the same images."""
    made = near_chance()
    strange = record("e", seed=0, top1=0.2, data__classes=1, data__majority=1.0)
    assert only_board(*made, strange).chance_levels == {"chance": 1 / 43}
    assert ranks_and_levels(*made, strange)["c"] == (1, None)


def test_the_dense_control_at_chance_is_marked_and_stays_the_reference():
    """It is marked, and drops are still measured against it."""
    made = [record("dense", None, seed, 0.1) for seed in range(3)] + [record("a", seed=s, top1=0.1) for s in range(3)]
    board = only_board(*made)
    assert board.dense is board.rows[0]
    assert board.dense.at_chance == "chance"
    assert row_of(board, "a").drop.mean == 0
