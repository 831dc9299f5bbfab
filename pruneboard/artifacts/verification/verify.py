"""Verify records: check as much as a run's folder contains, and derive a verdict.

    record       is it consistent?                               always; without torch
    mask         the kept positions, recounted                   if there is a mask.npz; without torch
    weights      hash, zeros, masks, network, frozen weights     if there is a model.safetensors
    evaluation   top-1 and loss, measured again                  if the weights and the data are there

docs/verify.md describes what each level proves, and what none of them can.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pruneboard.artifacts.verification import consistency
from pruneboard.artifacts.verification.masks import check_masks
from pruneboard.artifacts.verification.rules import MALFORMED
from pruneboard.errors import StoreError
from pruneboard.records import store, verdicts
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import RunCheck, RunVerification, Verdict

ALWAYS_REQUIRED = frozenset(
    {"weights.hash", "weights.counts", "weights.network"}
    | {"evaluation.data", "evaluation.test", "evaluation.validation"}
)
"""Checks without which no run is certified; `required_checks` adds those of one record."""


def verify(
    paths: Iterable[str | Path], *, data_dir: str | None = None, evaluate: bool = True
) -> Iterator[RunVerification]:
    """Verify every `run.json` below `paths`, one after the other, in the order of their paths.

    Args:
        paths: results folders, run folders, or `run.json` files.
        data_dir: the folder of data sets that are not included in pruneboard.
        evaluate: whether to measure the scores again.

    Raises:
        NotFoundError: a path does not exist, or there is no record below it.
    """
    found = store.scan_all(paths)
    records: dict[Path, Record] = dict(found.records)
    problems: dict[Path, str] = dict(found.problems)
    for path in sorted([*records, *problems]):
        if path in problems:
            checks = [RunCheck("record.schema", "failed", problems[path])]
        else:
            checks = check_run(path.parent, records[path], data_dir=data_dir, evaluate=evaluate)
        sha256 = None if problems.get(path) == store.LEADS_OUT else _sha256(path)
        yield RunVerification(path, sha256, verdict_of(records.get(path, {}), checks), tuple(checks))


def check_run(folder: Path, record: Record, *, data_dir: str | None = None, evaluate: bool = True) -> list[RunCheck]:
    """Return every check of one valid record and of the files in its run's folder."""
    checks = [RunCheck("record.schema", "ok"), *consistency.check_record(record)]
    if record["status"] != "done":
        return checks  # the other files may be from an earlier attempt
    checks += consistency.check_log(record, folder / consistency.LOG)
    mask_checks, masks = check_masks(record, folder / store.MASK)
    checks += mask_checks
    if not os.path.lexists(folder / store.WEIGHTS):
        return [*checks, RunCheck("weights.file", "skipped", f"there is no {store.WEIGHTS}")]
    try:
        _check_weights(record, folder / store.WEIGHTS, masks, data_dir, checks, evaluate=evaluate)
    except (*MALFORMED, RuntimeError, MemoryError) as error:
        note = f"cannot be checked against this record: {type(error).__name__}: {str(error)[:200]}"
        checks.append(RunCheck("weights.record", "failed", note))
    return checks


def verdict_of(record: Record, checks: Sequence[RunCheck]) -> Verdict:
    """Return the verdict on a record, given all its checks; an invalid record, which has a failed one, may be empty."""
    if any(check.status == "failed" for check in checks):
        return "disputed"
    passed = {check.name for check in checks if check.status == "ok"}
    if required_checks(record) <= passed:
        return "certified"
    return "spot-checked" if passed & {"mask.counts", "weights.counts"} else "record-only"


def required_checks(record: Record) -> frozenset[str]:
    """Return the names of the checks that must pass for the verdict `certified`."""
    masks = {"mask.hash", "weights.mask"} if record.get("mask_sha256") else set()
    frozen = {"weights.frozen"} if record["track"] == "supermask" else set()
    return ALWAYS_REQUIRED | masks | frozen


def _check_weights(
    record: Record,
    path: Path,
    masks: list[PackedMask] | None,
    data_dir: str | None,
    checks: list[RunCheck],
    *,
    evaluate: bool,
) -> None:
    """Append the checks of weights, network and scores to `checks`: those made before an exception are kept."""
    from pruneboard.artifacts.verification import evaluation, network

    try:
        built = network.load_network(record, path, masks, checks)
    except StoreError as error:
        checks.append(RunCheck("weights.file", "failed", f"{path.name} {error}"))
        return
    if built is None:
        return
    if not evaluate:
        checks.append(RunCheck("evaluation.data", "skipped", "scores are not measured again"))
    elif not any(check.status == "failed" for check in checks):
        checks += evaluation.check_scores(record, built.module, data_dir)


def _sha256(path: Path) -> str | None:
    try:
        return verdicts.file_sha256(path)
    except OSError:
        return None
