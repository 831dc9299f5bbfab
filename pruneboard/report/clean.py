"""Text from records is untrusted: made harmless here, once for every place it is printed in."""

from __future__ import annotations

from pruneboard.errors import plain

__all__ = ["csv_text", "markdown_text", "plain"]

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]|~$!#"})
_FORMULA = ("=", "+", "-", "@")


def markdown_text(text: str) -> str:
    """Return `text` for a Markdown table: no cell border, markup, formula or HTML in it."""
    return text.translate(_MARKDOWN)


def csv_text(text: str) -> str:
    """Return `text` for a CSV cell; what a spreadsheet would run as a formula gets a leading apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text
