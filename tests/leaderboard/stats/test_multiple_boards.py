"""Tests comparisons over several boards: Demšar's example, Wilcoxon's test by enumeration, Holm's published table."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats.multiple_boards import signed_rank_p_value

DEMSAR = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.0, 0.940, 0.619, 0.972, 0.957],
    "C4.5+m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.0, 0.962, 0.666, 0.981, 0.978],
    "C4.5+cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.0, 0.965, 0.614, 0.9751, 0.946],
    "C4.5+m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.0, 0.962, 0.669, 0.975, 0.970],
}
"""AUC of four learners on 14 data sets: Demšar 2006, table 6. (.9751 is the .975 that he ranks before the other.)"""

BOARDS = {board: {name: values[board] for name, values in DEMSAR.items()} for board in range(14)}
DIFFERENCES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8)


def enumerated_p_value(differences):
    """Return the two-sided p-value from all sign patterns of the ranks of the non-zero differences."""
    kept = [difference for difference in differences if difference]
    if not kept:
        return 1.0
    ranks = scipy.stats.rankdata(np.abs(kept))
    sums = np.array([ranks @ signs for signs in product((0, 1), repeat=len(kept))])
    above = ranks @ (np.array(kept) > 0)
    return min(1.0, 2 * np.mean(sums <= min(above, ranks.sum() - above) + 1e-9))


# Wilcoxon's test


@given(DIFFERENCES)
@settings(deadline=None, max_examples=60)
def test_signed_rank_is_exact_with_ties_and_zeros(differences):
    """The p-value is the share of sign patterns that are at least as uneven; zero differences are dropped."""
    assert signed_rank_p_value(np.array(differences)) == pytest.approx(enumerated_p_value(differences))


@pytest.mark.parametrize("boards", [5, 6, 14, 50, 51, 80])
def test_signed_rank_without_ties_agrees_with_scipy(boards):
    """It is exact up to 50 boards, and the normal approximation beyond."""
    differences = np.random.default_rng(boards).normal(0.2, size=boards)
    assert signed_rank_p_value(differences) == pytest.approx(scipy.stats.wilcoxon(differences).pvalue)


def test_rounding_neither_breaks_ties_nor_makes_differences():
    """.3 - .2 and .2 - .1 are tied, and .1 + .2 - .3 is not a difference."""
    first, second = [0.3, 0.1, 0.5, 0.7, 0.9, 0.8, 0.1 + 0.2], [0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.3]
    table = {board: {"a": a, "b": b} for board, (a, b) in enumerate(zip(first, second, strict=True))}
    pair = stats.compare_methods(table).pairs["a", "b"]
    assert (pair.wins, pair.losses) == (5, 1)
    assert pair.p == pytest.approx(enumerated_p_value([1, -1, 4, 6, 8, 7]))


def test_winning_all_boards_gives_the_smallest_p():
    """The smallest p is 2**(1 - boards), which determines the number of boards that a test needs."""
    assert [signed_rank_p_value(np.arange(1.0, boards + 1)) for boards in (1, 5, 6)] == [1.0, 0.0625, 0.03125]


# Holm's correction


def test_holm_gives_the_published_table():
    """Table 16 of Derrac et al. 2011 (Swarm and Evolutionary Computation 1:3-18), printed to six decimals."""
    p = [0.000006, 0.000332, 0.009823, 0.014171, 0.083642, 0.141093, 0.518605, 0.660706]
    published = [0.000050, 0.002324, 0.058940, 0.070857, 0.334569, 0.423278, 1.0, 1.0]
    assert stats.holm(p) == pytest.approx(published, abs=8 * 5e-7)


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_holm_is_between_raw_and_bonferroni(p, random):
    """Adjusted values are at least the raw and at most Bonferroni's, and keep their order, whatever the input order."""
    adjusted = stats.holm(p)
    assert all(a <= b <= min(1, len(p) * a) for a, b in zip(p, adjusted, strict=True))
    by_size = [b for _, b in sorted(zip(p, adjusted, strict=True))]
    assert by_size == sorted(by_size)
    order = random.sample(range(len(p)), len(p))
    assert stats.holm([p[index] for index in order]) == [adjusted[index] for index in order]


