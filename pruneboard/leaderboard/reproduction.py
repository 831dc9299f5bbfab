"""Checks whether a repeated board reproduces a published one (`compare --against`).

On the same kind of machine with the same versions, a repeated run has the same weights, bit for bit. On other machines,
sums are computed in another order and training diverges from the published one. There, a board counts as reproduced if
at least `MIN_INSIDE` of the means are within the published 95 % interval of their row and none is more than
`MAX_DISTANCE` interval widths outside.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruneboard import leaderboard
from pruneboard.leaderboard import Board, Row
from pruneboard.leaderboard.names import short_names
from pruneboard.records.schema import Record, format_sparsity, lookup

MIN_INSIDE = 0.9
MAX_DISTANCE = 2.0


@dataclass(frozen=True)
class RowComparison:
    """One published row compared with its repeated runs.

    Attributes:
        label: method, sparsity and board.
        n: number of published seeds.
        missing: number of published seeds that were not repeated.
        identical: number of repeated runs with the same weights.
        difference: repeated mean top-1 minus published mean; None if a seed is missing.
        distance: distance of the repeated mean outside the published interval, in interval widths; 0 inside.
    """

    label: str
    n: int
    missing: int
    identical: int
    difference: float | None
    distance: float


@dataclass(frozen=True)
class Reproduction:
    """The comparison of all published rows with two or more seeds."""

    rows: tuple[RowComparison, ...]

    @property
    def runs(self) -> int:
        """Number of published runs."""
        return sum(row.n for row in self.rows)

    @property
    def identical(self) -> int:
        """Number of repeated runs with the same weights."""
        return sum(row.identical for row in self.rows)

    @property
    def missing(self) -> int:
        """Number of published runs that were not repeated."""
        return sum(row.missing for row in self.rows)

    @property
    def inside(self) -> float:
        """Fraction of the rows whose repeated mean is within the published interval."""
        return sum(row.distance == 0 and not row.missing for row in self.rows) / max(1, len(self.rows))

    @property
    def succeeded(self) -> bool:
        """Whether the board was reproduced."""
        near = all(row.distance <= MAX_DISTANCE for row in self.rows)
        return bool(self.rows) and not self.missing and self.inside >= MIN_INSIDE and near


def compare_records(published: Iterable[Record], repeated: Iterable[Record]) -> Reproduction:
    """Compare repeated runs with the published runs of the same content hash.

    Args:
        published: validated records; unfinished ones are ignored.
        repeated: validated records; unfinished ones count as missing.
    """
    theirs, ours = _finished(published), _finished(repeated)
    rows = [
        _compare_row(board, row, names[row.identity], theirs, ours)
        for board, names in ((board, short_names(board.rows)) for board in leaderboard.build_boards(theirs.values()))
        for row in board.rows
        if row.n > 1
    ]
    return Reproduction(tuple(rows))


def _finished(records: Iterable[Record]) -> dict[str, Record]:
    return {record["hash"]: record for record in records if record["status"] == "done"}


def _compare_row(
    board: Board, row: Row, label: str, theirs: Mapping[str, Record], ours: Mapping[str, Record]
) -> RowComparison:
    found = [run for run in row.hashes if run in ours]
    weights = [(ours[run].get("weights_sha256"), theirs[run].get("weights_sha256")) for run in found]
    identical = sum(own is not None and own == other for own, other in weights)
    name = f"{label} at {format_sparsity(row.target)} on {board.dataset}, {board.model}, {board.track}"
    missing = row.n - len(found)
    if missing or row.top1 is None:
        return RowComparison(name, row.n, missing, identical, None, 0.0)
    mean = statistics.fmean(ours[run]["metrics"]["test"]["top1"] for run in found)
    return RowComparison(name, row.n, 0, identical, mean - row.top1.mean, _distance(mean, row, ours[found[0]]))


def _distance(mean: float, row: Row, record: Record) -> float:
    assert row.top1 is not None
    low, high = row.top1.low, row.top1.high
    assert low is not None
    assert high is not None
    # If all seeds have the same accuracy, the interval has no width; one test image is the smallest difference.
    width = max(high - low, 1 / (lookup(record, "metrics.test.count") or 1))
    middle = (low + high) / 2
    return max(0.0, abs(mean - middle) - width / 2 - 1e-12) / width
