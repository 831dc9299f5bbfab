"""What stands against a merge: two results of one run, masks of something else, a folder that is worked on."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records import schema as records
from pruneboard.records.merging.found import Run
from pruneboard.records.merging.steps import Step
from pruneboard.records.schema import Record

NOT_MEASURED = ("software", "engine")
"""Blocks of a canonical record that say what a result was made with: two results may differ in them and agree."""

_ABSENT = object()


@dataclass(frozen=True)
class Conflict:
    """Why nothing may be copied.

    Attributes:
        path: the file or folder it is about.
        reason: in one line; it may hold text from records.
    """

    path: Path
    reason: str


def measured(record: Record) -> Record:
    """Return what two finished records of one run must agree in: the canonical record without `NOT_MEASURED`."""
    return {key: value for key, value in records.canonical(record).items() if key not in NOT_MEASURED}


def disagreements(finished: Sequence[tuple[Path, Record]]) -> Iterator[Conflict]:
    """Yield a conflict for every finished record of a run that measured other things than the first."""
    for path, record in finished[1:]:
        first, said = finished[0]
        found = _difference(measured(said), measured(record))
        if found is not None:
            field_path, one, other = found
            note = f"{field_path} is {_short(other)} here and {_short(one)} in {first}"
            yield Conflict(path, f"another result of the same run: {note}; keep one of the two")


def _difference(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Return the first dotted path at which two values differ, and what stands there."""
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


def foreign_masks(step: Step, run: Run) -> Iterator[Conflict]:
    """Yield a conflict if the masks about to be copied are not those that their finished record names."""
    owners = {item.path.parent: item.record for item in run.runs if item.done}
    for copy in step.files:
        record = owners.get(copy.source.parent, {})
        if copy.source.name == store.MASK and record.get("mask_sha256"):
            fault = _fault(copy.source, record)
            if fault:
                yield Conflict(copy.source, f"does not belong to its record: {fault}")


def _fault(path: Path, record: Record) -> str | None:
    """Return why `path` does not hold the masks of `record`, None where it does."""
    from pruneboard.records import mask_file  # with it comes numpy, which no other command needs to start

    layers = [(layer["name"], layer["n"]) for layer in record["sparsity"]["layers"]]
    try:
        masks = mask_file.loads(store.read_bytes(path, mask_file.max_file_size(layers)), layers)
    except (StoreError, OSError) as error:
        return str(error)
    found, said = mask_file.sha256(masks), record["mask_sha256"]
    return None if found == said else f"its hash is {found[:16]}..., the record says {said[:16]}..."


def worked_on(step: Step) -> Iterator[Conflict]:
    """Yield a conflict if a living process works on the folder; a lock that nobody holds goes."""
    if step.writes and (step.home / runfolder.LOCK).exists():
        try:
            with runfolder.locked(step.home):
                pass
        except StoreError as error:
            yield Conflict(step.home, str(error))
