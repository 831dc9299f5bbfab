"""Groups records into boards and rows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pruneboard.leaderboard.model import Board
from pruneboard.leaderboard.ranking import CONTROLS, build_curves, rank_rows, sort_key
from pruneboard.leaderboard.rows import RowGroup, build_row
from pruneboard.records.schema import Record, leaves

_LATE_FIELDS = {"steps", "prunable"}
"""Fields of a board that a run knows only after it has opened its data and built its network."""

BoardKey = tuple[str, str, str, str]
"""Data set, model, track, fingerprint."""


def build_boards(
    records: Iterable[Record], superseded: Mapping[str, int] | None = None, disputed: Collection[str] = ()
) -> list[Board]:
    """Group validated records into boards.

    Args:
        records: validated records. Of several copies of one run (equal hash), the first finished copy counts,
            or the first copy if none finished.
        superseded: hash -> number of finished records that this record replaced.
        disputed: hashes of disputed finished records, which count as failures of their rows.
    """
    groups: dict[BoardKey, list[Record]] = defaultdict(list)
    for record in records:
        groups[_board_key(record)].append(record)
    _assign_early_failures(groups)
    siblings: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for key, members in groups.items():
        siblings[key[:3]].append(dict(leaves(_fields(members[0]))))
    return [_board(key, groups[key], siblings[key[:3]], superseded or {}, disputed) for key in sorted(groups)]


def _board_key(record: Record) -> BoardKey:
    return record["data"]["name"], record["model"]["name"], record["track"], record["board"]["fingerprint"]


def _fields(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record["board"].items() if key != "fingerprint"}


def _assign_early_failures(groups: dict[BoardKey, list[Record]]) -> None:
    """Move runs that failed early to the first board that agrees in all fields they have.

    A run that fails before `_LATE_FIELDS` are known has another fingerprint than the board it was meant for. Without
    this step it would form a board of its own, and the failure would not be counted in its row.
    """
    fields = {key: _fields(members[0]) for key, members in groups.items()}
    complete = sorted(key for key in groups if fields[key].keys() >= _LATE_FIELDS)
    for key in sorted(groups.keys() - set(complete)):
        known = fields[key]
        matching = [other for other in complete if other[:3] == key[:3] and _agree(known, fields[other])]
        if matching and all(run["status"] != "done" for run in groups[key]):
            groups[matching[0]] += groups.pop(key)


def _agree(known: Mapping[str, Any], complete: Mapping[str, Any]) -> bool:
    return known == {name: value for name, value in complete.items() if name in known or name not in _LATE_FIELDS}


def _differences(own: Mapping[str, Any], siblings: list[dict[str, Any]]) -> dict[str, Any]:
    paths = sorted({path for other in siblings for path in other})
    absent = object()
    return {p: own.get(p) for p in paths if any(other.get(p, absent) != own.get(p, absent) for other in siblings)}


def _board(
    key: BoardKey,
    members: list[Record],
    siblings: list[dict[str, Any]],
    superseded: Mapping[str, int],
    disputed: Collection[str],
) -> Board:
    fields = _fields(members[0])
    groups = _groups(members, superseded, disputed)
    dense = max((g for g in groups if g.control == "dense" and g.done), key=lambda g: len(g.done), default=None)
    rows = {id(group): build_row(group, dense.done if dense else {}) for group in groups}
    control = rows[id(dense)] if dense else None
    found = tuple(sorted(rank_rows(list(rows.values())), key=lambda row: (row is not control, *sort_key(row))))
    points = tuple(sorted({row.target for row in found if row.target is not None and not row.off_target}))
    return Board(
        dataset=key[0],
        model=key[1],
        track=key[2],
        fingerprint=key[3],
        fields=fields,
        differs=_differences(dict(leaves(fields)), siblings),
        dense=control,
        points=points,
        rows=found,
        curves=build_curves(found, points, control),
        missing_controls=_missing_controls(key[2], groups),
    )


def _missing_controls(track: str, groups: list[RowGroup]) -> tuple[str, ...]:
    there = {group.control for group in groups if group.done}
    return tuple(control for control in CONTROLS[track] if control not in there)


def _groups(members: list[Record], superseded: Mapping[str, int], disputed: Collection[str]) -> list[RowGroup]:
    """Return the runs of each row.

    Different runs (other hashes) with the same seed can agree in everything that a row shows. They form separate rows,
    distinguished by `variant`, because averaging them would count one seed twice.
    """
    groups: dict[tuple[str, int], RowGroup] = {}
    taken: Counter[tuple[str, int]] = Counter()
    copies = Counter(record["hash"] for record in members)
    for record in _without_copies(members):
        key = _row_key(record)
        variant = taken[key, record["seed"]]
        taken[key, record["seed"]] += 1
        group = groups.setdefault((key, variant), RowGroup(variant, disputed))
        group.runs.append(record)
        group.repeats += copies[record["hash"]] - 1
        group.superseded += superseded.get(record["hash"], 0)
    return list(groups.values())


def _without_copies(members: list[Record]) -> list[Record]:
    best: dict[str, Record] = {}
    for record in members:
        known = best.setdefault(record["hash"], record)
        if record["status"] == "done" and known["status"] != "done":
            best[record["hash"]] = record
    return list(best.values())


def _row_key(record: Record) -> str:
    method = record["method"]
    target = record["sparsity"]["target"]
    identity = [method.get(key) for key in ("name", "distribution", "version", "options", "ablation")]
    return json.dumps([*identity, None if target is None else float(target)], sort_keys=True)
