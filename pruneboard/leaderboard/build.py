"""Groups records into boards and rows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pruneboard.leaderboard.model import Board
from pruneboard.leaderboard.ranking import CONTROLS, build_curves, chance_levels, mark_chance, rank_rows, sort_key
from pruneboard.leaderboard.rows import RowGroup, build_row
from pruneboard.records.merging.conflicts import measurements
from pruneboard.records.schema import Record, content_hash, leaves

_LATE_FIELDS = {"steps", "prunable"}
"""Fields of a board that a run knows only after it has opened its data and built its network."""

_MISSING_FIELDS = ({"steps"}, {"prunable"}, _LATE_FIELDS)

MAX_ABSENT = 100
"""If similar boards differ in more fields than this, a board's differences do not include fields that it lacks."""

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
    differs = _differences({key: dict(leaves(_fields(members[0]))) for key, members in groups.items()})
    return [_board(key, groups[key], differs[key], superseded or {}, disputed) for key in sorted(groups)]


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
    # Every complete board under each set of fields that an early failure can have, so that one look-up finds it.
    first: dict[tuple[tuple[str, str, str], str], BoardKey] = {}
    for key in complete:
        for missing in _MISSING_FIELDS:
            known = {name: value for name, value in fields[key].items() if name not in missing}
            first.setdefault((key[:3], content_hash(known)), key)
    for key in sorted(groups.keys() - set(complete)):
        match = first.get((key[:3], content_hash(fields[key])))
        if match is not None and all(run["status"] != "done" for run in groups[key]):
            groups[match] += groups.pop(key)


def _differences(fields: Mapping[BoardKey, Mapping[str, Any]]) -> dict[BoardKey, dict[str, Any]]:
    """Return key -> the fields of a board that differ between the boards of its data set, model and track.

    Fields that the board lacks are included, as None, unless the boards differ in more than `MAX_ABSENT` fields.

    Args:
        fields: key -> dotted path -> value, of all boards.
    """
    siblings: dict[tuple[str, str, str], list[BoardKey]] = defaultdict(list)
    for key in fields:
        siblings[key[:3]].append(key)
    found: dict[BoardKey, dict[str, Any]] = {}
    for keys in siblings.values():
        paths = _differing_paths([fields[key] for key in keys])
        few = sorted(paths) if len(paths) <= MAX_ABSENT else None
        for key in keys:
            own = fields[key]
            found[key] = {path: own.get(path) for path in few or sorted(paths & own.keys())}
    return found


def _differing_paths(boards: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the paths that some of the boards lack or in which they have different values."""
    counts = Counter(path for board in boards for path in board)
    first: dict[str, Any] = {}
    differing = {path for path, count in counts.items() if count < len(boards)}
    for board in boards:
        differing |= {path for path, value in board.items() if first.setdefault(path, value) != value}
    return differing


def _board(
    key: BoardKey,
    members: list[Record],
    differs: dict[str, Any],
    superseded: Mapping[str, int],
    disputed: Collection[str],
) -> Board:
    fields = _fields(members[0])
    groups = _groups(members, superseded, disputed)
    dense = max((g for g in groups if g.control == "dense" and g.done), key=lambda g: len(g.done), default=None)
    levels = chance_levels([run for group in groups for run in group.done.values()])
    rows = {id(group): mark_chance(build_row(group, dense.done if dense else {}), levels) for group in groups}
    control = rows[id(dense)] if dense else None
    found = tuple(sorted(rank_rows(list(rows.values())), key=lambda row: (row is not control, *sort_key(row))))
    points = tuple(sorted({row.target for row in found if row.target is not None and not row.off_target}))
    return Board(
        dataset=key[0],
        model=key[1],
        track=key[2],
        fingerprint=key[3],
        fields=fields,
        differs=differs,
        dense=control,
        points=points,
        rows=found,
        curves=build_curves(found, points, control),
        missing_controls=_missing_controls(key[2], groups),
        chance_levels=levels,
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
    copies: dict[str, list[Record]] = defaultdict(list)
    for record in members:
        copies[record["hash"]].append(record)
    for record in _without_copies(members):
        key = _row_key(record)
        variant = taken[key, record["seed"]]
        taken[key, record["seed"]] += 1
        group = groups.setdefault((key, variant), RowGroup(variant, disputed))
        group.runs.append(record)
        group.repeats += len(copies[record["hash"]]) - 1
        group.conflicting += [record["seed"]] if _differ(copies[record["hash"]]) else []
        group.superseded += superseded.get(record["hash"], 0)
    return list(groups.values())


def _differ(copies: list[Record]) -> bool:
    """Return whether finished records of one run have different measurements, so that some of them are wrong."""
    finished = [record for record in copies if record["status"] == "done"]
    if len(finished) < 2:
        return False
    first = measurements(finished[0])
    return any(measurements(other) != first for other in finished[1:])


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
    # Adding 0.0 turns -0.0 into 0.0: they are the same sparsity.
    return json.dumps([*identity, None if target is None else float(target) + 0.0], sort_keys=True)
