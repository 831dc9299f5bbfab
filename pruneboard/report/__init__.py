"""Renders leaderboards and records: terminal tables, Markdown, LaTeX, CSV, JSON, an HTML page and figures.

Everything here except `files` is a pure function from a leaderboard to text or bytes. Nothing imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruneboard.report.escaping import printable
from pruneboard.report.figures import figures
from pruneboard.report.latex import latex
from pruneboard.report.terminal import render, terminal

if TYPE_CHECKING:
    from pruneboard.report.page import html
    from pruneboard.report.run_summary import summary
    from pruneboard.report.text import csv, json, markdown

__all__ = ["csv", "figures", "html", "json", "latex", "markdown", "printable", "render", "summary", "terminal"]

_LATE = {"summary": "run_summary", "html": "page", "csv": "text", "json": "text", "markdown": "text"}
"""Name -> module of the functions that are imported on first use, so that commands which only print a table start fast.
The remaining functions have the same names as their modules and cannot be imported late: importing a submodule sets an
attribute of this name on the package."""


def __getattr__(name: str) -> Any:
    """Import a function of `_LATE` on first use."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    return found
