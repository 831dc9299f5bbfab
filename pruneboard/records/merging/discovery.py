"""Finding the records of a merge: in the sources, in their archive folders, and in the destination."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pruneboard.errors import NotFoundError, PruneboardError, StoreError, why
from pruneboard.records import schema as records
from pruneboard.records import store, verdicts
from pruneboard.records.schema import Record


@dataclass(frozen=True)
class FoundRecord:
    """A record on disk.

    Attributes:
        path: path of its file.
        record: its content.
        sha256: SHA-256 of the file's bytes.
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
        """Whether the run was interrupted; its checkpoints, which are not copied, could resume it."""
        return bool(self.record["status"] == "interrupted")

    @property
    def rank(self) -> tuple[bool, bool, str, str]:
        """Sort key of the records of one run: finished ones rank highest, interrupted ones lowest, then the latest.

        The hash makes the order total, so that the result does not depend on the order of the sources.
        """
        return self.done, not self.interrupted, self.ended, self.sha256

    @property
    def ended(self) -> str:
        """The time at which the attempt ended, according to the record."""
        return str(records.lookup(self.record, "lifecycle.ended", ""))


@dataclass
class SourceRun:
    """Everything that the sources contain of one run, which is one content hash.

    Attributes:
        runs: the records in `run.json` files.
        archived: name of the archive folder -> the records in it.
    """

    runs: list[FoundRecord] = field(default_factory=list)
    archived: dict[str, list[FoundRecord]] = field(default_factory=lambda: {store.FAILURES: [], store.SUPERSEDED: []})

    @property
    def finished(self) -> list[tuple[Path, Record]]:
        """The finished records in `run.json` files, sorted by path."""
        return sorted(((item.path, item.record) for item in self.runs if item.done), key=lambda pair: pair[0])

    @property
    def best(self) -> FoundRecord:
        """The record of the highest rank, archived ones only if there is no other."""
        candidates = self.runs or [item for found in self.archived.values() for item in found]
        return max(candidates, key=lambda item: item.rank)


def collect_runs(sources: Iterable[str | Path], skipped: list[tuple[Path, str]]) -> dict[str, SourceRun]:
    """Return content hash -> the records of that run in all sources, including the archived ones.

    Args:
        sources: results folders or run folders.
        skipped: files that are not records are added to this list, with the reason.

    Raises:
        NotFoundError: a source does not exist, or there is no record in any of them.
    """
    found = store.scan(sources)
    skipped += found.problems
    runs: dict[str, SourceRun] = defaultdict(SourceRun)
    for path, record in found.records:
        runs[record["hash"]].runs.append(_found(path, record))
    for folder in sorted({path.parent for path, _ in found.records} | {*found.failures, *found.superseded}):
        for name in (store.FAILURES, store.SUPERSEDED):
            for item in _archived(folder / name, skipped):
                runs[item.record["hash"]].archived[name].append(item)
    return runs


def _archived(archive: Path, skipped: list[tuple[Path, str]]) -> Iterator[FoundRecord]:
    if archive.is_symlink():
        skipped.append((archive, "is a link, and links are not followed"))
        return
    for path in sorted(store.numbered_records(archive)):
        item = _read(path) if not path.is_symlink() else "is a link, and links are not followed"
        if isinstance(item, FoundRecord):
            yield item
        else:
            skipped.append((path, item))


def _read(path: Path) -> FoundRecord | str:
    """Return the record at `path`, or the reason why it cannot be read."""
    try:
        return _found(path, store.read(path))
    except PruneboardError as error:
        return str(error)


def _found(path: Path, record: Record) -> FoundRecord:
    return FoundRecord(path, record, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file of a record, in hexadecimal.

    Raises:
        StoreError: the file is gone, is too large, or cannot be read.
    """
    try:
        return verdicts.file_sha256(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None


def finished_records(into: Path) -> dict[str, list[tuple[Path, Record]]]:
    """Return content hash -> (file, record) of the finished records anywhere below the destination."""
    finished: dict[str, list[tuple[Path, Record]]] = defaultdict(list)
    try:
        found = store.scan_all([into])
    except NotFoundError:  # a new destination
        return finished
    for path, record in found.records:
        if record["status"] == "done":
            finished[record["hash"]].append((path, record))
    return finished


def record_in(folder: Path) -> FoundRecord | None:
    """Return the record in a run folder of the destination, or None if there is no `run.json`.

    Raises:
        StoreError: `run.json` is not a readable record; the message does not contain the path.
    """
    path = folder / store.RUN
    if not os.path.lexists(path):
        return None
    item = _read(path)
    if not isinstance(item, FoundRecord):
        raise StoreError(f"not a readable record ({item}); move it away")
    return item
