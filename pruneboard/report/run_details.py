"""The details of single runs on the page: fields of a record as names and values, limited in number and length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruneboard.leaderboard import RunEntry
from pruneboard.leaderboard.names import method_name
from pruneboard.records.schema import Record, format_sparsity, leaves, lookup
from pruneboard.report.escaping import printable
from pruneboard.report.tables import percent
from pruneboard.report.views import VERDICTS

MAX_FACTS = 150
"""Limit for the fields of one record. Blocks are listed in the order of `_BLOCKS`, then the others by name."""

_BLOCKS = ("metrics", "sparsity", "cost", "budget", "recipe", "seeds", "model", "data", "engine", "software")
_HEAD = ("schema", "hash", "status", "error", "track", "method", "seed")
_LEFT_OUT = {"sparsity.layers", "board.prunable"}  # one entry per layer; the layer map shows them


@dataclass(frozen=True)
class RunDetails:
    """One run: the columns of its entry in the list of runs, and its record as (path, value) pairs by block."""

    key: str
    path: str
    board: str
    method: str
    sparsity: str
    seed: str
    status: str
    top1: str
    verdict: str
    ended: str
    blocks: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def run_details(run: RunEntry) -> RunDetails:
    """Return the details of a run. Its record is untrusted: every text is shortened and made printable."""
    record = run.record
    top1, target = lookup(record, "metrics.test.top1"), lookup(record, "sparsity.target")
    return RunDetails(
        key=record["hash"],
        path=printable(run.path, 300),
        board=printable(f"{record['data']['name']} / {record['model']['name']} / {record['track']}", 120),
        method=printable(method_name(record["method"]["name"], record["method"]["distribution"]), 60),
        sparsity="" if target is None else format_sparsity(target),
        seed=printable(record["seed"], 20),
        status=printable(record["status"], 20),
        top1="-" if top1 is None else percent(top1),
        verdict=run.verdict if run.verdict in VERDICTS else "unverified",
        ended=printable(lookup(record, "lifecycle.ended") or "-", 30),
        blocks=tuple(_blocks(record)),
    )


def _blocks(record: Record) -> Iterable[tuple[str, tuple[tuple[str, str], ...]]]:
    left = MAX_FACTS
    rest = sorted(record.keys() - set(_HEAD) - set(_BLOCKS))
    yield "run", tuple(_flat({name: record[name] for name in _HEAD if name in record}))
    for name in (*(name for name in _BLOCKS if name in record), *rest):
        facts = tuple(_flat({name: record[name]}))[:left]
        left -= len(facts)
        if facts:
            yield printable(name, 60), facts


def _flat(block: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for path, value in leaves(block):
        if path not in _LEFT_OUT and (text := _text(value)):
            yield printable(path, 100), text


def _text(value: object) -> str:
    if value is None or value == {} or value == []:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 300)
