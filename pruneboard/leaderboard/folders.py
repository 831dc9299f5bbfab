"""From folders to a leaderboard and back to files: where the store and the pure functions meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pruneboard import leaderboard
from pruneboard.leaderboard import Board, Leaderboard, Published, Run, literature
from pruneboard.records import store, verdicts
from pruneboard.records.schema import Record, lookup
from pruneboard.records.store import Scan

FOLDER = "leaderboard"
"""Where the files go, in the first folder that was given."""

SHOWN_RUNS = 500
"""Runs whose whole record is on the page."""


def default_output(paths: Sequence[Path]) -> Path:
    """Return where files about the runs below `paths` go, unless another folder is asked for."""
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / FOLDER


def compare(paths: Iterable[str | Path]) -> list[Board]:
    """Read every record below `paths` and return the boards they form; files that are no record are skipped.

    Args:
        paths: results folders, run folders, or `run.json` files.

    Raises:
        NotFoundError: a path that does not exist or holds no record.
    """
    return list(load(paths).boards)


def load(paths: Iterable[str | Path], *, published: Iterable[Published] = (), out: Path | None = None) -> Leaderboard:
    """Return all that the records below `paths` come to.

    Args:
        paths: results folders, run folders, or `run.json` files.
        published: numbers from the literature, drawn on the boards they belong to.
        out: where the leaderboard is written: no record in it is read, but what `pruneboard verify` left there is.
    """
    folders = [Path(path) for path in paths]
    found = store.scan(folders, without=out)
    superseded = {record["hash"]: found.superseded.get(path.parent, 0) for path, record in found.records}
    verified = _verified(found, out)
    disputed = {content for content, verdict in verified.items() if verdict == "disputed"}
    tables = leaderboard.build((record for _, record in found.records), superseded, disputed)
    return Leaderboard(
        boards=tuple(tables),
        runs=tuple(
            Run(path=_shown(path, folders), record=record, verdict=verified.get(record["hash"]))
            for path, record in _newest(found.records)
        ),
        total=len(found.records),
        standings=leaderboard.standings(tables),
        problems=tuple((_shown(path, folders), reason) for path, reason in found.problems),
        verdicts=verified,
        published=literature.on_boards(published, tables),
    )


def _verified(found: Scan, out: Path | None) -> dict[str, str]:
    """Return content hash -> verdict of every record that is still, byte for byte, the one that was verified.

    Of several copies of one run the worst verdict counts.
    """
    known = verdicts.read(out / verdicts.FILE) if out else {}
    worst: dict[str, verdicts.Verdict] = {}
    for path, record in found.records if known else []:
        with suppress(OSError):  # gone in the meantime
            verdict = known.get(verdicts.file_sha256(path))
            if verdict is not None:
                content = record["hash"]
                worst[content] = max(verdict, worst.get(content, verdict), key=verdicts.VERDICTS.index)
    return dict(worst)


def _newest(records: Iterable[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    return sorted(records, key=lambda item: (_ended(item[1]), item[1]["hash"]), reverse=True)[:SHOWN_RUNS]


def _shown(path: Path, folders: Sequence[Path]) -> str:
    """Return a path from the name of the folder that was given on: what lies above it is nobody's business."""
    above = next((folder.parent for folder in folders if path.is_relative_to(folder)), path.parent.parent)
    return str(path.relative_to(above))


def _ended(record: Record) -> str:
    ended = lookup(record, "lifecycle.ended")
    return ended if isinstance(ended, str) else ""
