"""Reads all records below some folders and builds a leaderboard from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pruneboard import leaderboard
from pruneboard.leaderboard import Board, Leaderboard, Published, RunEntry, literature
from pruneboard.records import store, verdicts
from pruneboard.records.schema import Record, lookup
from pruneboard.records.store import Scan

FOLDER = "leaderboard"
"""Name of the output folder, inside the first folder that is given."""

SHOWN_RUNS = 500
"""Number of runs whose complete record is part of the page."""

_BEST_FIRST = ("certified", "spot-checked", "record-only", verdicts.CLAIMED, "disputed")


def default_output(paths: Sequence[Path]) -> Path:
    """Return the default folder for files about the runs below `paths`.

    Raises:
        StoreError: it is a symbolic link that leads elsewhere.
    """
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return store.inside(folder / FOLDER, folder)


def compare(paths: Iterable[str | Path]) -> list[Board]:
    """Read all records below `paths` and return their boards. Files that are not records are skipped.

    Args:
        paths: results folders, run folders, or `run.json` files.

    Raises:
        NotFoundError: a path does not exist or contains no record.
    """
    return list(load(paths).boards)


def load(paths: Iterable[str | Path], *, published: Iterable[Published] = (), out: Path | None = None) -> Leaderboard:
    """Read all records below `paths` and return the leaderboard.

    Args:
        paths: results folders, run folders, or `run.json` files.
        published: numbers from the literature, to draw on the boards with the same data set, network and track.
        out: folder to which the leaderboard will be written. Records in it are ignored; verdicts that
            this user's `pruneboard verify` wrote to it are used.

    Raises:
        NotFoundError: a path does not exist or contains no record.
    """
    folders = [Path(path) for path in paths]
    roots = set(folders)
    found = store.scan(folders, without=out)
    superseded = {record["hash"]: found.superseded.get(path.parent, 0) for path, record in found.records}
    known = _read_verdicts(found, out)
    disputed = {run_hash for run_hash, verdict in known.items() if verdict == "disputed"}
    boards = leaderboard.build_boards((record for _, record in found.records), superseded, disputed)
    return Leaderboard(
        boards=tuple(boards),
        runs=tuple(
            RunEntry(path=_relative(path, roots), record=record, verdict=known.get(record["hash"]))
            for path, record in _newest(found.records)
        ),
        total=len(found.records),
        standings=leaderboard.build_standings(boards),
        problems=tuple((_relative(path, roots), reason) for path, reason in found.problems),
        verdicts=known,
        published=literature.on_boards(published, boards),
    )


def _read_verdicts(found: Scan, out: Path | None) -> dict[str, str]:
    """Return content hash -> verdict of every record whose file is unchanged, byte for byte, since it was verified.

    Only this user's own verdicts count. All others, which anybody could have written, are `claimed`, whatever they say.
    If there are several copies of a run, the worst verdict counts.
    """
    by_file = verdicts.read_own(store.inside(out / verdicts.FILE, out)) if out else {}
    worst: dict[str, str] = {}
    for path, record in found.records if by_file else []:
        with suppress(OSError):  # the file was deleted in the meantime
            verdict = by_file.get(verdicts.file_sha256(path))
            if verdict is not None:
                run_hash = record["hash"]
                worst[run_hash] = max(verdict, worst.get(run_hash, verdict), key=_BEST_FIRST.index)
    return worst


def _newest(records: Iterable[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    return sorted(records, key=lambda item: (_ended(item[1]), item[1]["hash"]), reverse=True)[:SHOWN_RUNS]


def _relative(path: Path, folders: Collection[Path]) -> str:
    """Return a path starting at the given folder's name, so that the page does not reveal the folders above it."""
    given = next((folder for folder in (path, *path.parents) if folder in folders), path.parent)
    return str(path.relative_to(given.parent))


def _ended(record: Record) -> str:
    ended = lookup(record, "lifecycle.ended")
    return ended if isinstance(ended, str) else ""
