"""Makes untrusted text from records safe to print: on a terminal, in Markdown and in CSV."""

from __future__ import annotations

import re
import unicodedata

from pruneboard.errors import printable

__all__ = ["csv_text", "markdown_text", "printable"]

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]|~$!#"})

_BREAK = "&#8203;"
"""A zero-width space. No other escape stops all Markdown renderers from making a link of an address."""
_LINK = re.compile(
    # In a word that GitHub or linkify-it, which most other renderers use, take for an address: a scheme or `www.`, an
    # `@`, a common top-level domain, or a domain of two letters with a path.
    r"""// | www\. | @ | (?:mailto|xmpp|tel|javascript|data):
    | [^\W_]\.(?:com|net|org|edu|gov|mil|int|info|biz|pro|web|xxx|aero|asia|coop|museum|name|shop|xn--\w+|рф)\b
    | [^\W_]\.[a-z]{2}[/:?\#]""",
    re.VERBOSE | re.IGNORECASE,
)
_LINK_MARKS = re.compile(r"(?=[.:@])|(?<=[@/])")

_FORMULA = "=+-@\u2212"  # the last is the minus sign
_AFTER_SEPARATOR = re.compile(r"([;\t|]\s*[\"']*\s*)(?=(\S))")
"""The start of a cell within a text, in a spreadsheet that separates cells in another way than by commas."""


def markdown_text(text: str) -> str:
    """Return `text` for a cell of a Markdown table, with cell borders, markup, links, math and HTML escaped."""
    if not _LINK.search(text):
        return text.translate(_MARKDOWN)
    return " ".join(
        _without_link(word) if _LINK.search(word) else word.translate(_MARKDOWN) for word in text.split(" ")
    )


def _without_link(word: str) -> str:
    return _BREAK.join(part.translate(_MARKDOWN) for part in _LINK_MARKS.split(word))


def csv_text(text: str) -> str:
    """Return `text` for a CSV cell. Apostrophes stop spreadsheets from running it, or a part of it, as a formula."""
    text = _AFTER_SEPARATOR.sub(lambda found: found[1] + "'" * _is_formula(found[2]), text)
    return f"'{text}" if _is_formula(text.lstrip()) else text


def _is_formula(text: str) -> bool:
    """Return whether a text starts with a sign that begins a formula, also in a full-width or another form."""
    return unicodedata.normalize("NFKC", text[:1]).startswith(tuple(_FORMULA))
