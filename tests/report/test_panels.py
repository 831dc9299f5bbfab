"""Tests the smaller tables of a board: areas, finished seeds and costs."""

from __future__ import annotations

import pytest

from fake_records import record
from leaderboard_cases import curve_of, full_board, only_board
from pruneboard.report import panels
from pruneboard.report.tables import row_names


def costs_of(*made):
    """Return column -> method -> text of the cost table."""
    board = only_board(*made)
    titles, rows = panels.costs(board, row_names(board.rows))
    return {title: {row.name: row.cells[index][0] for row in rows} for index, title in enumerate(titles)}


def test_area_cells_of_a_complete_curve():
    """They are area, interval, coverage and missing points; the sort keys are the numbers themselves."""
    area, interval, coverage, missing = panels.area_cells(curve_of(only_board(*full_board()), "probmask"))
    assert (area.text, interval.text, coverage.text, missing.text) == ("5.00", "[5.00, 5.00]", "100 %", "none")
    assert (area.sort, coverage.sort, missing.sort) == (pytest.approx(0.05), 1.0, 0)


def test_area_cells_of_an_incomplete_curve():
    """One point has no area, and the missing points are listed."""
    board = only_board(*full_board(), record("str", 0.5))
    area, interval, coverage, missing = panels.area_cells(curve_of(board, "str"))
    assert (area.text, interval.text, coverage.text, missing.text) == ("-", "-", "33 %", "0.75, 0.9375")
    assert area.sort is None


def test_coverage_cells_have_seeds_failures_and_gaps():
    """Each operating point of the board has a cell, even if the method has no run there."""
    made = [*full_board(points=(0.5, 0.75, 0.9375)), record("str", 0.5), record("str", 0.75, 0), record("str", 0.75, 1)]
    made += [record("str", 0.75, 2, status="oom")]
    board = only_board(*made)
    cells = panels.coverage(curve_of(board, "str"), board)
    assert [cell.text for cell in cells] == ["1", "2 +1 failed", "missing"]
    assert [cell.css for cell in cells] == ["single", "provisional bad", "missing"]


def test_costs_are_ranges_over_operating_points():
    """A column without any value is left out, and the longest bar belongs to the largest value."""
    made = [record("a", 0.5, cost__wall_seconds=10.0), record("a", 0.9, cost__wall_seconds=20.0)]
    made += [record("b", 0.5, cost__wall_seconds=200.0)]
    found = costs_of(*made)
    assert found["Seconds"] == {"a": "10.00 to 20.00", "b": "200"}
    assert "Storage, kbit" not in found
    board = only_board(*made)
    titles, rows = panels.costs(board, row_names(board.rows))
    bars = {row.name: row.cells[titles.index("Seconds")][1] for row in rows}
    assert bars == {"a": 10.0, "b": 100.0}


def test_unreachable_weights_are_a_share_of_the_kept_weights():
    """At measured sparsity .9 and effective sparsity .95, half of the kept weights are disconnected."""
    found = costs_of(record("a", 0.9, sparsity__effective=0.95), record("b", 0.9))
    assert found["Unreachable, % of kept weights"] == {"a": "50.00", "b": "-"}


def test_failed_runs_have_no_cost():
    """A method without a finished run is not part of the cost table."""
    assert set(costs_of(record("a"), record("b", status="oom"))["Seconds"]) == {"a"}
