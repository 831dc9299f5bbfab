"""Single runs on the page: what a record holds, as names and values, and how much of it there is room for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruneboard.leaderboard import Run
from pruneboard.records.schema import Record, format_sparsity, leaves, lookup
from pruneboard.report.clean import plain
from pruneboard.report.tables import percent
from pruneboard.report.views import VERDICTS

MOST_FACTS = 150
"""Lines of one record; blocks are listed in the order of `_BLOCKS`, the rest by name."""

_BLOCKS = ("metrics", "sparsity", "cost", "budget", "recipe", "seeds", "model", "data", "engine", "software")
_HEAD = ("schema", "hash", "status", "error", "track", "method", "seed")
_LEFT_OUT = {"sparsity.layers", "board.prunable"}  # as long as the network; the layer map shows them


@dataclass(frozen=True)
class Detail:
    """One run: where it belongs in a list, and its record as (path, value) pairs by block."""

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


def detail(run: Run) -> Detail:
    """Lay out one run; nothing of it is followed or trusted, every text is cut and cleaned."""
    record = run.record
    top1, target = lookup(record, "metrics.test.top1"), lookup(record, "sparsity.target")
    return Detail(
        key=record["hash"],
        path=plain(run.path, 300),
        board=plain(f"{record['data']['name']} / {record['model']['name']} / {record['track']}", 120),
        method=plain(record["method"]["name"], 60),
        sparsity="" if target is None else format_sparsity(target),
        seed=plain(record["seed"], 20),
        status=plain(record["status"], 20),
        top1="-" if top1 is None else percent(top1),
        verdict=run.verdict if run.verdict in VERDICTS else "unverified",
        ended=plain(lookup(record, "lifecycle.ended") or "-", 30),
        blocks=tuple(_blocks(record)),
    )


def _blocks(record: Record) -> Iterable[tuple[str, tuple[tuple[str, str], ...]]]:
    room = MOST_FACTS
    rest = sorted(record.keys() - set(_HEAD) - set(_BLOCKS))
    yield "run", tuple(_flat({name: record[name] for name in _HEAD if name in record}))
    for name in (*(name for name in _BLOCKS if name in record), *rest):
        facts = tuple(_flat({name: record[name]}))[:room]
        room -= len(facts)
        if facts:
            yield plain(name, 60), facts


def _flat(block: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for path, value in leaves(block):
        if path not in _LEFT_OUT and (text := _text(value)):
            yield plain(path, 100), text


def _text(value: object) -> str:
    if value is None or value == {} or value == []:
        return ""
    return plain(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 300)
