"""Tests the figures: reproducible bytes, safe file names, and text that stays text."""

from __future__ import annotations

import dataclasses
import importlib
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import HOSTILE, dense, ladder, only_board, rich, whole
from pruneboard import leaderboard, report
from pruneboard.leaderboard import Leaderboard
from pruneboard.report import styles
from pruneboard.report.tables import row_names

figures = importlib.import_module("pruneboard.report.figures")  # `report.figures` is the function


ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)


@pytest.fixture(scope="module")
def files(everything):
    """Return its figures."""
    return report.figures(everything)


def test_each_board_has_an_svg_and_a_png(everything, files):
    """Each board has one file of each kind, and the same leaderboard gives the same bytes."""
    stems = {f"{one.dataset}-{one.model}-{one.track}-{one.fingerprint}" for one in everything.boards}
    assert set(files) == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert all(data.startswith(b"\x89PNG\r\n") for name, data in files.items() if name.endswith(".png"))
    figures._svg.cache_clear()
    assert report.figures(rich()) == files


def test_figures_contain_names_as_text_and_load_nothing(files):
    """A method named like a script is text in the SVG, which has no script, link or external address."""
    texts = ""
    for data in (data for name, data in files.items() if name.endswith(".svg")):
        root = ET.fromstring(data.decode())
        kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert kinds <= {
            "svg",
            "rect",
            "g",
            "path",
            "text",
            "line",
            "defs",
            "clipPath",
            "linearGradient",
            "stop",
            "title",
        }
        assert not re.search(rb"(href|src)=|url\((?!#)|javascript:", data)
        texts += "".join(root.itertext())
    assert HOSTILE in texts


@settings(max_examples=60, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_file_names_are_safe(dataset, model):
    """Whatever the data set and the model are called, the file name is short ASCII text and not a path."""
    one = dataclasses.replace(leaderboard.build_boards([record()])[0], dataset=dataset, model=model)
    name = figures.file_name(one)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name)
    assert len(name) < 200


def test_equal_names_are_numbered():
    """Boards whose names become equal do not overwrite each other's files."""
    one = leaderboard.build_boards([record("a", 0.9), record("a", 0.5)])[0]
    twins = (dataclasses.replace(one, dataset="Ä/b"), dataclasses.replace(one, dataset="a_b"))
    assert len(report.figures(Leaderboard(boards=twins))) == 4


def test_figures_of_large_boards_state_how_many_methods_they_show():
    """A board with too many rows is drawn with complete methods, and the title states their number."""
    one = leaderboard.build_boards([*dense(1), *ladder("a", 1), *ladder("b", 1)])[0]
    many = tuple(
        dataclasses.replace(curve, rows=tuple(dataclasses.replace(row, method=f"m{n:03}") for row in curve.rows))
        for n, curve in enumerate(one.curves * 80)
    )
    rows = (one.dense, *(row for curve in many for row in curve.rows))
    files = report.figures(Leaderboard(boards=(dataclasses.replace(one, curves=many, rows=rows),)))
    shown = figures.MAX_MARKS // 3
    svg = next(data.decode() for name, data in files.items() if name.endswith("svg"))
    assert f"{shown} of 160 methods" in svg


def test_boards_beyond_the_limit_are_listed():
    """Only the largest boards are drawn, and the others are listed."""
    one = leaderboard.build_boards([record("a", 0.9)])[0]
    boards = [dataclasses.replace(one, fingerprint=f"{number:012x}") for number in range(figures.MAX_FIGURES + 3)]
    boards[-1] = dataclasses.replace(boards[-1], rows=one.rows * 2)
    found = report.figures(Leaderboard(boards=tuple(boards)))
    listed = found.pop("left-out.txt").decode()
    assert len(found) == 2 * figures.MAX_FIGURES
    assert listed.count("/ resnet20_cifar /") == 3
    assert boards[-1].fingerprint not in listed


@pytest.mark.parametrize("name", ["\U0001f600" * 250, "\u202e" + "x" * 250, "&<>\"'" * 50, "%", "{{7*7}}", "\x00\x07"])
def test_any_name_can_be_drawn(name):
    """Long names and names with unusual characters can be drawn."""
    assert len(report.figures(whole([*dense(2), *ladder(name, 2)]))) == 2


def test_a_board_without_operating_points_has_no_figure():
    """Dense runs alone are not a trade-off."""
    assert report.figures(whole(dense(2))) == {}


@pytest.mark.parametrize(("top1", "shown"), [(0.3, ">chance<"), (0.8, "below: chance 10.00 %")])
def test_figures_show_chance(top1, shown):
    """A figure has the line of chance, or the text that it is below."""
    board = only_board(record("dense", None, 0, 0.9), *(record("a", 0.9, seed, top1) for seed in range(2)))
    names = row_names(board.rows)
    assert shown in figures.draw(board, names, styles.assign_styles(board.rows, names, {}))
