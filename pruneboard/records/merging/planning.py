"""Planning a whole merge before anything is written: its steps, the files it skips, and its conflicts."""

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
from pruneboard.records.merging.discovery import collect_runs, finished_records, record_in
from pruneboard.records.merging.steps import MergeStep, plan_step


@dataclass
class MergePlan:
    """A planned merge.

    Attributes:
        into: the destination.
        steps: one step per run, sorted by folder.
        skipped: (file, reason) of the files in the sources that are not copied; the reason is one line.
        conflicts: reasons to refuse the merge; if there are any, nothing may be copied.
    """

    into: Path
    steps: list[MergeStep] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)

    @property
    def cut(self) -> list[tuple[Path, str]]:
        """(file, reason) of the text files of which only the beginning is copied, because they are too large."""
        return [
            (copy.source, f"has {copy.size:,} bytes; only the first {copy.largest:,} are copied")
            for step in self.steps
            for copy in step.files
            if not copy.whole
        ]

    def summary(self) -> dict[str, list[Any]]:
        """Return the JSON document of `pruneboard merge --json`, with paths relative to the destination.

        Each run is in one of the lists `copied`, `upgraded` and `already_there`; `completed` lists files that are
        added to the latter. If there are conflicts, these lists are empty.
        """
        steps = [] if self.conflicts else self.steps
        archived = [copy.target for step in steps for copy in step.archived]
        listed: dict[str, Iterable[Path]] = {
            "copied": (step.folder for step in steps if step.outcome == "copied"),
            "upgraded": (step.folder for step in steps if step.outcome == "upgraded"),
            "already_there": (step.folder for step in steps if step.outcome == "already_there"),
            "completed": (copy.target for step in steps if step.run is None for copy in step.files),
            "failures_kept": (path for path in archived if path.parent.name == store.FAILURES),
            "superseded_kept": (path for path in archived if path.parent.name == store.SUPERSEDED),
        }
        summary: dict[str, list[Any]] = {
            name: [path.relative_to(self.into).as_posix() for path in paths] for name, paths in listed.items()
        }
        summary["cut_files"] = [
            {"path": str(path), "reason": reason} for path, reason in (() if self.conflicts else self.cut)
        ]
        summary["skipped_files"] = [{"path": str(path), "reason": reason} for path, reason in self.skipped]
        summary["conflicts"] = [{"path": str(conflict.path), "reason": conflict.reason} for conflict in self.conflicts]
        return summary


def plan_merge(sources: Sequence[str | Path], into: str | Path, *, weights: bool = True) -> MergePlan:
    """Plan the merge of `sources` into `into`; nothing is written.

    Args:
        sources: results folders or run folders.
        into: a results folder, which need not exist.
        weights: whether `model.safetensors` is copied.

    Raises:
        UsageError: a source is inside the destination, or the destination inside a source.
        NotFoundError: a source does not exist, or there is no record in any of them.
        StoreError: a folder cannot be read.
    """
    plan = MergePlan(Path(into))
    _refuse_overlap([Path(source) for source in sources], plan.into)
    runs = collect_runs(sources, plan.skipped)
    finished = finished_records(plan.into)
    owners: dict[Path, str] = {}
    for content, run in sorted(runs.items()):
        try:
            folder = store.folder_of(plan.into, run.best.record)
        except StoreError as error:
            plan.conflicts.append(Conflict(plan.into, str(error)))
            continue
        try:
            store.check_links(folder)
            _claim(owners, folder, content)
            here = record_in(folder)
            if here is not None:
                _claim(owners, folder, here.record["hash"])
        except StoreError as error:
            plan.conflicts.append(Conflict(folder / store.RUN, str(error)))
            continue
        step = plan_step(run, folder, here, plan.skipped, weights=weights)
        plan.steps.append(step)
        plan.conflicts += conflicts.result_conflicts([*finished[content], *run.finished])
        plan.conflicts += [*conflicts.mask_conflicts(step, run), *conflicts.lock_conflicts(step)]
    plan.steps.sort(key=lambda step: step.folder)
    return plan


def _refuse_overlap(sources: Sequence[Path], into: Path) -> None:
    target = Path(os.path.realpath(into))
    for source in sources:
        real = Path(os.path.realpath(source))
        if real == target:
            raise UsageError(f"{source} is the destination itself: give another folder as source")
        if real in target.parents or target in real.parents:
            inner, outer = (source, into) if target in real.parents else (into, source)
            raise UsageError(f"{inner} is inside {outer}: source and destination must not contain each other")


def _claim(owners: dict[Path, str], folder: Path, content: str) -> None:
    """Note that a folder belongs to the run with hash `content`; the folder's name has only eight digits of it."""
    owner = owners.setdefault(folder, content)
    if owner != content:
        raise StoreError(
            f"two runs have this folder, {owner[:16]}... and {content[:16]}...: merge them into different folders"
        )
