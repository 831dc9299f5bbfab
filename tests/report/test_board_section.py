"""Tests the HTML of one board."""

from __future__ import annotations

import dataclasses

from fake_records import record
from leaderboard_cases import Reader, decompressed, only_board
from pruneboard import report
from pruneboard.report import board_section, size_budget
from pruneboard.report import page as page_module


def test_compressed_boards_have_the_same_html(everything):
    """A compressed board decompresses to the HTML that would otherwise be in the page."""
    first, budget = page_module._empty_parts(everything.boards)[0], size_budget.SizeBudget(0, 10**6)
    context = board_section.PageContext({}, {}, set())
    text = board_section.board_section(first, everything.boards[0], (), context, drawn=False)
    assert not budget.fits_plain(first.key, text)
    budget.flush()
    page = report.html(dataclasses.replace(everything, runs=()))
    assert first.key in budget.positions
    assert f'id="{first.key}"' in page
    small = page_module._build(everything, 0.001)
    assert all(f'id="{key}"' in part for key, part in decompressed(small).items())


def test_large_boards_are_limited_and_say_so(everything, monkeypatch):
    """The number of rows that are left out is stated."""
    monkeypatch.setattr(board_section, "MAX_ROWS", 4)
    board = max(everything.boards, key=lambda board: len(board.rows))
    part = size_budget.PagePart("board-x", "x")
    context = board_section.PageContext({}, {}, set())
    text = Reader(board_section.board_section(part, board, (), context, drawn=False)).text()
    shown = int(text.split(" rows of this board are left out")[0].split()[-1])
    assert 0 < len(board.rows) - shown <= 5


def test_a_picture_is_included_on_request(everything):
    """Without it, the chart exists only with JavaScript."""
    part, context = size_budget.PagePart("board-x", "x"), board_section.PageContext({}, {}, set())
    for drawn in (True, False):
        html = board_section.board_section(part, everything.boards[0], (), context, drawn=drawn)
        assert ("data:image/svg+xml" in html) is drawn


def test_chance_is_below_the_table():
    """The page has the lines of chance and majority class in the foot of its table, and a row at chance says so."""
    made = [record("a", 0.9, seed, 0.1, data__majority=0.25) for seed in range(3)]
    board = only_board(*made, *(record("b", 0.9, seed, 0.8, data__majority=0.25) for seed in range(4)))
    part, context = size_budget.PagePart("board-x", "x"), board_section.PageContext({}, {}, set())
    html = board_section.board_section(part, board, (), context, drawn=False)
    foot = Reader(html[html.index("<tfoot>") : html.index("</tfoot>")]).text()
    assert "chance 10.00" in foot
    assert "majority class 25.00" in foot
    assert "at chance" in html[: html.index("<tfoot>")]
