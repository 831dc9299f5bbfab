"""The smaller panels of a board: whole curves, what was run, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneboard.leaderboard import Board, Curve, Row
from pruneboard.leaderboard.model import Identity
from pruneboard.records.schema import format_sparsity
from pruneboard.report.tables import interval_text, percent
from pruneboard.report.views import Cell


def curve_cells(curve: Curve) -> tuple[Cell, ...]:
    """Return area, its interval, coverage and the missing operating points of one method."""
    area = curve.area
    missing = ", ".join(map(format_sparsity, curve.missing)) or "none"
    return (
        Cell(percent(area.value), area.value) if area else Cell("-"),
        Cell(interval_text(area), area.low if area else None),
        Cell(f"{100 * curve.coverage:.0f} %", curve.coverage),
        Cell(missing, len(curve.missing)),
    )


def coverage(curve: Curve, board: Board) -> tuple[Cell, ...]:
    """Return one cell for each operating point of the board: seeds, what they are worth, failures, or a gap."""
    there = {row.target: row for row in curve.rows}
    return tuple(_covered(there.get(point)) for point in board.points)


def _covered(row: Row | None) -> Cell:
    if row is None:
        return Cell("missing", css="missing")
    failed = f" +{len(row.failures)} failed" if row.failures else ""
    off = " off" if row.off_target else ""
    return Cell(f"{row.n}{off}{failed}", row.n, f"{row.label}{' bad' if row.failures else ''}")


@dataclass(frozen=True)
class Cost:
    """What a method's runs took, over its operating points: texts, and the share of the largest bar."""

    name: str
    cells: tuple[tuple[str, float], ...]


def _cut_off(row: Row) -> float | None:
    """Return how many of the weights that are left lie on no path from input to output, in percent."""
    if row.effective is None or row.measured is None:
        return None
    return 100 * (row.effective - row.measured) / (1 - row.measured) if row.measured < 1 else 0.0


COSTS: dict[str, Callable[[Row], float | None]] = {
    "Training, dense = 1": lambda row: row.relative_train_macs,
    "Passes a step": lambda row: row.forward_passes,
    "Seconds": lambda row: row.wall_seconds,
    "in its hooks": lambda row: row.hook_seconds,
    "Peak memory, MiB": lambda row: None if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**20,
    "Cut off, % of what is left": _cut_off,
    "Storage, kbit": lambda row: None if row.storage_bits is None else row.storage_bits / 1000,
}


def costs(board: Board, names: Mapping[Identity, str]) -> tuple[tuple[str, ...], tuple[Cost, ...]]:
    """Return the cost panel: its columns (those that any row knows) and one line per method."""
    rows: dict[Identity, list[Row]] = {}
    for row in board.rows:
        if row.n:
            rows.setdefault(row.identity, []).append(row)
    spans = {identity: [_extent(own, value) for value in COSTS.values()] for identity, own in rows.items()}
    tops = [max((span[place][1] for span in spans.values() if span[place]), default=0.0) for place in range(len(COSTS))]
    used = [place for place, top in enumerate(tops) if top > 0]
    lines = [
        Cost(names[identity], tuple(_bar(found[place], tops[place]) for place in used))
        for identity, found in spans.items()
    ]
    return tuple(list(COSTS)[place] for place in used), tuple(lines)


def _extent(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Any:
    known = [found for row in rows if (found := value(row)) is not None]
    return (min(known), max(known)) if known else None


def _bar(span: tuple[float, float] | None, top: float) -> tuple[str, float]:
    if span is None:
        return "-", 0.0
    low, high = (_short(end) for end in span)
    return (low if low == high else f"{low} to {high}"), round(100 * span[1] / top, 1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
