"""Text from records is untrusted: made harmless here, once for every place it is printed in."""

from __future__ import annotations

import unicodedata

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]|~$!#"})
_FORMULA = ("=", "+", "-", "@")


def plain(text: object, limit: int = 200) -> str:
    """Return `text` on one line, without anything that could steer a terminal, cut to `limit` characters.

    Every character of Unicode's category C goes: control codes and escape sequences, text direction marks,
    and lone surrogates, which no encoding accepts.
    """
    clean = " ".join(str(text)[: 4 * limit].split())
    if not clean.isprintable():  # what is printable has nothing of category C, and is nearly everything
        clean = "".join(char for char in clean if unicodedata.category(char)[0] != "C")
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def markdown_text(text: str) -> str:
    """Return `text` for a Markdown table: no cell border, markup, formula or HTML in it."""
    return text.translate(_MARKDOWN)


def csv_text(text: str) -> str:
    """Return `text` for a CSV cell; what a spreadsheet would run as a formula gets a leading apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text
