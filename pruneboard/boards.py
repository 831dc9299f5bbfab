"""From folders to leaderboards and back to files: where the store and the pure functions meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pruneboard import leaderboard, report, store
from pruneboard.leaderboard import Board
from pruneboard.store import Scan


def compare(paths: Iterable[str | Path]) -> list[Board]:
    """Read every record below `paths` and return the boards they form; files that are no record are skipped.

    Args:
        paths: results folders, run folders, or `run.json` files.

    Raises:
        NotFoundError: a path that does not exist or holds no record.
    """
    return load(paths)[0]


def load(paths: Iterable[str | Path]) -> tuple[list[Board], Scan]:
    """Return the boards below `paths`, and the scan with the files that were skipped and why."""
    found = store.scan(paths)
    superseded = {record["hash"]: found.superseded.get(path.parent, 0) for path, record in found.records}
    return leaderboard.build([record for _, record in found.records], superseded), found


def write(boards: Sequence[Board], folder: Path) -> list[Path]:
    """Write `leaderboard.md`, `.csv` and `.json` into `folder`, each atomically, and return their paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    texts = {"md": report.markdown(boards), "csv": report.csv(boards), "json": report.json(boards)}
    return [
        store.write_atomic(folder / f"leaderboard.{suffix}", text.encode("utf-8", "replace"))
        for suffix, text in texts.items()
    ]
