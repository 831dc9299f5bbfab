"""The data of a board's charts: lists of named values, with accuracies in percent and drops in points.

Text from records is made printable here, and Vega draws it as text. Numbers are rounded to visible precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pruneboard.leaderboard import Board, Published, Row
from pruneboard.leaderboard.names import RowNames
from pruneboard.leaderboard.stats import MeanEstimate
from pruneboard.records.schema import format_sparsity
from pruneboard.report.escaping import printable
from pruneboard.report.tables import interval_text, percent, rank_text, top1_text

Points = list[dict[str, Any]]

MAX_DOTS = 3_000
"""Limit for the dots of single seeds on one board. Beyond it, only means and intervals are drawn."""

MAX_TICKS = 30
"""Limit for operating points that have their own ticks."""

MAX_LAYER_CELLS = 20_000
"""Limit for the cells of a board's layer maps, over all operating points."""


def data_sets(board: Board, names: RowNames, published: Sequence[Published] = ()) -> dict[str, Points]:
    """Return name -> points of the data sets of the trade-off chart.

    The chart's data set `seeds` is the same as `cells`, whose `tops` and `drops` contain one value per seed.
    """
    rows = [row for row in board.rows if row.target is not None]
    crowded = seeds_left_out(board) > 0
    data = {
        "cells": [
            _cell(row, names[row.identity]) | _dots(row, board.dense, crowded=crowded) for row in rows if row.top1
        ],
        "dense": [_dense(board.dense, names[board.dense.identity])] if board.dense else [],
        "failures": [_failure(row, names[row.identity]) for row in rows if row.failures],
        "literature": [_literature(entry) for entry in published],
    }
    return data | _chance(board, data)


def limit_rows(board: Board, limit: int) -> Board:
    """Return the board reduced to at most `limit` rows, as complete methods in the order of its curves."""
    if len(board.rows) <= limit:
        return board
    left, kept = limit, []
    for curve in board.curves:
        if len(curve.rows) <= left:
            left -= len(curve.rows)
            kept.append(curve)
    chosen = {id(row) for curve in kept for row in curve.rows}
    rows = tuple(row for row in board.rows if id(row) in chosen or row is board.dense)
    return replace(board, rows=rows, curves=tuple(kept))


def ticks(board: Board) -> dict[str, list[float]]:
    """Return the ticks of the x axes: the operating points, or nothing if there are too many."""
    kept = [found for point in board.points if (found := _kept(point)) is not None]
    return (
        {"kept": kept, "compression": [float(f"{1 / share:.4g}") for share in kept]} if len(kept) <= MAX_TICKS else {}
    )


def layers(board: Board, names: RowNames) -> list[dict[str, Any]]:
    """Return the layer maps, one per group of rows with the same layers: rows by operating point.

    `kept` is the kept fraction of each layer's weights. Beyond `MAX_LAYER_CELLS`, the sparsest rows are left out.
    """
    groups: dict[tuple[tuple[str, int], ...], dict[float, Points]] = {}
    left = MAX_LAYER_CELLS
    for row in sorted(board.rows, key=lambda row: row.target or 0.0):
        left -= len(row.layers)
        if row.layers and row.target is not None and left >= 0:
            shape = tuple((layer.name, layer.n) for layer in row.layers)
            kept = [float(f"{1 - layer.sparsity:.4g}") for layer in row.layers]
            line = {"method": names[row.identity], "kept": kept}
            groups.setdefault(shape, {}).setdefault(row.target, []).append(line)
    return [
        {
            "layers": [printable(name, 80) for name, _ in shape],
            "weights": [n for _, n in shape],
            "points": [{"point": f"{target:.6g}", "rows": rows} for target, rows in by_target.items()],
        }
        for shape, by_target in groups.items()
    ]


def seeds_left_out(board: Board) -> int:
    """Return the number of single seeds that are not drawn as dots."""
    dots = sum(row.n for row in board.rows if row.target is not None)
    return dots if dots > MAX_DOTS else 0


def describe(row: Row) -> dict[str, Any]:
    """Return the texts of a row's tooltip."""
    failed = ", ".join(dict.fromkeys(failure.status for failure in row.failures))
    return {
        "point": _point(row),
        "top1_text": top1_text(row.top1) if row.top1 else "no run finished",
        "span": interval_text(row.top1),
        "seeds": f"{row.n}, {row.label}",
        "drop_text": f"{percent(row.drop.mean)} {interval_text(row.drop)}".rstrip(" -") if row.drop else "-",
        "rank": rank_text(row),
        "failed": f"{len(row.failures)} ({failed})" if failed else "0",
    }


