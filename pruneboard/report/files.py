"""Writes a leaderboard to a folder: page, tables and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pruneboard import report
from pruneboard.errors import StoreError, why
from pruneboard.leaderboard import Leaderboard
from pruneboard.records import store

_TEXTS = {"html": "html", "md": "markdown", "tex": "latex", "csv": "csv", "json": "json"}
"""Format -> name of the function of `report` that creates it. Looking the function up may import its module."""
_PICTURES = ("svg", "png")
_FIGURE = re.compile(r"[A-Za-z0-9_.-]+-[0-9a-f]{12}(-\d+)?\.(svg|png)|left-out\.txt")
FORMATS = (*_TEXTS, *_PICTURES)
"""The formats of `write_leaderboard`."""

FIGURES = "figures"
MANIFEST = "leaderboard-figures.json"
"""The file that lists the figures of the last report: only these are deleted when they are outdated."""
_MAX_MANIFEST = 2**20


def write_leaderboard(leaderboard: Leaderboard, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `leaderboard.<format>` and `figures/` into `folder`, each file atomically, and return the paths.

    Raises:
        StoreError: the folder cannot be written, or a symbolic link in it leads elsewhere.
    """
    figures = store.inside(folder / FIGURES, folder)
    makers = {name: getattr(report, maker) for name, maker in _TEXTS.items() if name in formats}
    files = {f"leaderboard.{name}": make(leaderboard) for name, make in makers.items()}
    written = [store.write_atomic(folder / name, text.encode("utf-8", "replace")) for name, text in files.items()]
    if set(formats) & set(_PICTURES):
        written += _write_figures(report.figures(leaderboard), figures, folder / MANIFEST, formats)
    return written


def _write_figures(drawn: Mapping[str, bytes], folder: Path, manifest: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figures in the given formats, and delete figures of the last report that do not exist any more."""
    chosen = {name: data for name, data in drawn.items() if name.rpartition(".")[2] in (*formats, "txt")}
    before = _listed(manifest)
    _write_manifest(manifest, {*before, *chosen})  # first: if this process is killed, the next one knows all its files
    written = [store.write_atomic(folder / name, data) for name, data in chosen.items()]
    for path in (folder / name for name in before - drawn.keys()):
        _delete(path)
    return [*written, _write_manifest(manifest, [name for name in drawn if name in chosen or name in before])]


def _listed(path: Path) -> set[str]:
    """Return the names of the figures that the manifest lists; none if it is missing, damaged or a link."""
    try:
        names = [] if path.is_symlink() else json.loads(store.read_bytes(path, _MAX_MANIFEST))["figures"]
        return {name for name in names if isinstance(name, str) and _FIGURE.fullmatch(name)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _write_manifest(path: Path, names: Collection[str]) -> Path:
    return store.write_atomic(path, (json.dumps({"figures": sorted(names)}, indent=1) + "\n").encode())


def _delete(path: Path) -> None:
    try:
        store.remove_stale_parts(path)
        if path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot delete the outdated figure {path}: {why(error)}") from None
