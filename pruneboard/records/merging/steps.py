"""What a merge does to one run: which record stays, which files come with it, and what goes on its shelves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruneboard.records import runfolder, store
from pruneboard.records.merging.found import Found, Run, file_sha256

LOG = "log.txt"
_FILES = (runfolder.METRICS, store.MASK, LOG)

Outcome = Literal["copied", "upgraded", "already_there"]
Skipped = list[tuple[Path, str]]
"""Files that are left out, with the reason in one line."""


@dataclass(frozen=True)
class Copy:
    """One file to be copied, and where to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Step:
    """What happens to one run of the sources.

    Attributes:
        home: its folder in the destination.
        outcome: what becomes of its record; None where the sources have only records that a run left on its shelves.
        here: the record that lies there now.
        run: the record that becomes `run.json`; None where the one that is there stays.
        files: what belongs to the record.
        shelved: records for `failures/` and `superseded/`.
    """

    home: Path
    outcome: Outcome | None
    here: Found | None
    run: Found | None
    files: tuple[Copy, ...]
    shelved: tuple[Copy, ...]

    @property
    def writes(self) -> bool:
        """Whether anything in the destination changes."""
        return bool(self.run or self.files or self.shelved)


def step_of(run: Run, home: Path, here: Found | None, skipped: Skipped, *, weights: bool) -> Step:
    """Return what happens to one run; nothing is written.

    Args:
        run: what the sources have of it.
        home: its folder in the destination.
        here: the record that lies there.
        skipped: takes up what cannot be copied.
        weights: whether `model.safetensors` is copied as well.
    """
    takes = bool(run.runs) and _takes(run.best, home, here)
    stays = run.best if takes else here
    names = (*_FILES, store.WEIGHTS) if weights else _FILES
    missing = [name for name in names if takes or not os.path.lexists(home / name)]
    files = _files(_providers(run, stays, takes=takes), home, missing, skipped)
    replaced = [here] if takes and here else []
    failures = [item for item in (*run.runs, *replaced) if not (item.done or item.interrupted)]
    shelved = (
        *_added(home / store.FAILURES, [*run.shelves[store.FAILURES], *failures], {stays.sha256} if stays else set()),
        *_added(home / store.SUPERSEDED, run.shelves[store.SUPERSEDED], set()),
    )
    outcome: Outcome = "already_there" if not takes else "upgraded" if here else "copied"
    return Step(home, outcome if run.runs else None, here, run.best if takes else None, tuple(files), shelved)


def _takes(best: Found, home: Path, here: Found | None) -> bool:
    """Whether `best` becomes the run's record: it is the first finished one, or there is not even an attempt."""
    if best.done:
        return here is None or not here.done
    return here is None and not runfolder.checkpoints(home)


def _providers(run: Run, stays: Found | None, *, takes: bool) -> list[Found]:
    """Return the records whose files belong to the one that stays, the nearest first."""
    if stays is None or not stays.done:
        return [run.best] if takes else []
    return sorted((item for item in run.runs if item.done), key=lambda item: item.rank, reverse=True)


def _files(providers: Sequence[Found], home: Path, names: Iterable[str], skipped: Skipped) -> Iterator[Copy]:
    for name in names:
        for source in (item.path.parent / name for item in providers):
            if source.is_symlink() or (source.exists() and not source.is_file()):
                skipped.append((source, "is not a regular file; links are not followed"))
            elif source.exists():
                yield Copy(source, home / name)
                break


def _added(shelf: Path, items: Iterable[Found], known: set[str]) -> Iterator[Copy]:
    """Yield the copies of `items` that a shelf does not have, the oldest first, under the next free numbers."""
    there = store.numbered_records(shelf)
    seen = known | {file_sha256(path) for path in there}
    number = max((int(path.stem) for path in there), default=0)
    for item in sorted(items, key=lambda item: (item.ended, _number(item.path), item.sha256)):
        if item.sha256 not in seen:
            seen.add(item.sha256)
            number += 1
            yield Copy(item.path, shelf / f"{number:02d}.json")


def _number(path: Path) -> float:
    return int(path.stem) if path.stem.isdecimal() else float("inf")  # a run.json comes after its shelf