def _point(row: Row) -> str:
    target = format_sparsity(row.target)
    return f"{row.measured:.5g} (off target {target})" if row.off_target and row.measured is not None else target


def _x_values(row: Row) -> dict[str, Any]:
    """Return the value of a row on each x axis. A row without a finished run is placed at its target sparsity."""
    sparsity = row.point if row.top1 else row.target
    compression = row.compression
    if compression is None and not row.top1 and sparsity is not None and sparsity < 1:
        compression = 1 / (1 - sparsity)
    macs = 100 * row.macs_remaining if row.macs_remaining else None  # 0 does not exist on a logarithmic axis
    return {
        "sparsity": _round(sparsity),
        "kept": _kept(sparsity),
        "compression": _round(compression),
        "macs": _round(macs),
    }


def _kept(sparsity: float | None) -> float | None:
    return _round(1 - sparsity) if sparsity is not None and sparsity < 1 else None


def _cell(row: Row, name: str) -> dict[str, Any]:
    return {
        "method": name,
        "n": row.n,
        "off": row.off_target,
        **_x_values(row),
        **_interval(row.top1, ("top1", "low", "high")),
        **_interval(row.drop, ("drop", "drop_low", "drop_high")),
        **describe(row),
    }


def _interval(estimate: MeanEstimate | None, names: tuple[str, str, str]) -> dict[str, float | None]:
    values = (estimate.mean, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: _to_percent(value) for name, value in zip(names, values, strict=True)}


def _dense(row: Row, name: str) -> dict[str, Any]:
    return _cell(row, name) | {"drop": 0.0, "point": "dense"}


def _failure(row: Row, name: str) -> dict[str, Any]:
    first = row.failures[0]
    more = f" and {len(row.failures) - 1} more" if len(row.failures) > 1 else ""
    text = printable(f"seed {first.seed} {first.status}{more}: {first.message or 'no message'}", 160)
    return {"method": name, **_x_values(row), "point": _point(row), "failed": text}


def _literature(entry: Published) -> dict[str, Any]:
    spread = "" if entry.top1_sd is None else f" ± {percent(entry.top1_sd)}"
    dense = entry.dense_top1
    return {
        "method": printable(entry.method, 80),
        "model": printable(entry.model, 60),
        "sparsity": entry.sparsity,
        "kept": _kept(entry.sparsity),
        "compression": _round(1 / (1 - entry.sparsity)) if entry.sparsity < 1 else None,
        "macs": None,
        "top1": _to_percent(entry.top1),
        "drop": None if dense is None else _to_percent(dense - entry.top1),
        "point": format_sparsity(entry.sparsity),
        "top1_text": f"{percent(entry.top1)}{spread}",
        "dense_text": "-" if dense is None else percent(dense),
        "source": printable(entry.source, 120),
        "place": printable(entry.place, 80),
        "note": printable(entry.note, 160),
    }


def _chance(board: Board, data: dict[str, Points]) -> dict[str, Points]:
    """Return the lines of the board's chance levels, and one text for those that are far below all other points.

    The axis includes every line, so a far one would press the curves together.
    """
    drawn = [
        point[key] for points in data.values() for point in points for key in ("low", "top1", "high") if key in point
    ]
    drawn += [top1 for cell in data["cells"] for top1 in cell["tops"]]
    known = [value for value in drawn if value is not None]
    if not known:
        return {"levels": [], "below": []}
    reach = min(known) - (max(known) - min(known)) / 2
    dense = board.dense.top1.mean if board.dense and board.dense.top1 else None
    levels = [
        {
            "name": name,
            "top1": _to_percent(level),
            "drop": None if dense is None else _to_percent(dense - level),
            "top1_text": percent(level),
        }
        for name, level in board.chance_levels.items()
    ]
    far = [f"{level['name']} {level['top1_text']} %" for level in levels if level["top1"] < reach]
    return {
        "levels": [level for level in levels if level["top1"] >= reach],
        "below": [{"text": f"below: {', '.join(far)}"}] if far else [],
    }


def _dots(row: Row, dense: Row | None, *, crowded: bool) -> dict[str, list[float | None]]:
    """Return top-1 and drop of each seed, in the same order. Unpaired seeds have no drop."""
    if crowded:
        return {"tops": [], "drops": []}
    paired = dense.pairs(row)[0] if dense else {}
    drops = [paired[seed] - top1 if seed in paired else None for seed, top1 in row.by_seed.items()]
    return {
        "tops": [_to_percent(top1) for top1 in row.by_seed.values()],
        "drops": [_to_percent(drop) for drop in drops],
    }


def _to_percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
