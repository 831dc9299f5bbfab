"""Records to leaderboards: one table per board, one row per method and operating point. Pure functions.

Rows of different fingerprints never share a table: another recipe, batch size or split is another question.
Nothing is ever dropped in silence: a failed run is counted in its row, a seed that cannot be paired is named.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pruneboard import stats
from pruneboard.record import Record, look
from pruneboard.stats import Estimate

OWN_DISTRIBUTION = "pruneboard"
"""Only methods of this distribution may call themselves a control."""

_LEARNED = {"steps", "prunable"}  # board fields that a run knows only once it is under way
_PAIRED_BY = ("model.initial_sha256", "data.split_sha256", "data.order_sha256")


@dataclass(frozen=True)
class Failure:
    """A run that did not finish: a part of its row, never a gap."""

    seed: int
    status: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method, in one version and with one set of options, at one target sparsity.

    Attributes:
        method: name of the pruner.
        distribution: the package it came from.
        version: that package's version.
        options: the pruner's own options.
        ablation: what was done to the finished mask before it was measured, or None.
        variant: 0, or 1, 2, ... where records that agree in all of the above differ at one and the same seed.
        control: `dense`, `floor`, `baseline` or None.
        target: the sparsity asked for; None for a control that prunes nothing.
        seeds: seeds of the finished runs.
        top1: test top-1, a fraction; None when no run finished.
        drop: dense control minus this row, paired by seed; positive means accuracy was lost.
        unpaired: seeds both have, but with other initial weights, another split or order: not in `drop`.
        measured: mean measured sparsity.
        off_target: the method does not promise the target, or a run missed the exact rounding of it.
        compression: 1 / (1 - measured).
        macs_remaining: multiply-adds of the pruned network as a fraction of the dense one's.
        relative_train_macs: training multiply-adds relative to the dense run's.
        forward_passes: mean forward passes per training step, before hardening.
        wall_seconds: mean seconds of a whole run.
        failures: the runs that did not finish.
        repeats: further copies of the same run (equal hash), which do not count.
        superseded: finished records that later runs of this row replaced with --force.
        rank: 1, 2, ... by mean top-1 among the rows of this operating point with two seeds or more.
    """

    method: str
    distribution: str
    version: str
    options: Mapping[str, Any]
    ablation: str | None
    variant: int
    control: str | None
    target: float | None
    seeds: tuple[int, ...]
    top1: Estimate | None
    drop: Estimate | None
    unpaired: tuple[int, ...]
    measured: float | None
    off_target: bool
    compression: float | None
    macs_remaining: float | None
    relative_train_macs: float | None
    forward_passes: float | None
    wall_seconds: float | None
    failures: tuple[Failure, ...]
    repeats: int
    superseded: int
    rank: int | None = None

    @property
    def n(self) -> int:
        """Number of finished seeds."""
        return len(self.seeds)

    @property
    def label(self) -> str:
        """What that number of seeds is worth: `none`, `single`, `provisional`, `official`."""
        return stats.label(self.n)

    @property
    def point(self) -> float | None:
        """The operating point: the target, or the measured sparsity of a row that is off target."""
        return self.measured if self.off_target and self.measured is not None else self.target


@dataclass(frozen=True, kw_only=True)
class Board:
    """One table: every row was trained alike.

    Attributes:
        dataset: name of the data set.
        model: name of the model.
        track: `prune` or `supermask`.
        fingerprint: the 12 digits that name the board.
        fields: what the fingerprint covers.
        differs: the fields, by dotted path, in which boards of the same data, model and track differ.
        dense: the dense control that drops are measured against; of several, the one with most seeds.
        rows: the dense control first, then by sparsity, then by falling top-1.
    """

    dataset: str
    model: str
    track: str
    fingerprint: str
    fields: Mapping[str, Any]
    differs: Mapping[str, Any]
    dense: Row | None
    rows: tuple[Row, ...]


