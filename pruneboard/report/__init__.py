"""Boards and records as text, page and pictures. Pure functions; no torch, no files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruneboard.report.clean import plain
from pruneboard.report.figures import figures
from pruneboard.report.latex import latex
from pruneboard.report.terminal import render, terminal

if TYPE_CHECKING:
    from pruneboard.report.card import summary
    from pruneboard.report.page import html
    from pruneboard.report.text import csv, json, markdown

__all__ = ["csv", "figures", "html", "json", "latex", "markdown", "plain", "render", "summary", "terminal"]

_LATE = {"summary": "card", "html": "page", "csv": "text", "json": "text", "markdown": "text"}
"""What is imported when it is asked for, so that a command which prints a table starts at once. The others have the
names of their modules, which would take their place here."""


def __getattr__(name: str) -> Any:
    """Import one of `_LATE`."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    return found
