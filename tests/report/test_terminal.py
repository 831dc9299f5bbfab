"""Tests leaderboards on terminals of any width, with and without colors and Unicode."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from fake_records import put, record
from leaderboard_cases import whole
from project import ROOT
from pruneboard import report
from report_cases import sample_records

terminal = importlib.import_module("pruneboard.report.terminal")  # `report.terminal` is the function


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_rows_are_never_wrapped(width):
    """At every usual width, each row of a table is one complete line."""
    text = report.terminal(whole(sample_records()), width, color=False)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = [line.split()[1:] for line in text.splitlines() if line.startswith("method")]
    points = [point for head in heads for point in head if re.fullmatch(r"0\.\d+", point)]
    assert points == ["0.9", "0.5", "0.9375", "0.995", "0.999"]


def test_a_narrow_terminal_lists_omitted_columns():
    """Columns that do not fit are listed; a wide terminal shows all of them."""
    built = whole(sample_records())
    assert "further columns, in the files or on a wider terminal: " in report.terminal(built, 80, color=False)
    wide = report.terminal(built, 250, color=False)
    assert "further columns" not in wide
    assert "passes per step" in wide


def test_pipes_get_no_colors(monkeypatch):
    """Colors are used on a terminal or on request."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    built = whole([record()])
    assert "\x1b[" in report.terminal(built, 80, color=True)
    assert "\x1b" not in report.terminal(built, 80)


def test_ascii_terminals_get_ascii(tmp_path):
    """If standard output is ASCII, lines and symbols are replaced."""
    for seed in (0, 1):
        put(tmp_path, record(seed=seed))
    code = "import sys; from pruneboard.cli import compare; compare.command(sys.argv[1:])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True, env=environment)
    assert b"90.00 +- 0.00 (2)" in done.stdout


def test_a_terminal_shows_a_limited_number_of_boards_and_rows(monkeypatch):
    """Notes state how many boards and rows are not shown here, and where they are."""
    monkeypatch.setattr(terminal, "MAX_BOARDS", 2)
    monkeypatch.setattr(terminal, "MAX_ROWS", 3)
    made = [record(method__options={"lr": number}) for number in range(5)]
    made += [record(board__steps=steps) for steps in (300, 400, 500)]
    text = report.terminal(whole(made), 120, color=False)
    assert text.count("differs from the other boards") == 2
    assert "2 further boards are not shown here; --json and the written files contain them" in text
    text = report.terminal(whole(made[:5]), 120, color=False)
    assert text.count("\nprobmask lr=") == 2 * 3
    assert "the tables have the first 3 rows here; the files have 2 more" in text
