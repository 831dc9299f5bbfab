"""Tests that untrusted text is made safe to print."""

from __future__ import annotations

import csv
import html
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import whole
from pruneboard import report
from pruneboard.report.escaping import csv_text, markdown_text, printable
from report_cases import every_report, failed_record, hostile_record

WIDE = "\N{FULLWIDTH EQUALS SIGN}"
OTHER_FORMS = (WIDE, *"\N{SMALL EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{MINUS SIGN}\uff20")


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


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", *OTHER_FORMS])
def test_formulas_are_not_run_by_spreadsheets(sign):
    """A cell that starts with a formula's sign, in any of its forms, gets an apostrophe; other cells do not change."""
    assert csv_text(f"{sign}SUM(A1)") == f"'{sign}SUM(A1)"
    assert csv_text(f"a{sign}SUM(A1)") == f"a{sign}SUM(A1)"


@pytest.mark.parametrize("separator", [";", "; ", ";;", ';"', "|", "\t"])
def test_formulas_after_another_separator_are_not_run(separator):
    """Spreadsheets of many countries split lines at semicolons: what follows one cannot start a formula either."""
    for formula in ("=cmd", f"{WIDE}cmd", "@SUM(A1)"):
        assert csv_text(f"a{separator}{formula}") == f"a{separator}'{formula}"
    assert csv_text("seed 1 failed: a; seed 2 oom: b") == "seed 1 failed: a; seed 2 oom: b"
    assert csv_text('{"betas": [0.9, -0.1]}') == '{"betas": [0.9, -0.1]}'


@pytest.mark.parametrize(
    "text",
    [
        "see http://evil.example/x?a=1",
        "HTTPS://EVIL.EXAMPLE",
        "(ftp://a.b)",
        "//evil.example",
        "_www.evil.example_",
        "me@evil.example",
        "mailto:a.b+c@evil.example",
        "git@evil.example:x",
        "evil.com",
        "sub.evil.org/path",
        "evil.io/path",
        "[x](http://evil.example)",
        "javascript:alert(1)",
    ],
)
def test_addresses_are_no_links_in_markdown(text):
    """Zero-width spaces break every address; nothing else of the text changes for a reader."""
    escaped = markdown_text(text)
    assert not re.search(r"//|www\.|\w@|@\w|\w\.(com|org|io)|(mailto|javascript):", escaped, re.IGNORECASE)
    assert html.unescape(re.sub(r"\\(.)", r"\1", escaped)).replace("\u200b", "") == text


@pytest.mark.parametrize("text", ["recipe.lr = 0.1", "results/a/run.json: version 0.1.0", "at 0.9: 90.00 ± 0.00"])
def test_other_words_stay_as_they_are_in_markdown(text):
    """File names, numbers and settings are not taken for addresses."""
    assert markdown_text(text) == text


def test_addresses_and_formulas_of_records_are_inert_in_every_report():
    """Error messages with both: no address in Markdown, no formula in CSV, no link in HTML and LaTeX."""
    message = f"see http://evil.example or www.evil.example;=cmd|' /C calc'!A0;{WIDE}cmd"
    made = [record(status="failed", error={"kind": "RunError", "message": message})]
    _terminal, markdown, table, _document, _card = every_report(made)
    assert "evil&#8203;.example" in markdown
    assert not re.search(r"//|www\.", markdown)
    assert f";'=cmd|' /C calc'!A0;'{WIDE}cmd" in table
    built = whole(made)
    assert not re.search(r"<a [^>]*evil|href=[^#>]*evil", report.html(built))
    assert not re.search(r"\\(url|href)", report.latex(built))
