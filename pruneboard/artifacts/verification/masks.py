"""Check the packed masks of a finished run against its record. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruneboard.errors import why
from pruneboard.records import mask_file, store
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import RunCheck, make_check


def check_masks(record: Record, path: Path) -> tuple[list[RunCheck], list[PackedMask] | None]:
    """Count the kept positions of every layer and hash the masks.

    Args:
        record: a validated record of a finished run.
        path: the run's `mask.npz`.

    Returns:
        The checks, and the masks in the order of the record's layers; None if they could not be read.
    """
    if not os.path.lexists(path):
        return [RunCheck("mask.file", "skipped", f"there is no {store.MASK}")], None
    if store.leads_out(path, path.parent):
        return [RunCheck("mask.file", "failed", f"{path.name} {store.LEADS_OUT}")], None
    layers = [(layer["name"], layer["n"]) for layer in record["sparsity"]["layers"]]
    try:
        masks = mask_file.loads(store.read_bytes(path, mask_file.max_file_size(layers)), layers)
    except OSError as error:
        return [RunCheck("mask.file", "failed", f"{path.name} cannot be read: {why(error)}")], None
    except mask_file.MaskError as error:
        return [RunCheck("mask.file", "failed", f"{path.name} {error}")], None
    checks = [RunCheck("mask.file", "ok"), make_check("mask.counts", _count_problems(record, masks))]
    return [*checks, _check_hash(record, masks)], masks


def _count_problems(record: Record, masks: Sequence[PackedMask]) -> Iterator[str]:
    for layer, mask in zip(record["sparsity"]["layers"], masks, strict=True):
        if mask.kept != layer.get("kept"):
            yield f"layer {mask.name:.80} keeps {mask.kept} positions; the record says {layer.get('kept')!r:.40}"


def _check_hash(record: Record, masks: Sequence[PackedMask]) -> RunCheck:
    found, recorded = mask_file.sha256(masks), record.get("mask_sha256")
    if recorded is None:
        return RunCheck("mask.hash", "skipped", "the record has no mask_sha256")
    problems = [f"the masks hash to {found[:12]}...; the record says {recorded[:12]}..."] if found != recorded else []
    return make_check("mask.hash", problems)
