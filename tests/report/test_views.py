"""Tests the content of a board's main table."""

from __future__ import annotations

import pytest

from fake_records import record
from leaderboard_cases import full_board, only_board, row_of
from pruneboard.report import styles, views
from pruneboard.report.tables import row_names


def test_ranks_have_intervals_and_only_leaders_are_bold(everything):
    """The rank is shown with its interval, and only a leader's top-1 has the CSS class for bold text."""
    column = next(column for column in views.COLUMNS if column.title == "Rank")
    bold = next(column for column in views.COLUMNS if column.title == "Top-1, %")
    rows = [row for one in everything.boards for row in one.rows if row.rank]
    assert rows
    for row in rows:
        assert column.cell(row).text == f"{row.rank} [{row.rank_low}, {row.rank_high}]"
        assert (bold.cell(row).css == "lead") is row.leads


def test_the_verdict_of_a_row_is_its_worst(everything):
    """One disputed run makes the row disputed, and one unverified run makes it unverified."""
    row = everything.boards[0].rows[0]
    first, *others = row.hashes
    good = dict.fromkeys(row.hashes, "certified")
    assert views.verdict(row, good) == ("certified", f"{row.n} certified")
    assert views.verdict(row, good | {first: "disputed"}) == ("disputed", f"{len(others)} certified, 1 disputed")
    assert views.verdict(row, dict.fromkeys(others, "certified"))[0] == "unverified"
    assert views.verdict(row, dict.fromkeys(row.hashes, "<b>"))[0] == "unverified"


def view_of(row, board, verdicts=(), shown=()):
    """Return the content of a row in the main table of its board."""
    names = row_names(board.rows)
    name = names[row.identity]
    return views.row_view(row, name, styles.assign_styles(board.rows, names, {})[name], dict(verdicts), set(shown))


def cell_of(row, title):
    """Return the cell of a row in the column with this title."""
    (column,) = (column for column in views.COLUMNS if column.title == title)
    return column.cell(row)


def test_an_off_target_row_shows_its_measured_sparsity():
    """Its cell is marked and sorted by the measured sparsity, and it has no rank."""
    (row,) = only_board(record("str", 0.9, method__traits__hits_target=False)).rows
    cell = cell_of(row, "Sparsity")
    assert (cell.text, cell.css, cell.sort) == ("0.9 off target", "warn", pytest.approx(0.9))
    assert cell_of(row, "Rank").text == "-"


def test_a_failed_row_shows_how_its_runs_ended():
    """Each kind of failure is listed once, and cells without a value are sorted last."""
    made = [record("a", seed=seed, status=status) for seed, status in enumerate(("oom", "diverged", "oom"))]
    board = only_board(*made)
    (row,) = board.rows
    assert (cell_of(row, "Top-1, %").text, cell_of(row, "Top-1, %").sort) == ("oom, diverged", None)
    assert cell_of(row, "Failed").text == "3"
    assert view_of(row, board).failures[0] == "seed 0 oom: the run is oom"


def test_runs_link_to_their_details_if_these_are_on_the_page():
    """Other runs are listed without a link."""
    board = only_board(record("a", seed=0), record("a", seed=1))
    (row,) = board.rows
    first, second = row.hashes
    assert view_of(row, board, shown=[first]).runs == (
        (f"run-{first}", f"seed 0: 90.00 % ({first[:8]})"),
        ("", f"seed 1: 90.00 % ({second[:8]})"),
    )


def test_a_drop_states_its_number_of_pairs_if_it_is_smaller():
    """Dense has one of the two seeds; with both, the number is not repeated."""
    few = only_board(record("dense", None, 0, 0.95), *(record("a", seed=seed) for seed in (0, 1)))
    assert cell_of(row_of(few, "a"), "Drop, points").text == "5.00 (1 paired)"
    (row, *_) = [row for row in only_board(*full_board(points=(0.5,))).rows if row.method == "probmask"]
    assert cell_of(row, "Drop, points").text == "5.00 [5.00, 5.00]"


def test_fields_are_listed_by_dotted_path():
    """Values other than text are shown as JSON."""
    assert views.flat({"b": {"y": [1, None], "x": "text"}, "a": True}) == [
        ("a", "true"),
        ("b.x", "text"),
        ("b.y", "[1, null]"),
    ]