def build(records: Iterable[Record], superseded: Mapping[str, int] | None = None) -> list[Board]:
    """Group validated records into boards.

    Args:
        records: as `store.scan` returns them; of two copies of one run (equal hash) a finished one counts,
            else the first.
        superseded: hash -> finished records that this one replaced.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[_board_key(record)].append(record)
    _adopt(groups)
    siblings: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for key, members in groups.items():
        siblings[key[:3]].append(_flat(_fields(members[0])))
    return [_board(key, groups[key], siblings[key[:3]], superseded or {}) for key in sorted(groups)]


@dataclass
class _Group:
    """The runs of one row."""

    variant: int
    runs: list[Record] = field(default_factory=list)
    repeats: int = 0
    superseded: int = 0

    @property
    def done(self) -> dict[int, Record]:
        return {run["seed"]: run for run in self.runs if run["status"] == "done"}

    @property
    def control(self) -> str | None:
        method = self.runs[0]["method"]
        control: str | None = method["traits"]["control"]
        return control if method["distribution"] == OWN_DISTRIBUTION else None


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


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> leaf, so that one changed field of a recipe can be named."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) and item else {f"{prefix}{key}": item}
    return flat


def _differences(own: Mapping[str, Any], siblings: list[dict[str, Any]]) -> dict[str, Any]:
    paths = sorted({path for other in siblings for path in other})
    absent = object()
    return {p: own.get(p) for p in paths if any(other.get(p, absent) != own.get(p, absent) for other in siblings)}


def _board(
    key: tuple[str, str, str, str],
    members: list[Record],
    siblings: list[dict[str, Any]],
    superseded: Mapping[str, int],
) -> Board:
    fields = _fields(members[0])
    groups = _groups(members, superseded)
    dense = max((g for g in groups if g.control == "dense" and g.done), key=lambda g: len(g.done), default=None)
    rows = {id(group): _row(group, dense.done if dense else {}) for group in groups}
    control = rows[id(dense)] if dense else None
    return Board(
        dataset=key[0],
        model=key[1],
        track=key[2],
        fingerprint=key[3],
        fields=fields,
        differs=_differences(_flat(fields), siblings),
        dense=control,
        rows=tuple(sorted(_ranked(list(rows.values())), key=lambda row: (row is not control, *_order(row)))),
    )


def _groups(members: list[Record], superseded: Mapping[str, int]) -> list[_Group]:
    """Return the runs row by row.

    Runs that agree in everything a row shows and still are different runs of one seed go to rows of their
    own: averaging them would count one seed twice.
    """
    groups: dict[tuple[str, int], _Group] = {}
    taken: Counter[tuple[str, int]] = Counter()
    copies = Counter(record["hash"] for record in members)
    for record in _without_copies(members):
        key = _row_key(record)
        variant = taken[key, record["seed"]]
        taken[key, record["seed"]] += 1
        group = groups.setdefault((key, variant), _Group(variant))
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


def _row(group: _Group, reference: Mapping[int, Record]) -> Row:
    first, done = group.runs[0], group.done
    method, target = first["method"], first["sparsity"]["target"]
    shared = {seed: run for seed, run in done.items() if seed in reference and group.control != "dense"}
    paired = {seed: run for seed, run in shared.items() if _same_start(run, reference[seed])}
    measured = _mean(done, lambda run: run["sparsity"]["measured"])
    return Row(
        method=method["name"],
        distribution=method["distribution"],
        version=method["version"],
        options=method["options"],
        ablation=method.get("ablation"),
        variant=group.variant,
        control=group.control,
        target=target,
        seeds=tuple(sorted(done)),
        top1=stats.estimate([_top1(done[seed]) for seed in sorted(done)]) if done else None,
        drop=stats.paired(
            {seed: _top1(reference[seed]) for seed in paired}, {seed: _top1(run) for seed, run in paired.items()}
        ),
        unpaired=tuple(sorted(shared.keys() - paired.keys())),
        measured=measured,
        off_target=any(_is_off_target(run) for run in done.values()),
        compression=None if measured in (None, 1) else 1 / (1 - measured),
        macs_remaining=_mean(done, _macs_remaining),
        relative_train_macs=_mean(done, lambda run: look(run, "cost.relative_train_macs")),
        forward_passes=_mean(done, lambda run: run["cost"]["forward_passes"]),
        wall_seconds=_mean(done, lambda run: run["cost"]["wall_seconds"]),
        failures=tuple(sorted((_failure(r) for r in group.runs if r["status"] != "done"), key=lambda f: f.seed)),
        repeats=group.repeats,
        superseded=group.superseded,
    )


def _top1(run: Record) -> float:
    return float(run["metrics"]["test"]["top1"])


def _same_start(run: Record, dense: Record) -> bool:
    return all(look(run, path) == look(dense, path) for path in _PAIRED_BY)


def _is_off_target(run: Record) -> bool:
    sparsity = run["sparsity"]
    target, n = sparsity["target"], sparsity["prunable"]
    if target is None:
        return False
    # Positions count, not non-zeros: a kept weight may be 0.0 by chance, within the audit's tolerance.
    exact = sparsity["nonzero"] + sparsity["kept_zero"] == n - round(target * n)
    return not (run["method"]["traits"]["hits_target"] and exact)


def _macs_remaining(run: Record) -> float | None:
    dense, left = look(run, "cost.macs_dense"), look(run, "cost.macs_remaining")
    return left / dense if dense and left is not None else None


def _mean(done: Mapping[int, Record], value: Callable[[Record], float | None]) -> float | None:
    """Average over the runs; None unless every one has the value, since a mean over some would mislead."""
    values = [value(run) for run in done.values()]
    known = [item for item in values if item is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _failure(run: Record) -> Failure:
    return Failure(run["seed"], run["status"], (run["error"] or {}).get("message", ""))


def _ranked(rows: list[Row]) -> list[Row]:
    """Number the rows of each operating point by mean top-1; equal means share a rank.

    One seed is never ranked, nor is a row off its target, which has an operating point of its own, nor an
    ablation, which is no method.
    """
    means: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if _may_rank(row) and row.target is not None and row.top1:
            means[row.target].append(row.top1.mean)
    return [_with_rank(row, means) for row in rows]


def _may_rank(row: Row) -> bool:
    return row.n >= 2 and not row.off_target and row.control != "dense" and row.ablation is None


def _with_rank(row: Row, means: Mapping[float, list[float]]) -> Row:
    rivals = means.get(row.target, []) if row.target is not None else []
    if not _may_rank(row) or row.top1 is None or len(rivals) < 2:
        return row
    return dataclasses.replace(row, rank=1 + sum(mean > row.top1.mean for mean in rivals))


def _order(row: Row) -> tuple[Any, ...]:
    point = -1.0 if row.point is None else row.point
    accuracy = -row.top1.mean if row.top1 else 1.0
    return row.control != "dense", point, accuracy, row.method, row.distribution, row.version, row.variant
