"""Tests `compare --against`: whether a board reproduces a published one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import put, record
from pruneboard.cli import invoke
from pruneboard.leaderboard import reproduction


def board(tops, weights="a"):
    """Return records of ten rows with two seeds: row r has the accuracies `tops[r]`."""
    return [
        record("dense" if point is None else "gmp", point, seed=seed, top1=top, weights_sha256=weights * 64)
        for (point, pair) in zip([None, *(p / 10 for p in range(1, 10))], tops, strict=True)
        for seed, top in enumerate(pair)
    ]


USUAL = [(0.50, 0.52)] * 10
"""Mean .51, Student-t interval .51 ± 12.706 x .01414 / 1.41421 = [.383, .637], width .254."""


def test_equal_weights_are_counted():
    """Repeated runs with the same weights are identical and inside all intervals."""
    found = reproduction.compare_records(board(USUAL), board(USUAL))
    assert (found.runs, found.identical, found.missing, found.inside, found.succeeded) == (20, 20, 0, 1.0, True)
    other = reproduction.compare_records(board(USUAL), board(USUAL, weights="b"))
    assert (other.identical, other.succeeded) == (0, True)


@pytest.mark.parametrize(
    ("shifts", "holds"),
    [
        ([0.12], True),  # within
        ([0.14], True),  # one row of ten outside, by less than its width
        ([0.14, 0.14], False),  # two of ten
        ([-0.14, 0.14], False),
    ],
)
def test_nine_of_ten_rows_must_be_inside(shifts, holds):
    """This holds for deviations in both directions."""
    moved = [(0.50 + shift, 0.52 + shift) for shift in [*shifts, *([0.0] * (10 - len(shifts)))]]
    assert reproduction.compare_records(board(USUAL), board(moved)).succeeded == holds


def test_no_row_may_be_far_outside():
    """A row with a narrow published interval is quickly more than two widths outside."""
    published = [(0.5000, 0.5001), *USUAL[1:]]  # width .0013
    for top, holds in ((0.5010, True), (0.5020, True), (0.5100, False)):
        again = [(top, top), *USUAL[1:]]
        assert reproduction.compare_records(board(published), board(again)).succeeded == holds


def test_without_spread_the_width_is_one_image():
    """If all published seeds agree, the interval width is one image of ten thousand; half of it is inside."""
    published = [(0.5, 0.5), *USUAL[1:]]
    for top, outside in ((0.5, 0), (0.5001, 0.5), (0.5003, 2.5)):
        found = reproduction.compare_records(board(published), board([(top, top), *USUAL[1:]]))
        assert found.rows[0].distance == pytest.approx(outside)


def test_runs_that_were_not_repeated_are_missing():
    """An unfinished run counts as missing, and then the board is not reproduced."""
    again = board(USUAL)
    again[3] = record("gmp", 0.1, seed=1, status="failed")
    found = reproduction.compare_records(board(USUAL), again)
    assert (found.missing, found.succeeded) == (1, False)
    assert not reproduction.compare_records(board(USUAL), []).succeeded
    assert not reproduction.compare_records([], board(USUAL)).succeeded


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=10, max_size=10))
def test_a_board_reproduces_itself(tops):
    """This holds for any accuracies."""
    assert reproduction.compare_records(board(tops), board(tops)).succeeded


def test_the_command_prints_the_result(tmp_path, capsys):
    """Exit code 0 and a summary if the board was reproduced; 3 and the deviating rows if not."""
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


def test_unknown_weights_are_not_equal():
    """Runs whose records do not state the hash of their weights are not counted as having the same ones."""
    unknown = [made | {"weights_sha256": None} for made in board(USUAL)]
    assert reproduction.compare_records(unknown, unknown).identical == 0


def test_a_published_record_does_not_widen_its_interval():
    """The width of one image is that of the repeated run, not what the published record says."""
    published = [made | {"weights_sha256": None} for made in board([(0.9, 0.9)] * 10)]
    for made in published:
        for key in ("count", "correct"):
            del made["metrics"]["test"][key]
    assert not reproduction.compare_records(published, board([(0.5, 0.5)] * 10)).succeeded
