"""Check a record against itself: recompute its hash, apply `rules`, and compare it with its log. Imports no torch.

`records.schema.validate` already rejects a record whose fields have the wrong types, or whose fingerprint, sums or
top-1 are inconsistent. The checks here depend on how a run creates its record.
"""

from __future__ import annotations

import io
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pruneboard.artifacts.verification.rules import MALFORMED, RULES
from pruneboard.errors import why
from pruneboard.records import schema as records
from pruneboard.records import store
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck, make_check

LOG = "metrics.jsonl"
MAX_LOG_BYTES = 64 * 2**20
"""A longer `metrics.jsonl` is not read."""


def check_record(record: Record) -> list[RunCheck]:
    """Check the hash and every rule of a validated record; return one check per name, in a fixed order."""
    found: dict[str, list[str]] = {"record.hash": _hash_problems(record)}
    for rule in RULES:
        problems = found.setdefault(rule.check, [])
        if problem := rule.problem(record):
            problems.append(problem)
    return [make_check(name, problems) for name, problems in found.items()]


def hashed_fields(record: Record) -> dict[str, Any]:
    """Return the fields that the content hash is computed from, in the form of `experiment.identity.RunIdentity`.

    One value may be missing from a record: the sparsity of a method that ran without a requested one and used its own
    default. It is returned as 0, which is right for the dense control only; see `_has_unknown_sparsity`.
    """
    method, model, data, recipe = (dict(record[block]) for block in ("method", "model", "data", "recipe"))
    for block, names in (
        (method, ("traits",)),
        (model, ("parameters", "initial_sha256")),
        (data, ("order_sha256", "left_out", "majority")),
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
        found = records.content_hash(hashed_fields(record))
    except (*MALFORMED, records.RecordError) as error:
        return [f"hash cannot be recomputed: the record lacks a field that it depends on ({type(error).__name__})"]
    if found == record["hash"] or _has_unknown_sparsity(record):
        return []
    return [f"hash is {record['hash'][:12]}... in the record; its fields hash to {found[:12]}..."]


def _has_unknown_sparsity(record: Record) -> bool:
    sparsity = record["sparsity"]
    return sparsity["target"] is None and lookup(sparsity, "keep") != lookup(sparsity, "prunable")


def check_log(record: Record, path: Path) -> list[RunCheck]:
    """Compare the record's best epoch and its budget with `metrics.jsonl`, if that exists.

    If two attempts of a run reached the same epoch, the last line counts. The accuracy of the last epoch is not
    compared: it differs from the record's, because batch statistics are re-estimated after it.
    """
    best = lookup(record, "metrics.best_validation")
    if store.leads_out(path, path.parent):
        return [RunCheck("record.log", "failed", f"{LOG} {store.LEADS_OUT}")]
    if best is None or not path.is_file():
        return []
    try:
        lines = io.BytesIO(store.read_bytes(path, MAX_LOG_BYTES))
        return [make_check("record.log", _log_problems(record, best, map(store.parse_json, lines)))]
    except OSError as error:
        return [RunCheck("record.log", "failed", f"{LOG} cannot be read: {why(error)}")]
    except MALFORMED as error:
        return [RunCheck("record.log", "failed", f"{LOG} does not have one line per epoch: {type(error).__name__}")]


def _log_problems(record: Record, best: Mapping[str, Any], rows: Iterable[Any]) -> Iterator[str]:
    epochs, steps = record["budget"]["epochs"], record["budget"]["steps"]
    last = {row["epoch"]: (row["step"], row["validation"]["top1"]) for row in rows}
    top1 = [last[epoch][1] for epoch in sorted(last)]
    if (len(last), max(last), last[max(last)][0]) != (epochs, epochs, steps):
        yield f"{LOG} must have epochs 1 to {epochs!r:.40} and end at step {steps!r:.40}, as in the record"
        return
    first = {"top1": max(top1), "epoch": 1 + top1.index(max(top1))}
    if best and best != first:  # an ablation has none: its epochs were those of another network
        yield f"metrics.best_validation is {reprlib.repr(best)} in the record and {reprlib.repr(first)} in {LOG}"
