"""Is a record what its run made? As much of it is looked at as there is: record, masks, weights, scores.

    record       it agrees with itself                        always; no torch
    mask         the kept positions, counted anew             where mask.npz is there; no torch
    weights      hash, zeros, masks, network, frozen weights  where model.safetensors is there
    evaluation   top-1 and loss, measured anew                where the weights and the data are there

What each level proves, and what none of them can, is in docs/verify.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pruneboard.artifacts.verification import consistency
from pruneboard.artifacts.verification.rules import UNUSABLE
from pruneboard.errors import PruneboardError, why
from pruneboard.records import mask_file, store, verdicts
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import RunCheck, RunVerification, Verdict, make_check

CERTIFIED = frozenset(
    {"weights.hash", "weights.counts", "weights.network"}
    | {"evaluation.data", "evaluation.test", "evaluation.validation"}
)
"""Checks that must hold for the verdict, besides those that `needed` adds; and none may fail."""

_STUMBLES = (*UNUSABLE, RuntimeError, MemoryError)


def verify(
    paths: Iterable[str | Path], *, data_dir: str | None = None, evaluate: bool = True
) -> Iterator[RunVerification]:
    """Look at every `run.json` below `paths`, one after the other, in the order of their paths.

    Args:
        paths: results folders, run folders, or `run.json` files.
        data_dir: the folder of data sets that are not embedded.
        evaluate: whether scores are measured anew.

    Raises:
        NotFoundError: a path that does not exist, or below which there is no file of a record.
    """
    found = store.scan_all(paths)
    records: dict[Path, Record] = dict(found.records)
    problems: dict[Path, str] = dict(found.problems)
    for path in sorted([*records, *problems]):
        if path in problems:
            checks = [RunCheck("record.schema", "failed", problems[path])]
            verdict: Verdict = "disputed"
        else:
            checks = examine(path.parent, records[path], data_dir=data_dir, evaluate=evaluate)
            verdict = judge(records[path], checks)
        yield RunVerification(path, _sha256(path), verdict, tuple(checks))


def examine(folder: Path, record: Record, *, data_dir: str | None = None, evaluate: bool = True) -> list[RunCheck]:
    """Return every check of one valid record and of what lies beside it in its folder."""
    checks = [RunCheck("record.schema", "ok"), *consistency.check(record)]
    if record["status"] != "done":
        return checks  # what lies beside it belongs to no result
    checks += consistency.check_log(record, folder / consistency.LOG)
    mask_checks, masks = check_masks(record, folder / store.MASK)
    checks += mask_checks
    if not os.path.lexists(folder / store.WEIGHTS):
        return [*checks, RunCheck("weights.file", "skipped", f"there is no {store.WEIGHTS}")]
    agree = not any(check.status == "failed" for check in checks)
    looks = _looked_at(record, folder / store.WEIGHTS, masks, data_dir, agree=agree, evaluate=evaluate)
    try:
        checks.extend(looks)  # one by one: should one stumble over what no run writes, those before it stand
    except _STUMBLES as error:
        note = f"cannot be done with this record: {type(error).__name__}: {str(error)[:200]}"
        checks.append(RunCheck("weights.record", "failed", note))
    return checks


def judge(record: Record, checks: Sequence[RunCheck]) -> Verdict:
    """Return the verdict on a record that could be read."""
    if any(check.status == "failed" for check in checks):
        return "disputed"
    held = {check.name for check in checks if check.status == "ok"}
    if needed(record) <= held:
        return "certified"
    return "spot-checked" if held & {"mask.counts", "weights.counts"} else "record-only"


def needed(record: Record) -> frozenset[str]:
    """Return the checks that must hold before a run is certified."""
    masks = {"mask.hash", "weights.mask"} if record.get("mask_sha256") else set()
    frozen = {"weights.frozen"} if record["track"] == "supermask" else set()
    return CERTIFIED | masks | frozen


def check_masks(record: Record, path: Path) -> tuple[list[RunCheck], list[PackedMask] | None]:
    """Count the packed masks of a finished run anew, and return them where they could be read."""
    if not os.path.lexists(path):
        return [RunCheck("mask.file", "skipped", f"there is no {store.MASK}")], None
    layers = [(layer["name"], layer["n"]) for layer in record["sparsity"]["layers"]]
    try:
        masks = mask_file.loads(store.read_bytes(path, mask_file.max_file_size(layers)), layers)
    except OSError as error:
        return [RunCheck("mask.file", "failed", f"{path.name} cannot be read: {why(error)}")], None
    except mask_file.MaskError as error:
        return [RunCheck("mask.file", "failed", f"{path.name} {error}")], None
    checks = [RunCheck("mask.file", "ok"), make_check("mask.counts", _count_problems(record, masks))]
    return [*checks, _mask_hash(record, masks)], masks


def _count_problems(record: Record, masks: Sequence[PackedMask]) -> Iterator[str]:
    for layer, mask in zip(record["sparsity"]["layers"], masks, strict=True):
        if mask.kept != layer.get("kept"):
            yield f"layer {mask.name:.80} keeps {mask.kept} positions; the record says {layer.get('kept')!r:.40}"


def _mask_hash(record: Record, masks: Sequence[PackedMask]) -> RunCheck:
    found, said = mask_file.sha256(masks), record.get("mask_sha256")
    if said is None:
        return RunCheck("mask.hash", "skipped", "the record names no mask_sha256")
    differs = [f"the masks hash to {found[:12]}...; the record says {said[:12]}..."] if found != said else []
    return make_check("mask.hash", differs)


def _looked_at(
    record: Record, path: Path, masks: list[PackedMask] | None, data_dir: str | None, *, agree: bool, evaluate: bool
) -> Iterator[RunCheck]:
    """Yield what holds of the weights; `agree` says that nothing has failed so far."""
    from pruneboard.artifacts.verification import rebuild, recount, reevaluate

    try:
        state = recount.read(path)
    except PruneboardError as error:
        yield RunCheck("weights.file", "failed", f"{path.name} {error}")
        return
    yield RunCheck("weights.file", "ok")
    for check in recount.check(record, state, masks):
        agree = agree and check.status != "failed"
        yield check
    if not agree:
        return  # disputed already, and the network that a stranger names may be of any size
    built = rebuild.network(record)
    if isinstance(built, RunCheck):
        yield built
        return
    for check in rebuild.check(record, built, state, masks):
        agree = agree and check.status != "failed"
        yield check
    if not evaluate:
        yield RunCheck("evaluation.data", "skipped", "scores are not measured anew")
    elif agree:
        yield from reevaluate.check(record, built.plain, data_dir)


def _sha256(path: Path) -> str | None:
    try:
        return verdicts.file_sha256(path)
    except OSError:
        return None