# Several boards


def test_mean_ranks_are_the_published_ones():
    """The mean ranks are 3.143, 2.000, 2.893 and 1.964; equal scores share the mean of their ranks."""
    found = stats.compare_methods(BOARDS)
    assert (found.boards, found.verdict) == (14, "")
    assert {name: round(rank, 3) for name, rank in found.mean_rank.items()} == {
        "C4.5": 3.143,
        "C4.5+m": 2.0,
        "C4.5+cf": 2.893,
        "C4.5+m+cf": 1.964,
    }


def test_pairs_are_tested_and_corrected():
    """Two of the fourteen boards are tied; the other twelve give p by enumeration, and Holm's correction is applied."""
    found = stats.compare_methods(BOARDS).pairs
    pair = found["C4.5", "C4.5+m"]
    differences = np.round(np.subtract(DEMSAR["C4.5"], DEMSAR["C4.5+m"]), 6)
    assert (pair.wins, pair.losses) == (2, 10)
    assert pair.p == pytest.approx(enumerated_p_value(differences))
    assert [one.adjusted for one in found.values()] == stats.holm([one.p for one in found.values()])
    assert len(found) == 6


def test_boards_that_lack_a_method_do_not_count():
    """All methods are compared over the same boards; otherwise mean ranks would depend on the boards."""
    without = {**BOARDS, "small": {"C4.5": 0.1, "C4.5+m": 0.9}}
    assert stats.compare_methods(without) == stats.compare_methods(BOARDS)
    assert stats.compare_methods(without, ["C4.5", "C4.5+m"]).boards == 15


@pytest.mark.parametrize(("methods", "needed"), [(2, 6), (3, 7), (4, 8), (5, 9), (20, 13)])
def test_tests_need_enough_boards(methods, needed):
    """There is no test if 2**(1 - boards) times the number of pairs cannot reach .05."""
    pairs = math.comb(methods, 2)
    assert 2.0 ** (1 - needed) * pairs <= stats.LEVEL < 2.0 ** (2 - needed) * pairs
    table = {board: {f"m{method}": method + board / 100 for method in range(methods)} for board in range(needed)}
    enough = stats.compare_methods(table)
    assert min(pair.adjusted for pair in enough.pairs.values()) <= stats.LEVEL
    del table[0]
    few = stats.compare_methods(table)
    assert (few.pairs, few.needed) == ({}, needed)
    assert few.verdict == f"too few boards: {needed - 1} of at least {needed}"
    assert few.mean_rank == enough.mean_rank


@pytest.mark.parametrize("scores", [{}, {"board": {}}, {"one": {"a": 1.0}, "two": {"b": 1.0}}])
def test_without_a_common_board_there_is_no_comparison(scores):
    """Without a board that contains every method, there are neither ranks nor tests."""
    found = stats.compare_methods(scores)
    assert (found.mean_rank, found.pairs) == ({}, {})


def test_a_single_method_is_first():
    """There is no pair to test, so the number of boards is sufficient."""
    assert stats.compare_methods({"board": {"a": 0.5}}) == stats.MethodComparison(1, {"a": 1.0}, {}, 0)


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=10)
def test_order_does_not_matter(random):
    """Boards and methods in another order give the same result, in the same order."""
    boards = random.sample(list(BOARDS.items()), len(BOARDS))
    turned = {board: dict(random.sample(list(row.items()), len(row))) for board, row in boards}
    assert repr(stats.compare_methods(turned)) == repr(stats.compare_methods(BOARDS))


def test_false_positives_are_rare():
    """For three methods without true differences, at most 5 % of the samples contain a significant pair."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(600):
        table = random.normal(size=(9, 3)) + random.normal(size=(9, 1))
        found = stats.compare_methods({board: dict(zip("abc", row, strict=True)) for board, row in enumerate(table)})
        wrong += any(pair.adjusted <= stats.LEVEL for pair in found.pairs.values())
    assert wrong / 600 <= stats.LEVEL + 0.01
