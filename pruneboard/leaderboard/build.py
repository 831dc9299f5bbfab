"""Which records share a board, and which share a row."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pruneboard.leaderboard.model import Board
from pruneboard.leaderboard.ranks import CONTROLS, curves, order, ranked
from pruneboard.leaderboard.rows import Group, row
from pruneboard.records.schema import Record, leaves

_LEARNED = {"steps", "prunable"}  # board fields that a run knows only once it is under way


def build(
    records: Iterable[Record], superseded: Mapping[str, int] | None = None, disputed: Collection[str] = ()
) -> list[Board]:
    """Group validated records into boards.

    Args:
        records: as `store.scan` returns them; of two copies of one run (equal hash) a finished one counts,
            else the first.
        superseded: hash -> finished records that this one replaced.
        disputed: hashes of finished records that do not hold; they count as failures of their rows.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[_board_key(record)].append(record)
    _adopt(groups)
    siblings: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for key, members in groups.items():
        siblings[key[:3]].append(dict(leaves(_fields(members[0]))))
    return [_board(key, groups[key], siblings[key[:3]], superseded or {}, disputed) for key in sorted(groups)]


def _board_key(record: Record) -> tuple[str, str, str, str]:
    return record["data"]["name"], record["model"]["name"], record["track"], record["board"]["fingerprint"]


def _fields(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record["board"].items() if key != "fingerprint"}


def _adopt(groups: dict[tuple[str, str, str, str], list[Record]]) -> None:
    """Move runs that failed before their board was complete to the board that agrees in all they knew."""
    fields = {key: _fields(members[0]) for key, members in groups.items()}
    complete = sorted(key for key in groups if fields[key].keys() >= _LEARNED)
    for key in sorted(groups.keys() - set(complete)):
        known = fields[key]
        homes = [other for other in complete if other[:3] == key[:3] and _agree(known, fields[other])]
        if homes and all(run["status"] != "done" for run in groups[key]):
            groups[homes[0]] += groups.pop(key)


def _agree(known: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    return known == {name: value for name, value in whole.items() if name in known or name not in _LEARNED}


def _differences(own: Mapping[str, Any], siblings: list[dict[str, Any]]) -> dict[str, Any]:
    paths = sorted({path for other in siblings for path in other})
    absent = object()
    return {p: own.get(p) for p in paths if any(other.get(p, absent) != own.get(p, absent) for other in siblings)}


def _board(
    key: tuple[str, str, str, str],
    members: list[Record],
    siblings: list[dict[str, Any]],
    superseded: Mapping[str, int],
    disputed: Collection[str],
) -> Board:
    fields = _fields(members[0])
    groups = _groups(members, superseded, disputed)
    dense = max((g for g in groups if g.control == "dense" and g.done), key=lambda g: len(g.done), default=None)
    rows = {id(group): row(group, dense.done if dense else {}) for group in groups}
    control = rows[id(dense)] if dense else None
    found = tuple(sorted(ranked(list(rows.values())), key=lambda row: (row is not control, *order(row))))
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
        curves=curves(found, points, control),
        missing_controls=_missing_controls(key[2], groups),
    )


def _missing_controls(track: str, groups: list[Group]) -> tuple[str, ...]:
    there = {group.control for group in groups if group.done}
    return tuple(control for control in CONTROLS[track] if control not in there)


def _groups(members: list[Record], superseded: Mapping[str, int], disputed: Collection[str]) -> list[Group]:
    """Return the runs row by row.

    Runs that agree in everything a row shows and still are different runs of one seed go to rows of their
    own: averaging them would count one seed twice.
    """
    groups: dict[tuple[str, int], Group] = {}
    taken: Counter[tuple[str, int]] = Counter()
    copies = Counter(record["hash"] for record in members)
    for record in _without_copies(members):
        key = _row_key(record)
        variant = taken[key, record["seed"]]
        taken[key, record["seed"]] += 1
        group = groups.setdefault((key, variant), Group(variant, disputed))
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
