"""The smaller tables of a board on the page: mean drop over the curve, seeds finished, and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruneboard.leaderboard import Board, Curve, Row
from pruneboard.leaderboard.model import RowIdentity
from pruneboard.leaderboard.names import RowNames
from pruneboard.report.tables import MAX_POINTS, interval_text, missing_text, percent
from pruneboard.report.views import TableCell


def area_cells(curve: Curve) -> tuple[TableCell, ...]:
    """Return the area of one method, its interval, its coverage and its missing operating points."""
    area = curve.area
    return (
        TableCell(percent(area.value), area.value) if area else TableCell("-"),
        TableCell(interval_text(area), area.low if area else None),
        TableCell(f"{100 * curve.coverage:.0f} %", curve.coverage),
        TableCell(missing_text(curve) or "none", len(curve.missing)),
    )


def coverage(curve: Curve, board: Board) -> tuple[TableCell, ...]:
    """Return the finished seeds and failures at each of the first `MAX_POINTS` operating points, or `missing`."""
    by_target = {row.target: row for row in curve.rows}
    return tuple(_coverage_cell(by_target.get(point)) for point in board.points[:MAX_POINTS])


def _coverage_cell(row: Row | None) -> TableCell:
    if row is None:
        return TableCell("missing", css="missing")
    failed = f" +{len(row.failures)} failed" if row.failures else ""
    off = " off target" if row.off_target else ""
    return TableCell(f"{row.n}{off}{failed}", row.n, f"{row.label}{' bad' if row.failures else ''}")


@dataclass(frozen=True)
class CostRow:
    """The cost of one method over its operating points.

    Attributes:
        name: name of the method.
        cells: text, and length of the bar in percent of the longest bar in its column.
    """

    name: str
    cells: tuple[tuple[str, float], ...]


def _unreachable(row: Row) -> float | None:
    """Return the percentage of the kept weights that are not on any path from the input to the output."""
    if row.effective is None or row.measured is None:
        return None
    return 100 * (row.effective - row.measured) / (1 - row.measured) if row.measured < 1 else 0.0


COSTS: dict[str, Callable[[Row], float | None]] = {
    "Training MACs, dense = 1": lambda row: row.relative_train_macs,
    "Passes per step": lambda row: row.forward_passes,
    "Seconds": lambda row: row.wall_seconds,
    "Seconds in method code": lambda row: row.hook_seconds,
    "Peak memory, MiB": lambda row: None if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**20,
    "Unreachable, % of kept weights": _unreachable,
    "Storage, kbit": lambda row: None if row.storage_bits is None else row.storage_bits / 1000,
}


def costs(board: Board, names: RowNames) -> tuple[tuple[str, ...], tuple[CostRow, ...]]:
    """Return the cost table: the columns for which any row has a value, and one row per method."""
    rows: dict[RowIdentity, list[Row]] = {}
    for row in board.rows:
        if row.n:
            rows.setdefault(row.identity, []).append(row)
    spans = {identity: [_range(own, value) for value in COSTS.values()] for identity, own in rows.items()}
    tops = [max((span[index][1] for span in spans.values() if span[index]), default=0.0) for index in range(len(COSTS))]
    used = [index for index, top in enumerate(tops) if top > 0]
    lines = [
        CostRow(names[identity], tuple(_bar(found[index], tops[index]) for index in used))
        for identity, found in spans.items()
    ]
    return tuple(list(COSTS)[index] for index in used), tuple(lines)


def _range(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Any:
    known = [found for row in rows if (found := value(row)) is not None]
    return (min(known), max(known)) if known else None


def _bar(span: tuple[float, float] | None, top: float) -> tuple[str, float]:
    if span is None:
        return "-", 0.0
    low, high = (_short(end) for end in span)
    return (low if low == high else f"{low} to {high}"), round(100 * span[1] / top, 1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
