"""Tests the LaTeX tables."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import whole
from pruneboard import report
from pruneboard.report.latex import escape

ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)


def without_commands(text: str) -> str:
    """Return LaTeX without its commands and escapes."""
    return re.sub(r"\\[A-Za-z]+\{\}|\\[A-Za-z]+|\\[^A-Za-z]", "", text)


@given(ANY_TEXT)
def test_escaped_text_is_literal(text):
    """No character that starts a command, comment, formula or cell is left, and braces are balanced."""
    left = without_commands(escape(text))
    assert not set(left) & set("\\$&#%_~^<>|\"'`")
    assert left.count("{") == left.count("}")
    assert left.isascii()
    assert left.isprintable()


def test_a_table_has_methods_and_operating_points(everything):
    """Every row has as many cells as the header, and the leaders are bold."""
    text = report.latex(everything)
    for one, table in zip(everything.boards, text.split(r"\begin{table}")[1:], strict=True):
        lines = table[table.index(r"\toprule") : table.index(r"\bottomrule")]
        cells = [len(re.findall(r"(?<!\\)&", line)) for line in lines.splitlines() if line.endswith(r"\\")]
        assert cells == [len(one.points)] * (1 + len(one.curves) + len(one.chance_levels))
        assert table.count(r"\textbf") == sum(row.leads for row in one.rows)
    assert (
        re.findall(r"\\begin\{(\w+)\}", text).count("tabular") == text.count(r"\end{tabular}") == len(everything.boards)
    )


def test_missing_values_are_stated(everything):
    """Failures, gaps, single seeds, off-target rows and missing controls are in the table or below it."""
    text = report.latex(everything)
    for shown in ("failed", "--", r"\(\circ\)~93.00", "Off target, not in the table: str at 0.9", "floor, baseline"):
        assert shown in text


def test_many_operating_points_continue_in_the_next_table():
    """The number of columns is limited, and every operating point is in one of the tables."""
    made = [record("a", number / 50, 0) for number in range(1, 26)]
    text = report.latex(whole(made))
    assert text.count(r"\begin{tabular}") == 3
    assert all(f"{number / 50:g}" in text for number in range(1, 26))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex on the PATH")
def test_latex_compiles(everything, tmp_path):
    """An article with the packages that the first line names can include all tables."""
    packages = r"\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage{booktabs}"
    body = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{board}}\end{{document}}"
    (tmp_path / "board.tex").write_text(report.latex(everything), encoding="utf-8")
    (tmp_path / "main.tex").write_text(body, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_chance_is_a_line_and_rows_at_chance_are_named():
    """Below the methods is the accuracy of guessing, and the footnote names the rows that are not above it."""
    made = [record("a", 0.9, seed, 0.1 + seed / 1000) for seed in range(3)]
    made += [record("b", 0.9, seed, 0.5, data__majority=0.2) for seed in range(4)]
    text = report.latex(whole(made))
    assert "\\midrule\nChance & 10.00 \\\\\nMajority class & 20.00 \\\\\n\\bottomrule" in text
    assert "Not above chance or the majority class, and therefore not ranked: a at 0.9." in text
