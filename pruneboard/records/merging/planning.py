"""A whole merge before it writes anything: its steps, what it leaves out, and why it may be refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneboard.errors import StoreError, UsageError
from pruneboard.records import store
from pruneboard.records.merging import conflicts
from pruneboard.records.merging.conflicts import Conflict
from pruneboard.records.merging.found import at, collect, finished_below
from pruneboard.records.merging.steps import Step, step_of


@dataclass
class Plan:
    """What a merge comes to.

    Attributes:
        into: the destination.
        steps: one per run, by folder.
        skipped: files of the sources that are left out, with the reason in one line.
        conflicts: if there is one, nothing may be copied.
    """

    into: Path
    steps: list[Step] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)

    def summary(self) -> dict[str, list[Any]]:
        """Return, as JSON has it, what is done to which path below the destination: nothing where there are conflicts.

        A run is in one of `copied`, `upgraded` and `already_there`; `completed` are files added to the latter.
        """
        steps = [] if self.conflicts else self.steps
        shelved = [copy.target for step in steps for copy in step.shelved]
        chosen: dict[str, Iterable[Path]] = {
            "copied": (step.home for step in steps if step.outcome == "copied"),
            "upgraded": (step.home for step in steps if step.outcome == "upgraded"),
            "already_there": (step.home for step in steps if step.outcome == "already_there"),
            "completed": (copy.target for step in steps if step.run is None for copy in step.files),
            "failures_kept": (path for path in shelved if path.parent.name == store.FAILURES),
            "superseded_kept": (path for path in shelved if path.parent.name == store.SUPERSEDED),
        }
        made: dict[str, list[Any]] = {
            name: [path.relative_to(self.into).as_posix() for path in paths] for name, paths in chosen.items()
        }
        made["skipped_files"] = [{"path": str(path), "reason": reason} for path, reason in self.skipped]
        made["conflicts"] = [{"path": str(conflict.path), "reason": conflict.reason} for conflict in self.conflicts]
        return made


def plan(sources: Sequence[str | Path], into: str | Path, *, weights: bool = True) -> Plan:
    """Return what joining `sources` into `into` comes to; nothing is written.

    Args:
        sources: results folders or run folders.
        into: a results folder, which need not exist.
        weights: whether `model.safetensors` is copied as well.

    Raises:
        UsageError: a source lies in the destination, or the other way round.
        NotFoundError: a source that does not exist, or no record in any.
        StoreError: a folder that cannot be read.
    """
    made = Plan(Path(into))
    _refuse_overlap([Path(source) for source in sources], made.into)
    runs = collect(sources, made.skipped)
    finished = finished_below(made.into)
    owners: dict[Path, str] = {}
    for content, run in sorted(runs.items()):
        home = store.folder_of(made.into, run.best.record)
        try:
            _own(owners, home, content)
            here = at(home)
            if here is not None:
                _own(owners, home, here.record["hash"])
        except StoreError as error:
            made.conflicts.append(Conflict(home / store.RUN, str(error)))
            continue
        step = step_of(run, home, here, made.skipped, weights=weights)
        made.steps.append(step)
        made.conflicts += conflicts.disagreements([*finished[content], *run.finished])
        made.conflicts += [*conflicts.foreign_masks(step, run), *conflicts.worked_on(step)]
    made.steps.sort(key=lambda step: step.home)
    return made


def _refuse_overlap(sources: Sequence[Path], into: Path) -> None:
    target = Path(os.path.realpath(into))
    for source in sources:
        real = Path(os.path.realpath(source))
        if real == target:
            raise UsageError(f"{source} is the destination itself: name other folders to copy from")
        if real in target.parents or target in real.parents:
            inner, outer = (source, into) if target in real.parents else (into, source)
            raise UsageError(f"{inner} lies in {outer}: name a source and a destination beside each other")


def _own(owners: dict[Path, str], home: Path, content: str) -> None:
    owner = owners.setdefault(home, content)
    if owner != content:
        raise StoreError(f"two runs share this folder, {owner[:16]}... and {content[:16]}...: keep them apart")
