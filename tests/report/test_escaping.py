"""Tests that untrusted text is made safe to print."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.report.escaping import csv_text, markdown_text, printable
from report_cases import every_report, failed_record, hostile_record


@given(st.text())
@settings(deadline=None)
def test_printable_text_is_one_short_line(text):
    """Any text becomes one line of limited length that can be encoded and has no control characters."""
    clean = printable(text, 50)
    assert len(clean) <= 50
    assert clean.isprintable() or not clean.isascii()
    assert len(clean.splitlines()) <= 1
    clean.encode()
    assert not csv_text(clean).startswith(("=", "+", "-", "@"))
    assert not set("<>") & set(markdown_text(clean))


def test_hostile_text_is_harmless_in_every_report():
    """Escape sequences, markup, HTML, direction marks and lone surrogates of a record are removed or escaped."""
    terminal, markdown, table, document, card = every_report([hostile_record(), failed_record()])
    for text in (terminal, markdown, table, document, card):
        text.encode()
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[bold red]x[/]" in card
    assert "<script>" not in markdown
    assert markdown.count("\\[bold red\\]") == markdown.count("bold red")
    for line in csv.DictReader(io.StringIO(table)):
        assert line["version"] in ("'=1+1", "0.1.0")
        assert not any(value.startswith(("=", "+", "@")) for value in line.values())


def test_long_text_is_shortened():
    """The last character of a shortened text is an ellipsis."""
    assert printable("x" * 60, 50) == "x" * 49 + "…"
    assert printable("x" * 50, 50) == "x" * 50


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_formulas_are_not_run_by_spreadsheets(text):
    """A cell that starts like a formula gets a leading apostrophe; other cells do not change."""
    assert csv_text(text) == f"'{text}"
    assert csv_text(f"a{text}") == f"a{text}"
