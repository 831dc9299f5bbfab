"""Figures and LaTeX: valid specs, the same bytes, names that are safe, and text that stays text."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import HOSTILE, dense, ladder, rich, whole
from pruneboard import leaderboard, report
from pruneboard.leaderboard import Leaderboard
from pruneboard.report import charts, points, styles
from pruneboard.report.tables import row_names

# `report.figures` and `report.latex` are the functions; these are their modules.
drawing, tex = (importlib.import_module(f"pruneboard.report.{name}") for name in ("figures", "latex"))
ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)


@pytest.fixture(scope="module")
def board():
    """A leaderboard with everything on it."""
    return rich()


@pytest.fixture(scope="module")
def files(board):
    """Its figures."""
    return report.figures(board)


def looks_of(rows, places=None):
    """Return name -> style of a board's rows."""
    return styles.of(rows, row_names(rows), places or {})


# Charts


@pytest.mark.parametrize("x", charts.X)
@pytest.mark.parametrize("y", charts.Y)
def test_templates_are_valid_vega_lite(board, x, y):
    """Every template, and what is filled into it, holds under the schema of Vega-Lite."""
    altair = pytest.importorskip("altair")
    one = board.boards[0]
    looks = list(looks_of(one.rows).values())
    filled = charts.fill(charts.trade_off(x, y), points.data_sets(one, row_names(one.rows)), looks, points.ticks(one))
    altair.LayerChart.from_dict(filled, validate=True)
    altair.LayerChart.from_dict(charts.heat_map(), validate=True)


def test_filling_a_template_leaves_the_next_one_empty(board):
    """A template that was filled is a copy."""
    before = charts.trade_off()
    charts.fill(charts.trade_off(), {}, list(looks_of(board.boards[0].rows).values()), {"kept": [0.5]})
    assert charts.trade_off() == before


def test_points_stand_where_the_rows_say(board):
    """x, mean, interval and dots of every point are those of its row, in percent; drops pair with the dense run."""
    for one in board.boards:
        names = row_names(one.rows)
        rows = {(names[row.identity], row.point): row for row in one.rows if row.target is not None and row.top1}
        cells = points.data_sets(one, names)["cells"]
        assert len(cells) == len(rows)
        for cell in cells:
            row = rows[cell["method"], cell["sparsity"]]
            assert cell["kept"] == pytest.approx(1 - row.point)
            assert cell["compression"] == pytest.approx(1 / cell["kept"], rel=1e-3)
            assert cell["macs"] == pytest.approx(100 * row.macs_remaining)
            assert cell["top1"] == pytest.approx(100 * row.top1.mean, abs=6e-3)
            assert cell["tops"] == pytest.approx([100 * top1 for top1 in row.by_seed.values()], abs=6e-3)
            if one.dense and row.drop and row.n == row.drop.n:
                drops = [100 * (one.dense.by_seed[seed] - top1) for seed, top1 in row.by_seed.items()]
                assert cell["drops"] == pytest.approx(drops, abs=6e-3)
                assert cell["drop"] == pytest.approx(sum(drops) / len(drops), abs=1.1e-2)


def test_failures_and_off_target_rows_have_marks_of_their_own(board):
    """A row without a finished run is a failure at its target; an off-target row is marked and left off the line."""
    one = max(board.boards, key=lambda one: len(one.rows))
    data = points.data_sets(one, row_names(one.rows))
    assert [(item["method"], item["sparsity"]) for item in data["failures"]] == [("gmp", 0.9)]
    assert "diverged and 1 more" in data["failures"][0]["failed"]
    assert [cell["method"] for cell in data["cells"] if cell["off"]] == ["str"]


def test_methods_look_different_from_each_other():
    """No two of thirty methods share colour, dash and shape; one alone on a board looks as it does among others."""
    places = {f"m{number:02}": number for number in range(30)}
    looks = looks_of(leaderboard.build_boards([record(name, 0.9, 0) for name in places])[0].rows, places)
    for first, second in combinations(looks.values(), 2):
        assert (first.light, first.dash, first.shape) != (second.light, second.dash, second.shape)
    assert looks_of(leaderboard.build_boards([record("m04", 0.9, 0)])[0].rows, places)["m04"] == looks["m04"]


def test_variants_of_a_method_share_its_colour():
    """Runs of one method with other options have its colour, and a dash and a shape of their own; controls too."""
    for method in ("m01", "magnitude"):
        made = [record(method, 0.9, 0, method__options={"lr": lr}) for lr in range(4)]
        looks = looks_of(leaderboard.build_boards(made)[0].rows, {"m01": 1}).values()
        assert len({(style.light, style.dark) for style in looks}) == 1
        assert len({style.dash for style in looks}) == len({style.shape for style in looks}) == 4


def test_controls_are_grey():
    """Dense, floor and baseline have colours without hue, on light pages and on dark ones."""
    made = [*dense(1), record("random", 0.9, 0), record("magnitude", 0.9, 0), record("probmask", 0.9, 0)]
    for style in looks_of(leaderboard.build_boards(made)[0].rows).values():
        spreads = [max(rgb) - min(rgb) for rgb in (bytes.fromhex(color[1:]) for color in (style.light, style.dark))]
        assert (max(spreads) <= 16) is bool(style.control)


# Files


def test_each_board_has_an_svg_and_a_png(board, files):
    """There are two files for each board, each of its kind, and the same leaderboard gives the same bytes."""
    stems = {f"{one.dataset}-{one.model}-{one.track}-{one.fingerprint}" for one in board.boards}
    assert set(files) == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert all(data.startswith(b"\x89PNG\r\n") for name, data in files.items() if name.endswith(".png"))
    drawing._svg.cache_clear()
    assert report.figures(rich()) == files


