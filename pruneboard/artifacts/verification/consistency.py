"""Does a record agree with itself? Its hash made anew, `rules` applied, and its log beside it. No torch.

`record.validate` refuses a record whose fields are of the wrong kind, or whose fingerprint, sums or top-1 contradict
each other. Here is what takes knowing how a run makes its record.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruneboard.artifacts.verification.rules import RULES, UNUSABLE
from pruneboard.errors import why
from pruneboard.records import schema as records
from pruneboard.records import store
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck, make_check

LOG = "metrics.jsonl"
LARGEST_LOG = 64 * 2**20
"""Bytes; a longer `metrics.jsonl` is not looked at."""


def check(record: Record) -> list[RunCheck]:
    """Return what holds of a validated record, one check per subject, in a fixed order."""
    found: dict[str, list[str]] = {"record.hash": _hash_problems(record)}
    for rule in RULES:
        problems = found.setdefault(rule.check, [])
        if problem := rule.problem(record):
            problems.append(problem)
    return [make_check(name, problems) for name, problems in found.items()]


def identity(record: Record) -> dict[str, Any]:
    """Return what the content hash is taken over, as far as the record holds it: all of it but one case.

    A method that is given no sparsity has one of its own, which is no part of the record; here it is 0, that of
    the dense control. The blocks are those of `describe.RunIdentity`.
    """
    method, model, data, recipe = (dict(record[block]) for block in ("method", "model", "data", "recipe"))
    for block, names in (
        (method, ("traits",)),
        (model, ("parameters", "initial_sha256")),
        (data, ("order_sha256",)),
        (recipe, ("name",)),
    ):
        for name in names:
            block.pop(name, None)
    target = record["sparsity"]["target"]
    return {
        "rules": record["rules"],
        "track": record["track"],
        "scope": record["board"]["scope"],
        "method": {**method, "sparsity": 0.0 if target is None else target},
        "model": model,
        "data": data,
        "recipe": recipe,
        "seed": record["seed"],
        "precision": record["board"]["precision"],
    }


def _hash_problems(record: Record) -> list[str]:
    try:
        found = records.content_hash(identity(record))
    except (*UNUSABLE, records.RecordError) as error:
        return [f"hash cannot be made anew: the record lacks a part of what decides it ({type(error).__name__})"]
    if found == record["hash"] or _prunes_unasked(record):
        return []
    return [f"hash is {record['hash'][:12]}... in the record; its fields make it {found[:12]}..."]


def _prunes_unasked(record: Record) -> bool:
    sparsity = record["sparsity"]
    return sparsity["target"] is None and lookup(sparsity, "keep") != lookup(sparsity, "prunable")


def check_log(record: Record, path: Path) -> list[RunCheck]:
    """Hold the record's best epoch and its budget to `metrics.jsonl`, where that is there.

    Of an epoch that two attempts came to the last line counts. The last epoch's accuracy is another than the record's,
    since batch statistics are re-estimated after it.
    """
    best = lookup(record, "metrics.best_validation")
    if best is None or not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in store.read_bytes(path, LARGEST_LOG).splitlines()]
        return [make_check("record.log", _log_problems(record, best, rows))]
    except OSError as error:
        return [RunCheck("record.log", "failed", f"{LOG} cannot be read: {why(error)}")]
    except UNUSABLE as error:
        return [RunCheck("record.log", "failed", f"{LOG} is not one line per epoch: {type(error).__name__}")]


def _log_problems(record: Record, best: Mapping[str, Any], rows: list[Any]) -> Iterator[str]:
    epochs, steps = record["budget"]["epochs"], record["budget"]["steps"]
    last = {row["epoch"]: row for row in rows}
    top1 = [last[epoch]["validation"]["top1"] for epoch in sorted(last)]
    if (len(last), max(last), last[max(last)]["step"]) != (epochs, epochs, steps):
        yield f"{LOG} does not hold epochs 1 to {epochs!r:.40} and step {steps!r:.40}, as the record says"
        return
    first = {"top1": max(top1), "epoch": 1 + top1.index(max(top1))}
    if best and best != first:  # an ablation has none: its epochs were another network's
        yield f"metrics.best_validation is {reprlib.repr(best)} in the record, and {reprlib.repr(first)} by {LOG}"
