"""Does a board that was measured again agree with the one that was published? Pure.

The same runs on the same kind of machine have the same weights, bit for bit. Elsewhere sums are taken in another
order and training goes another way, so what can be asked is that means are where the published ones are: at least
`INSIDE` of the rows within their published 95 % interval, and none further outside than `FURTHEST` of its widths.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruneboard import leaderboard
from pruneboard.leaderboard import Board, Row
from pruneboard.leaderboard.names import names
from pruneboard.records.schema import Record, format_sparsity, lookup

INSIDE = 0.9
FURTHEST = 2.0


@dataclass(frozen=True)
class Compared:
    """One published row beside the same runs, measured again.

    Attributes:
        label: method, sparsity and board.
        n: published seeds.
        missing: those of them that were not measured again.
        identical: those with the same weights.
        difference: mean top-1 measured again minus the published mean; None where a seed is missing.
        outside: how far that is outside of the published interval, in its widths; 0 within.
    """

    label: str
    n: int
    missing: int
    identical: int
    difference: float | None
    outside: float


@dataclass(frozen=True)
class Agreement:
    """All published rows of two seeds or more."""

    rows: tuple[Compared, ...]

    @property
    def runs(self) -> int:
        """Published runs."""
        return sum(row.n for row in self.rows)

    @property
    def identical(self) -> int:
        """Those with the same weights."""
        return sum(row.identical for row in self.rows)

    @property
    def missing(self) -> int:
        """Those that were not measured again."""
        return sum(row.missing for row in self.rows)

    @property
    def inside(self) -> float:
        """Share of the rows within their intervals."""
        return sum(row.outside == 0 and not row.missing for row in self.rows) / max(1, len(self.rows))

    @property
    def holds(self) -> bool:
        """Whether the board was reproduced."""
        near = all(row.outside <= FURTHEST for row in self.rows)
        return bool(self.rows) and not self.missing and self.inside >= INSIDE and near


def compare(published: Iterable[Record], again: Iterable[Record]) -> Agreement:
    """Hold what was measured again against what was published, run by run (equal content hash).

    Args:
        published: validated records, unfinished ones among them.
        again: the same.
    """
    theirs, ours = _finished(published), _finished(again)
    rows = [
        _compared(board, row, label, theirs, ours)
        for board in leaderboard.build(theirs.values())
        for row, label in ((row, names(board.rows)[row.identity]) for row in board.rows)
        if row.n > 1
    ]
    return Agreement(tuple(rows))


def _finished(records: Iterable[Record]) -> dict[str, Record]:
    return {record["hash"]: record for record in records if record["status"] == "done"}


def _compared(board: Board, row: Row, label: str, theirs: Mapping[str, Record], ours: Mapping[str, Record]) -> Compared:
    there = [content for content in row.hashes if content in ours]
    identical = sum(lookup(ours[run], "weights_sha256") == lookup(theirs[run], "weights_sha256") for run in there)
    name = f"{label} at {format_sparsity(row.target)} on {board.dataset}, {board.model}, {board.track}"
    missing = row.n - len(there)
    if missing or row.top1 is None:
        return Compared(name, row.n, missing, identical, None, 0.0)
    mean = statistics.fmean(ours[run]["metrics"]["test"]["top1"] for run in there)
    return Compared(name, row.n, 0, identical, mean - row.top1.mean, _outside(mean, row, theirs[there[0]]))


def _outside(mean: float, row: Row, record: Record) -> float:
    assert row.top1 is not None
    low, high = row.top1.low, row.top1.high
    assert low is not None
    assert high is not None
    # Seeds that all have the same accuracy leave no interval: one image is the least that can be told apart.
    width = max(high - low, 1 / (lookup(record, "metrics.test.count") or 1))
    middle = (low + high) / 2
    return max(0.0, abs(mean - middle) - width / 2 - 1e-12) / width
