"""`compare --against`: whether a published board was measured again, and agrees."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import put, record
from pruneboard.cli import invoke
from pruneboard.leaderboard import reproduction


def board(tops, weights="a"):
    """Records of ten rows of two seeds: row r has the accuracies `tops[r]`."""
    return [
        record("dense" if point is None else "gmp", point, seed=seed, top1=top, weights_sha256=weights * 64)
        for (point, pair) in zip([None, *(p / 10 for p in range(1, 10))], tops, strict=True)
        for seed, top in enumerate(pair)
    ]


USUAL = [(0.50, 0.52)] * 10
"""Mean .51, Student-t interval .51 ± 12.706 x .01414 / 1.41421 = [.383, .637], width .254."""


def test_equal_weights_are_counted():
    """The same runs with the same weights: all identical, all within."""
    found = reproduction.compare(board(USUAL), board(USUAL))
    assert (found.runs, found.identical, found.missing, found.inside, found.holds) == (20, 20, 0, 1.0, True)
    other = reproduction.compare(board(USUAL), board(USUAL, weights="b"))
    assert (other.identical, other.holds) == (0, True)


@pytest.mark.parametrize(
    ("shifts", "holds"),
    [
        ([0.12], True),  # within
        ([0.14], True),  # one row of ten outside, by less than its width
        ([0.14, 0.14], False),  # two of ten
        ([-0.14, 0.14], False),
    ],
)
def test_nine_of_ten_rows_have_to_be_within(shifts, holds):
    """Whichever way they are off."""
    moved = [(0.50 + shift, 0.52 + shift) for shift in [*shifts, *([0.0] * (10 - len(shifts)))]]
    assert reproduction.compare(board(USUAL), board(moved)).holds == holds


def test_none_may_be_far_outside():
    """A row whose published seeds agree closely is off by more than two widths soon."""
    published = [(0.5000, 0.5001), *USUAL[1:]]  # width .0013
    for top, holds in ((0.5010, True), (0.5020, True), (0.5100, False)):
        again = [(top, top), *USUAL[1:]]
        assert reproduction.compare(board(published), board(again)).holds == holds


def test_seeds_that_all_agree_leave_one_image():
    """Without spread the least that can be told apart is one image of ten thousand: half of it is within."""
    published = [(0.5, 0.5), *USUAL[1:]]
    for top, outside in ((0.5, 0), (0.5001, 0.5), (0.5003, 2.5)):
        found = reproduction.compare(board(published), board([(top, top), *USUAL[1:]]))
        assert found.rows[0].outside == pytest.approx(outside)


def test_a_run_that_was_not_measured_again_is_missing():
    """Unfinished counts as missing, and is no reproduction."""
    again = board(USUAL)
    again[3] = record("gmp", 0.1, seed=1, status="failed")
    found = reproduction.compare(board(USUAL), again)
    assert (found.missing, found.holds) == (1, False)
    assert not reproduction.compare(board(USUAL), []).holds
    assert not reproduction.compare([], board(USUAL)).holds


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=10, max_size=10))
def test_a_board_agrees_with_itself(tops):
    """Whatever its numbers."""
    assert reproduction.compare(board(tops), board(tops)).holds


def test_the_command_says_what_differs(tmp_path, capsys):
    """Exit code 0 and a line where the board was reproduced; 3 and the rows that are off where it was not."""
    moved = [(0.9, 0.92), (0.9, 0.92), *USUAL[2:]]
    for name, tops in (("published", USUAL), ("same", USUAL), ("other", moved)):
        for made in board(tops):
            put(tmp_path / name, made)
    flags = ["--format", "none", "--against", str(tmp_path / "published")]
    assert invoke(["compare", str(tmp_path / "same"), *flags]) == 0
    assert "reproduced: 20 of 20 published runs have the same weights; 100% of 10 rows" in capsys.readouterr().err
    assert invoke(["compare", str(tmp_path / "other"), *flags]) == 3
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("differs: ")]) == 2
    assert "+40.00 points" in "".join(itertools.chain(*said))
    assert "not reproduced" in said[-1]
