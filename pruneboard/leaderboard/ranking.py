"""Compares the rows of a board: ranks, leaders, chance, P(> baseline) and curves."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.model import Curve, Row, RowIdentity
from pruneboard.records.schema import Record, lookup

CONTROLS = {"prune": ("dense", "floor", "baseline"), "supermask": ("floor",)}
"""Track -> the controls that each of its boards should have (`Traits.control`)."""

MAX_MISSING = 100
"""Limit for the operating points that a curve lists as missing: a board may have thousands of them, and of curves."""


def chance_levels(runs: Sequence[Record]) -> dict[str, float]:
    """Return the accuracies that need no training; see `Board.chance_levels`.

    Args:
        runs: the finished runs of one board. A level counts if most of them agree on it, so that a single wrong record
            cannot take the ranks of all others.
    """
    levels = {}
    if classes := _most_common(runs, "data.classes"):
        levels["chance"] = 1 / classes
    if majority := _most_common(runs, "data.majority"):
        levels["majority class"] = majority
    return levels


def _most_common(runs: Sequence[Record], path: str) -> float | None:
    values = [lookup(run, path) for run in runs]
    found: float | None = statistics.mode(values) if values else None
    return found if 2 * values.count(found) > len(values) else None


def mark_chance(row: Row, levels: Mapping[str, float]) -> Row:
    """Return the row with `at_chance`, if its interval contains one of the levels or lies below it.

    A row below the majority class does not know more than one at it: a network that always gives the same answer has
    the share of any class.
    """
    if row.top1 is None or row.top1.low is None:
        return row
    low = row.top1.low - 1e-12  # if all seeds agree, the interval is one point, which can equal a level
    reached = next((name for name, level in levels.items() if low <= level), None)
    return dataclasses.replace(row, at_chance=reached) if reached else row


def rank_rows(rows: list[Row]) -> list[Row]:
    """Return the rows with their ranks by mean top-1 at each operating point, and with P(> baseline).

    Equal means share a rank. A row is not ranked if it has a single seed, if it is off target (its operating point is
    another), if it is an ablation (not a method), if it cannot be distinguished from chance (`mark_chance`), or if no
    other row of its operating point can be ranked.
    """
    by_point: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row.target is not None and _is_rankable(row):
            by_point[row.target].append(row)
    ranked: dict[int, Row] = {}
    for found in by_point.values():
        if len(found) > 1:
            ranked |= {id(old): new for old, new in zip(found, _rank_point(found), strict=True)}
    baselines = _baselines(rows)
    return [_with_baseline(baselines.get(row.target), ranked.get(id(row), row)) for row in rows]


def _baselines(rows: Sequence[Row]) -> dict[float | None, Row]:
    """Return target -> its baseline control. Of several, the one with most seeds counts, then the first by identity."""
    found = [row for row in rows if row.control == "baseline" and row.ablation is None]
    found.sort(key=lambda row: (-row.n, row.identity), reverse=True)
    return {row.target: row for row in found}


def _is_rankable(row: Row) -> bool:
    return (
        row.n >= 2 and not row.off_target and row.control != "dense" and row.ablation is None and row.at_chance is None
    )


def _rank_point(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one operating point with rank, interval of the rank, and the mark of the leader."""
    ranks = stats.rank_intervals({index: row.by_seed for index, row in enumerate(rows)})
    first, second, *_ = sorted(rows, key=lambda row: -_mean(row))
    ahead = stats.paired(*first.pairs(second))
    leader = first if ahead and ahead.low is not None and ahead.low > 0 else None
    return [
        dataclasses.replace(row, rank=found.rank, rank_low=found.low, rank_high=found.high, leads=row is leader)
        for row, found in zip(rows, (ranks[index] for index in range(len(rows))), strict=True)
    ]


def _with_baseline(baseline: Row | None, row: Row) -> Row:
    if baseline is None or row is baseline or row.control is not None or row.off_target or row.n < 2:
        return row
    return dataclasses.replace(row, above_baseline=stats.probability_above(*row.pairs(baseline)))


def _mean(row: Row) -> float:
    return row.top1.mean if row.top1 else 0.0


def sort_key(row: Row) -> tuple[Any, ...]:
    """Return the sort key of a row: dense controls first, then by sparsity, then by decreasing top-1."""
    point = -1.0 if row.point is None else row.point
    accuracy = -row.top1.mean if row.top1 else 1.0
    return row.control != "dense", point, accuracy, row.method, row.distribution, row.version, row.variant


def build_curves(rows: Sequence[Row], points: Sequence[float], dense: Row | None) -> tuple[Curve, ...]:
    """Return the curve of each method over the operating points of its board, in order of increasing area."""
    methods: dict[RowIdentity, list[Row]] = defaultdict(list)
    for row in rows:
        if row.target is not None:
            methods[row.identity].append(row)
    known = frozenset(points)
    found = [_curve(own, points, known, dense) for own in methods.values()]
    return tuple(sorted(found, key=_by_area))


def _curve(rows: Sequence[Row], points: Sequence[float], known: frozenset[float], dense: Row | None) -> Curve:
    present = {row.target for row in rows}
    done = [row for row in rows if row.n and not row.off_target]
    drops = {row.target: _drops(row, dense) for row in done if row.target is not None}
    return Curve(
        rows=tuple(sorted(rows, key=lambda row: row.target or 0.0)),
        missing=tuple(islice((point for point in points if point not in present), MAX_MISSING)),
        area=stats.area(drops, known).interval,
        coverage=len(done) / len(points) if points else 0.0,
    )


def _drops(row: Row, dense: Row | None) -> dict[int, float]:
    reference, own = dense.pairs(row) if dense else ({}, {})
    return {seed: reference[seed] - own[seed] for seed in own}


def _by_area(curve: Curve) -> tuple[Any, ...]:
    row = curve.rows[0]
    return curve.area is None, curve.area.value if curve.area else 0.0, row.method, row.identity
