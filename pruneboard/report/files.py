"""A leaderboard written to a folder: page, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruneboard import report
from pruneboard.leaderboard import Leaderboard
from pruneboard.records import store

_TEXTS = {"html": "html", "md": "markdown", "tex": "latex", "csv": "csv", "json": "json"}
"""Format -> the function of `report` that makes it: named, because to look it up is to import it."""
_PICTURES = ("svg", "png")
_FIGURE = re.compile(r".+-[0-9a-f]{12}(-\d+)?\.(svg|png)|left-out\.txt")
FORMATS = (*_TEXTS, *_PICTURES)
"""What `write` can write."""


def write(board: Leaderboard, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `leaderboard.<format>` and `figures/` into `folder`, each file atomically, and return their paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    files = {f"leaderboard.{name}": getattr(report, maker)(board) for name, maker in _TEXTS.items() if name in formats}
    written = [store.write_atomic(folder / name, text.encode("utf-8", "replace")) for name, text in files.items()]
    if set(formats) & set(_PICTURES):
        written += _write_figures(report.figures(board), folder / "figures", formats)
    return written


def _write_figures(drawn: Mapping[str, bytes], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figures of the formats asked for, and remove those of boards that are no longer there."""
    chosen = {name: data for name, data in drawn.items() if name.rpartition(".")[2] in (*formats, "txt")}
    written = [store.write_atomic(folder / name, data) for name, data in chosen.items()]
    for path in folder.glob("*"):
        if _FIGURE.fullmatch(path.name) and path.name not in drawn:
            path.unlink(missing_ok=True)
    return written
