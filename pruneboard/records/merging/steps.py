"""What a merge does with one run: which record it keeps, which files it copies, and which records it archives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records.merging.discovery import FoundRecord, SourceRun, file_sha256
from pruneboard.records.schema import Record, lookup

LOG = "log.txt"
_FILES = (runfolder.METRICS, store.MASK, LOG)

MAX_TEXT = {LOG: 16 * 2**20, runfolder.METRICS: 64 * 2**20}
"""Bytes of a text file that are copied. Of a larger file, the first complete lines are."""
MAX_MASK, MAX_WEIGHTS = 64 * 2**20, 16 * 2**30
"""Bytes of the other files that are copied if the record does not say how large its network is. Larger files are not
copied at all."""
_BYTES_PER_PARAMETER, _HEADER = 8, 64 * 2**20

Outcome = Literal["copied", "upgraded", "already_there"]
Skipped = list[tuple[Path, str]]
"""(file, reason) of the files that are not copied; the reason is one line."""


@dataclass(frozen=True)
class FileCopy:
    """One file to copy.

    Attributes:
        source: the file.
        target: its destination.
        size: its size in bytes when the merge was planned.
        largest: number of bytes to copy at most.
    """

    source: Path
    target: Path
    size: int = 0
    largest: int = store.LARGEST_FILE

    @property
    def whole(self) -> bool:
        """Whether the whole file is copied, and not only its first complete lines."""
        return self.size <= self.largest


@dataclass(frozen=True)
class MergeStep:
    """What a merge does with one run.

    Attributes:
        folder: the run's folder in the destination.
        outcome: what happens to its `run.json`; None if the sources contain only archived records of the run.
        here: the record that is in that folder before the merge.
        run: the record that becomes `run.json`; None if the present one is kept.
        files: the files that belong to the record.
        archived: the records to copy into `failures/` and `superseded/`.
    """

    folder: Path
    outcome: Outcome | None
    here: FoundRecord | None
    run: FoundRecord | None
    files: tuple[FileCopy, ...]
    archived: tuple[FileCopy, ...]

    @property
    def writes(self) -> bool:
        """Whether the step changes anything in the destination."""
        return bool(self.run or self.files or self.archived)


def plan_step(run: SourceRun, folder: Path, here: FoundRecord | None, skipped: Skipped, *, weights: bool) -> MergeStep:
    """Plan what happens to one run; nothing is written.

    Args:
        run: the run's records in the sources.
        folder: its folder in the destination.
        here: the record in that folder.
        skipped: files that cannot be copied are added to this list.
        weights: whether `model.safetensors` is copied.
    """
    replaces = bool(run.runs) and _replaces(run.best, folder, here)
    kept = run.best if replaces else here
    names = (*_FILES, store.WEIGHTS) if weights else _FILES
    missing = [name for name in names if replaces or not os.path.lexists(folder / name)]
    files = _files(_providers(run, kept, replaces=replaces), folder, missing, skipped)
    replaced = [here] if replaces and here else []
    failures = [item for item in (*run.runs, *replaced) if not (item.done or item.interrupted)]
    archived = (
        *_new_copies(
            folder / store.FAILURES, run.archived[store.FAILURES] + failures, {kept.sha256} if kept else set()
        ),
        *_new_copies(folder / store.SUPERSEDED, run.archived[store.SUPERSEDED], set()),
    )
    outcome: Outcome = "already_there" if not replaces else "upgraded" if here else "copied"
    return MergeStep(
        folder, outcome if run.runs else None, here, run.best if replaces else None, tuple(files), archived
    )


def _replaces(best: FoundRecord, folder: Path, here: FoundRecord | None) -> bool:
    """Return whether `best` becomes the run's record.

    A finished record replaces an unfinished or missing one. An unfinished record is only copied to a folder without a
    record and without checkpoints, because an attempt that can be resumed must stay as it is.
    """
    if best.done:
        return here is None or not here.done
    return here is None and not runfolder.checkpoints(folder)


def _providers(run: SourceRun, kept: FoundRecord | None, *, replaces: bool) -> list[FoundRecord]:
    """Return the records in whose folders to look for the files of the record that is kept, in order.

    All finished records of a run have the same results, so each of them can provide a file. The files of an unfinished
    record come from its own folder only.
    """
    if kept is None or not kept.done:
        return [run.best] if replaces else []
    return sorted((item for item in run.runs if item.done), key=lambda item: item.rank, reverse=True)


def _files(
    providers: Sequence[FoundRecord], folder: Path, names: Iterable[str], skipped: Skipped
) -> Iterator[FileCopy]:
    for name in names:
        for item in providers:
            source = item.path.parent / name
            if source.is_symlink() or (source.exists() and not source.is_file()):
                skipped.append((source, "is not a regular file; links are not followed"))
            elif source.exists():
                size, largest = source.stat().st_size, _largest(name, item.record)
                if size > largest and name not in MAX_TEXT:
                    skipped.append((source, f"has {size:,} bytes; its record allows {largest:,}"))
                    continue
                yield FileCopy(source, folder / name, size, largest)
                break


def _largest(name: str, record: Record) -> int:
    """Return the number of bytes that a file of a run may have."""
    if name in MAX_TEXT:
        return MAX_TEXT[name]
    if name == store.MASK:
        return _largest_mask(record)
    parameters = lookup(record, "model.parameters")
    return MAX_WEIGHTS if parameters is None else min(MAX_WEIGHTS, parameters * _BYTES_PER_PARAMETER + _HEADER)


def _largest_mask(record: Record) -> int:
    from pruneboard.records import mask_file  # imports numpy, which other commands do not need to start

    layers = [(layer["name"], layer["n"]) for layer in lookup(record, "sparsity.layers") or ()]
    try:
        return mask_file.max_file_size(layers) if layers else MAX_MASK
    except StoreError:  # more weights than are ever read
        return MAX_MASK


def _new_copies(archive: Path, items: Iterable[FoundRecord], known: set[str]) -> Iterator[FileCopy]:
    """Yield a copy for each record that an archive folder does not contain, the oldest first, with the next numbers.

    Args:
        archive: `failures/` or `superseded/` of the run's folder in the destination.
        items: the records.
        known: SHA-256 of records that are not to be archived.
    """
    seen = known | {file_sha256(path) for path in store.numbered_records(archive)}
    free = store.free_paths(archive)
    for item in sorted(items, key=lambda item: (item.ended, _number(item.path), item.sha256)):
        if item.sha256 not in seen:
            seen.add(item.sha256)
            yield FileCopy(item.path, next(free))


def _number(path: Path) -> float:
    return int(path.stem) if path.stem.isdecimal() else float("inf")  # `run.json` is later than all archived records
