"""The writing half of a merge."""

from __future__ import annotations

import shutil
from functools import partial

from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records.merging.found import at
from pruneboard.records.merging.planning import Plan
from pruneboard.records.merging.steps import Copy, Step


def carry_out(made: Plan) -> None:
    """Copy what `made` says.

    Raises:
        StoreError: the plan has conflicts, the destination changed since, or the disk refuses. What was copied until
            then is whole, and a new plan has the rest.
    """
    if made.conflicts:
        raise StoreError(f"{len(made.conflicts)} conflicts: nothing is copied")
    store.check_writable(made.into)
    for step in made.steps:
        if step.writes:
            with runfolder.locked(step.home):
                _write(step)


def _write(step: Step) -> None:
    """Write one run, whose lock is held."""
    here = at(step.home)
    if (here and here.sha256) != (step.here and step.here.sha256):
        raise StoreError(f"{step.home} changed while the merge was under way: give the same command again")
    for copy in step.shelved:
        _copy(copy)
    if step.run:
        if here and not here.interrupted:
            here.path.unlink()  # it is on the shelf now; an interruption's is replaced
        # What is left of another attempt would stand beside this record as its own.
        runfolder.begin(step.home, force=True)
    for copy in step.files:
        _copy(copy)
    if step.run:
        _copy(Copy(step.run.path, step.home / store.RUN))


def _copy(copy: Copy) -> None:
    store.replace(copy.target, partial(shutil.copyfile, copy.source))
