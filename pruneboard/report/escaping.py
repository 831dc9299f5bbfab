"""Makes untrusted text from records safe to print: on a terminal, in Markdown and in CSV."""

from __future__ import annotations

import unicodedata

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]|~$!#"})
_FORMULA = ("=", "+", "-", "@")


def printable(text: object, limit: int = 200) -> str:
    """Return `text` as one line without control characters, shortened to `limit` characters.

    All characters of the Unicode category C are removed: control codes, which could start escape sequences of a
    terminal, text direction marks, and lone surrogates, which cannot be encoded.
    """
    clean = " ".join(str(text)[: 4 * limit].split())
    if not clean.isprintable():  # fast path: printable text contains no category C
        clean = "".join(char for char in clean if unicodedata.category(char)[0] != "C")
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def markdown_text(text: str) -> str:
    """Return `text` for a cell of a Markdown table, with cell borders, markup, formulas and HTML escaped."""
    return text.translate(_MARKDOWN)


def csv_text(text: str) -> str:
    """Return `text` for a CSV cell. An apostrophe in front stops spreadsheets from running text as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
