"""Reasons to refuse a merge: two results of one run, masks of another record, a folder in use."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records import schema as records
from pruneboard.records.merging.discovery import SourceRun
from pruneboard.records.merging.steps import MergeStep
from pruneboard.records.schema import Record

NOT_MEASURED = ("software", "engine")
"""Blocks of a canonical record that are not measurements: equal results may differ in them."""

_ABSENT = object()


@dataclass(frozen=True)
class Conflict:
    """A reason why nothing may be copied.

    Attributes:
        path: the file or folder concerned.
        reason: the reason in one line; it may contain text from records.
    """

    path: Path
    reason: str


def measurements(record: Record) -> Record:
    """Return what must be equal in two finished records of one run: the canonical record without `NOT_MEASURED`.

    `data.majority` follows from the hash of the images, and records of earlier versions do not have it.
    """
    found = {key: value for key, value in records.canonical(record).items() if key not in NOT_MEASURED}
    found["data"].pop("majority", None)
    return found


def result_conflicts(finished: Sequence[tuple[Path, Record]]) -> Iterator[Conflict]:
    """Yield a conflict for every finished record whose measurements differ from those of the first.

    Args:
        finished: (file, record) of the finished records of one run, in the destination and in the sources.
    """
    for path, record in finished[1:]:
        first_path, first = finished[0]
        found = _difference(measurements(first), measurements(record))
        if found is not None:
            field_path, one, other = found
            note = f"{field_path} is {_short(other)} here and {_short(one)} in {first_path}"
            yield Conflict(path, f"a different result of the same run: {note}; remove one of the two")


def _difference(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Return the first dotted path at which two values differ with both values, or None if they are equal."""
    if one == other:
        return None
    pairs: dict[Any, tuple[Any, Any]] = {}
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = {key: (one.get(key, _ABSENT), other.get(key, _ABSENT)) for key in sorted({*one, *other})}
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = dict(enumerate(zip(one, other, strict=True)))
    inside = (_difference(*pair, path=f"{path}.{key}".lstrip(".")) for key, pair in pairs.items())
    return next((found for found in inside if found), (path, one, other))


def _short(value: Any) -> str:
    return "missing" if value is _ABSENT else reprlib.repr(value)


def mask_conflicts(step: MergeStep, run: SourceRun) -> Iterator[Conflict]:
    """Yield a conflict if masks that would be copied do not have the hash in their finished record."""
    owners = {item.path.parent: item.record for item in run.runs if item.done}
    for copy in step.files:
        record = owners.get(copy.source.parent, {})
        if copy.source.name == store.MASK and record.get("mask_sha256"):
            problem = _mask_problem(copy.source, record)
            if problem:
                yield Conflict(copy.source, f"does not belong to its record: {problem}")


def _mask_problem(path: Path, record: Record) -> str | None:
    """Return why `path` does not hold the masks of `record`, or None if it does."""
    from pruneboard.records import mask_file  # imports numpy, which other commands do not need to start

    layers = [(layer["name"], layer["n"]) for layer in record["sparsity"]["layers"]]
    try:
        masks = mask_file.loads(store.read_bytes(path, mask_file.max_file_size(layers)), layers)
    except (StoreError, OSError) as error:
        return str(error)
    found, expected = mask_file.sha256(masks), record["mask_sha256"]
    return None if found == expected else f"its hash is {found[:16]}..., the record says {expected[:16]}..."


def lock_conflicts(step: MergeStep) -> Iterator[Conflict]:
    """Yield a conflict if another process holds the lock of the folder; a lock file without a holder is removed."""
    if step.writes and (step.folder / runfolder.LOCK).exists():
        try:
            with runfolder.locked(step.folder):
                pass
        except StoreError as error:
            yield Conflict(step.folder, str(error))