def test_figure_holds_names_as_text_and_loads_nothing(files):
    """A method named like a script is text in the SVG, which has no script, no link and no address outside."""
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
def test_file_names_are_made_of_safe_characters(dataset, model):
    """Whatever a record calls its data and model, the name is short, in ASCII, and no path."""
    one = dataclasses.replace(leaderboard.build_boards([record()])[0], dataset=dataset, model=model)
    name = drawing.file_name(one)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name)
    assert len(name) < 200


def test_boards_of_one_name_have_files_of_their_own():
    """Two boards whose names differ only in what is left out do not overwrite each other."""
    one = leaderboard.build_boards([record("a", 0.9), record("a", 0.5)])[0]
    twins = (dataclasses.replace(one, dataset="Ä/b"), dataclasses.replace(one, dataset="a_b"))
    assert len(report.figures(Leaderboard(boards=twins))) == 4


def test_figure_of_a_large_board_says_how_many_methods_it_shows():
    """A board with more rows than can be told apart is drawn with whole methods, and its heading says how many."""
    one = leaderboard.build_boards([*dense(1), *ladder("a", 1), *ladder("b", 1)])[0]
    many = tuple(
        dataclasses.replace(curve, rows=tuple(dataclasses.replace(row, method=f"m{n:03}") for row in curve.rows))
        for n, curve in enumerate(one.curves * 80)
    )
    rows = (one.dense, *(row for curve in many for row in curve.rows))
    files = report.figures(Leaderboard(boards=(dataclasses.replace(one, curves=many, rows=rows),)))
    shown = drawing.MOST_MARKS // 3
    svg = next(data.decode() for name, data in files.items() if name.endswith("svg"))
    assert f"{shown} of 160 methods" in svg


def test_boards_beyond_the_limit_are_named():
    """Only so many figures are drawn, of the boards with most rows; the others are listed."""
    one = leaderboard.build_boards([record("a", 0.9)])[0]
    boards = [dataclasses.replace(one, fingerprint=f"{number:012x}") for number in range(drawing.MOST + 3)]
    boards[-1] = dataclasses.replace(boards[-1], rows=one.rows * 2)
    found = report.figures(Leaderboard(boards=tuple(boards)))
    listed = found.pop("left-out.txt").decode()
    assert len(found) == 2 * drawing.MOST
    assert listed.count("/ resnet20_cifar /") == 3
    assert boards[-1].fingerprint not in listed


@pytest.mark.parametrize("name", ["\U0001f600" * 250, "\u202e" + "x" * 250, "&<>\"'" * 50, "%", "{{7*7}}", "\x00\x07"])
def test_any_name_can_be_drawn(name):
    """Names that are long, or of characters that renderers stumble over, stop no figure."""
    assert len(report.figures(whole([*dense(2), *ladder(name, 2)]))) == 2


def test_board_without_an_operating_point_has_no_figure():
    """Dense runs alone are no trade-off."""
    assert report.figures(whole(dense(2))) == {}


# LaTeX


def unescaped(text: str) -> str:
    """Return what is left of LaTeX when its commands and escapes are taken away."""
    return re.sub(r"\\[A-Za-z]+\{\}|\\[A-Za-z]+|\\[^A-Za-z]", "", text)


@given(ANY_TEXT)
def test_escaped_text_has_no_meaning_to_latex(text):
    """Nothing is left of it that would start a command, a comment, mathematics or a cell; braces are in pairs."""
    left = unescaped(tex.escape(text))
    assert not set(left) & set("\\$&#%_~^<>|\"'`")
    assert left.count("{") == left.count("}")
    assert left.isascii()
    assert left.isprintable()


def test_latex_has_a_line_per_method_and_a_cell_per_operating_point(board):
    """Every line of a table has as many cells as its head, and the leaders are bold."""
    text = report.latex(board)
    for one, table in zip(board.boards, text.split(r"\begin{table}")[1:], strict=True):
        lines = table[table.index(r"\toprule") : table.index(r"\bottomrule")]
        cells = [len(re.findall(r"(?<!\\)&", line)) for line in lines.splitlines() if line.endswith(r"\\")]
        assert cells == [len(one.points)] * (1 + len(one.curves))
        assert table.count(r"\textbf") == sum(row.leads for row in one.rows)
    assert re.findall(r"\\begin\{(\w+)\}", text).count("tabular") == text.count(r"\end{tabular}") == len(board.boards)


def test_latex_says_what_is_missing(board):
    """Failures, gaps, single seeds, off-target rows and missing controls are told in the table or below it."""
    text = report.latex(board)
    for shown in ("failed", "--", r"\(\circ\)~93.00", "Off target, not shown: str at 0.9", "floor, baseline"):
        assert shown in text


def test_many_operating_points_continue_in_the_next_table():
    """A table has at most so many columns; every operating point stands in one."""
    made = [record("a", number / 50, 0) for number in range(1, 26)]
    text = report.latex(whole(made))
    assert text.count(r"\begin{tabular}") == 3
    assert all(f"{number / 50:g}" in text for number in range(1, 26))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex on the PATH")
def test_latex_compiles(board, tmp_path):
    """A plain article with the packages that the first line names takes all tables."""
    packages = r"\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage{booktabs}"
    body = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{board}}\end{{document}}"
    (tmp_path / "board.tex").write_text(report.latex(board), encoding="utf-8")
    (tmp_path / "main.tex").write_text(body, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
