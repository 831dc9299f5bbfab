"""Writes a leaderboard to a folder: page, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruneboard import report
from pruneboard.leaderboard import Leaderboard
from pruneboard.records import store

_TEXTS = {"html": "html", "md": "markdown", "tex": "latex", "csv": "csv", "json": "json"}
"""Format -> name of the function of `report` that creates it. Looking the function up may import its module."""
_PICTURES = ("svg", "png")
_FIGURE = re.compile(r".+-[0-9a-f]{12}(-\d+)?\.(svg|png)|left-out\.txt")
FORMATS = (*_TEXTS, *_PICTURES)
"""The formats of `write_leaderboard`."""


def write_leaderboard(leaderboard: Leaderboard, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `leaderboard.<format>` and `figures/` into `folder`, each file atomically, and return the paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    makers = {name: getattr(report, maker) for name, maker in _TEXTS.items() if name in formats}
    files = {f"leaderboard.{name}": make(leaderboard) for name, make in makers.items()}
    written = [store.write_atomic(folder / name, text.encode("utf-8", "replace")) for name, text in files.items()]
    if set(formats) & set(_PICTURES):
        written += _write_figures(report.figures(leaderboard), folder / "figures", formats)
    return written


def _write_figures(drawn: Mapping[str, bytes], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figures in the given formats, and delete figures of boards that do not exist any more."""
    chosen = {name: data for name, data in drawn.items() if name.rpartition(".")[2] in (*formats, "txt")}
    written = [store.write_atomic(folder / name, data) for name, data in chosen.items()]
    for path in folder.glob("*"):
        if _FIGURE.fullmatch(path.name) and path.name not in drawn:
            path.unlink(missing_ok=True)
    return written
