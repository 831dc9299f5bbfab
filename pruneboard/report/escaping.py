"""Makes untrusted text from records safe to print: on a terminal, in Markdown and in CSV."""

from __future__ import annotations

from pruneboard.errors import printable

__all__ = ["csv_text", "markdown_text", "printable"]

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]|~$!#"})
_FORMULA = ("=", "+", "-", "@")


def markdown_text(text: str) -> str:
    """Return `text` for a cell of a Markdown table, with cell borders, markup, formulas and HTML escaped."""
    return text.translate(_MARKDOWN)


def csv_text(text: str) -> str:
    """Return `text` for a CSV cell. An apostrophe in front stops spreadsheets from running text as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
