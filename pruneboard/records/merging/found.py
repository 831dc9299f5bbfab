"""The records that a merge finds: in the sources, on their shelves, and in the destination."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pruneboard.errors import NotFoundError, PruneboardError, StoreError, why
from pruneboard.records import schema as records
from pruneboard.records import store
from pruneboard.records.schema import Record


@dataclass(frozen=True)
class Found:
    """A record on disk.

    Attributes:
        path: of the file.
        record: what it holds.
        sha256: of its bytes.
    """

    path: Path
    record: Record
    sha256: str

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return bool(self.record["status"] == "done")

    @property
    def interrupted(self) -> bool:
        """Whether the run could have gone on from its checkpoints, which are not copied."""
        return bool(self.record["status"] == "interrupted")

    @property
    def rank(self) -> tuple[bool, bool, str, str]:
        """What decides between records of one run, wherever they lie: finished ones first, then the latest."""
        return self.done, not self.interrupted, self.ended, self.sha256

    @property
    def ended(self) -> str:
        """When the attempt ended, as the record says it."""
        return str(records.lookup(self.record, "lifecycle.ended", ""))


@dataclass
class Run:
    """All that the sources have of one run, which is one content hash."""

    runs: list[Found] = field(default_factory=list)
    shelves: dict[str, list[Found]] = field(default_factory=lambda: {store.FAILURES: [], store.SUPERSEDED: []})

    @property
    def finished(self) -> list[tuple[Path, Record]]:
        """The finished ones, by path."""
        return sorted(((item.path, item.record) for item in self.runs if item.done), key=lambda pair: pair[0])

    @property
    def best(self) -> Found:
        """The record that says where the run belongs."""
        return max(self.runs or [item for shelf in self.shelves.values() for item in shelf], key=lambda item: item.rank)


def collect(sources: Iterable[str | Path], skipped: list[tuple[Path, str]]) -> dict[str, Run]:
    """Return every record of the sources, those on shelves too, by content hash."""
    found = store.scan(sources)
    skipped += found.problems
    runs: dict[str, Run] = defaultdict(Run)
    for path, record in found.records:
        runs[record["hash"]].runs.append(_found(path, record))
    for folder in sorted({path.parent for path, _ in found.records} | {*found.failures, *found.superseded}):
        for name in (store.FAILURES, store.SUPERSEDED):
            for item in _on_shelf(folder / name, skipped):
                runs[item.record["hash"]].shelves[name].append(item)
    return runs


def _on_shelf(shelf: Path, skipped: list[tuple[Path, str]]) -> Iterator[Found]:
    if shelf.is_symlink():
        skipped.append((shelf, "is a link, which is not followed"))
        return
    for path in sorted(store.numbered_records(shelf)):
        item = _read(path)
        if isinstance(item, Found):
            yield item
        else:
            skipped.append((path, item))


def _read(path: Path) -> Found | str:
    """Return the record at `path`, or why there is none."""
    try:
        return _found(path, store.read(path))
    except PruneboardError as error:
        return str(error)


def _found(path: Path, record: Record) -> Found:
    return Found(path, record, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Return the hash of a file that can hold a record.

    Raises:
        StoreError: it is gone, too large, or cannot be read.
    """
    try:
        return hashlib.sha256(store.read_bytes(path, store.LARGEST_FILE)).hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None


def finished_below(into: Path) -> dict[str, list[tuple[Path, Record]]]:
    """Return the finished records of the destination by content hash, wherever below it they lie."""
    finished: dict[str, list[tuple[Path, Record]]] = defaultdict(list)
    try:
        found = store.scan_all([into])
    except NotFoundError:  # it is new
        return finished
    for path, record in found.records:
        if record["status"] == "done":
            finished[record["hash"]].append((path, record))
    return finished


def at(home: Path) -> Found | None:
    """Return the record in a folder of the destination, None where there is none.

    Raises:
        StoreError: something else has its name; the message does not repeat the path.
    """
    path = home / store.RUN
    if not os.path.lexists(path):
        return None
    item = _read(path)
    if not isinstance(item, Found):
        raise StoreError(f"is in the way: {item}; move it away")
    return item
