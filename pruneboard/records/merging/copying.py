"""Executing a planned merge: the only part of it that writes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records.merging.discovery import record_in
from pruneboard.records.merging.planning import MergePlan
from pruneboard.records.merging.steps import FileCopy, MergeStep

_CHUNK = 2**20


def execute(plan: MergePlan) -> None:
    """Copy the files of a plan, run by run.

    Raises:
        StoreError: the plan has conflicts, the destination has changed since it was planned, or a file cannot be
            written. The runs and files copied until then are complete, and a new plan contains the rest.
    """
    if plan.conflicts:
        raise StoreError(f"{len(plan.conflicts)} conflicts: nothing is copied")
    store.check_writable(plan.into)
    for step in plan.steps:
        if step.writes:
            with runfolder.locked(step.folder):
                _write(step)


def _write(step: MergeStep) -> None:
    """Write one run, whose lock is held: archived records first, then files, and `run.json` last."""
    here = record_in(step.folder)
    if (here and here.sha256) != (step.here and step.here.sha256):
        raise StoreError(f"{step.folder} changed during the merge: repeat the command")
    for copy in step.archived:
        _copy(copy)
    if step.run:
        if here and not here.interrupted:
            here.path.unlink()  # it has just been archived; the record of an interrupted run is replaced instead
        # Files of another attempt must not remain beside this record.
        runfolder.begin(step.folder, force=True)
    for copy in step.files:
        _copy(copy)
    if step.run:
        _copy(FileCopy(step.run.path, step.folder / store.RUN))


def _copy(copy: FileCopy) -> None:
    store.replace(copy.target, partial(_copy_limited, copy))


def _copy_limited(copy: FileCopy, part: Path) -> None:
    """Copy at most `copy.largest` bytes, also if the file has grown since the merge was planned.

    Raises:
        StoreError: a file that must be complete has grown beyond its limit.
    """
    with copy.source.open("rb") as source, part.open("wb") as target:
        left = copy.largest
        while chunk := source.read(min(_CHUNK, left)):
            target.write(chunk)
            left -= len(chunk)
        if copy.whole and source.read(1):
            raise StoreError(f"{copy.source} changed during the merge: repeat the command")
    if not copy.whole:
        _cut_to_lines(part)


def _cut_to_lines(path: Path) -> None:
    """Remove the incomplete last line of a text file; if it is longer than a chunk, it stays."""
    with path.open("r+b") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _CHUNK)
        file.seek(start)
        end = file.read().rfind(b"\n") + 1
        if end:
            file.truncate(start + end)
