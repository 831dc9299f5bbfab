"""Rows beside each other: ranks, leaders, curves and what is missing."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.model import Curve, Identity, Row

CONTROLS = {"prune": ("dense", "floor", "baseline"), "supermask": ("floor",)}
"""Track -> the controls that every board of it should have (`Traits.control`)."""


def ranked(rows: list[Row]) -> list[Row]:
    """Number the rows of each operating point by mean top-1; equal means share a rank.

    One seed is never ranked, nor is a row off its target, which has an operating point of its own, nor an
    ablation, which is no method. Where one row is left there is nobody to rank it against.
    """
    rivals: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row.target is not None and _may_rank(row):
            rivals[row.target].append(row)
    placed: dict[int, Row] = {}
    for found in rivals.values():
        if len(found) > 1:
            placed |= {id(old): new for old, new in zip(found, _placed(found), strict=True)}
    baselines = _baselines(rows)
    return [_against(baselines.get(row.target), placed.get(id(row), row)) for row in rows]


def _baselines(rows: Sequence[Row]) -> dict[float | None, Row]:
    """Return the baseline control of each operating point: of several, the one with most seeds, then by name."""
    found = [row for row in rows if row.control == "baseline" and row.ablation is None]
    found.sort(key=lambda row: (-row.n, row.identity), reverse=True)
    return {row.target: row for row in found}


def _may_rank(row: Row) -> bool:
    return row.n >= 2 and not row.off_target and row.control != "dense" and row.ablation is None


def _placed(rivals: Sequence[Row]) -> list[Row]:
    """Give each row of one operating point its rank, the interval of it, and the leader its mark."""
    ranks = stats.rank_intervals({index: row.by_seed for index, row in enumerate(rivals)})
    first, second, *_ = sorted(rivals, key=lambda row: -_mean(row))
    ahead = stats.paired(*first.pairs(second))
    leader = first if ahead and ahead.low is not None and ahead.low > 0 else None
    return [
        dataclasses.replace(row, rank=place.rank, rank_low=place.low, rank_high=place.high, leads=row is leader)
        for row, place in zip(rivals, (ranks[index] for index in range(len(rivals))), strict=True)
    ]


def _against(baseline: Row | None, row: Row) -> Row:
    if baseline is None or row is baseline or row.control is not None or row.off_target or row.n < 2:
        return row
    return dataclasses.replace(row, above_baseline=stats.probability_above(*row.pairs(baseline)))


def _mean(row: Row) -> float:
    return row.top1.mean if row.top1 else 0.0


def order(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by: the dense control, then by sparsity, then by falling top-1."""
    point = -1.0 if row.point is None else row.point
    accuracy = -row.top1.mean if row.top1 else 1.0
    return row.control != "dense", point, accuracy, row.method, row.distribution, row.version, row.variant


def curves(rows: Sequence[Row], points: Sequence[float], dense: Row | None) -> tuple[Curve, ...]:
    """Return each method's curve over the operating points of its board, by rising area."""
    methods: dict[Identity, list[Row]] = defaultdict(list)
    for row in rows:
        if row.target is not None:
            methods[row.identity].append(row)
    found = [_curve(own, points, dense) for own in methods.values()]
    return tuple(sorted(found, key=_by_area))


def _curve(rows: Sequence[Row], points: Sequence[float], dense: Row | None) -> Curve:
    there = {row.target for row in rows}
    done = [row for row in rows if row.n and not row.off_target]
    drops = {row.target: _drops(row, dense) for row in done if row.target is not None}
    return Curve(
        rows=tuple(sorted(rows, key=lambda row: row.target or 0.0)),
        missing=tuple(point for point in points if point not in there),
        area=stats.area(drops, points).interval,
        coverage=len(done) / len(points) if points else 0.0,
    )


def _drops(row: Row, dense: Row | None) -> dict[int, float]:
    reference, own = dense.pairs(row) if dense else ({}, {})
    return {seed: reference[seed] - own[seed] for seed in own}


def _by_area(curve: Curve) -> tuple[Any, ...]:
    row = curve.rows[0]
    return curve.area is None, curve.area.value if curve.area else 0.0, row.method, row.identity
