"""Builds one row: the means over its finished runs, and the failures of the others."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.model import Failure, LayerShare, Row, Tuning
from pruneboard.records.schema import Record, content_hash, lookup

OWN_DISTRIBUTION = "pruneboard"
"""Only methods of this distribution can be controls."""

DISPUTED = "the record is disputed; run `pruneboard verify` for the reason"

_START_FIELDS = ("model.initial_sha256", "data.split_sha256", "data.order_sha256")
"""Two runs with the same seed are paired if they agree in these fields."""


@dataclass
class RowGroup:
    """The runs of one row.

    Attributes:
        variant: see `Row.variant`.
        disputed: content hashes of disputed runs.
        runs: one record per seed.
        repeats: number of further copies of these runs.
        superseded: number of finished records that these runs replaced.
        conflicting: seeds whose finished records of one run differ in their measurements.
    """

    variant: int
    disputed: Collection[str] = ()
    runs: list[Record] = field(default_factory=list)
    repeats: int = 0
    superseded: int = 0
    conflicting: list[int] = field(default_factory=list)

    @property
    def done(self) -> dict[int, Record]:
        """The finished and undisputed runs, in order of their seeds."""
        return {run["seed"]: run for run in sorted(self.runs, key=_seed) if self._is_valid(run)}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All other runs, in order of their seeds."""
        return tuple(_failure(run) for run in sorted(self.runs, key=_seed) if not self._is_valid(run))

    def _is_valid(self, run: Record) -> bool:
        return run["status"] == "done" and run["hash"] not in self.disputed

    @property
    def control(self) -> str | None:
        """Which control the method is, if it is a built-in control."""
        method = self.runs[0]["method"]
        control: str | None = method["traits"]["control"]
        return control if method["distribution"] == OWN_DISTRIBUTION else None


def build_row(group: RowGroup, reference: Mapping[int, Record]) -> Row:
    """Return the row of a group.

    Args:
        group: the runs of the row.
        reference: seed -> finished run of the dense control.
    """
    first, done = group.runs[0], group.done
    method, target = first["method"], first["sparsity"]["target"]
    starts = {seed: _start(run) for seed, run in done.items()}
    shared = [seed for seed in done if seed in reference and group.control != "dense"]
    paired = [seed for seed in shared if starts[seed] == _start(reference[seed])]
    tops = {seed: _top1(run) for seed, run in done.items()}
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
        by_seed=tops,
        starts=starts,
        hashes=tuple(run["hash"] for run in done.values()),
        top1=stats.estimate(list(tops.values())) if tops else None,
        drop=stats.paired({seed: _top1(reference[seed]) for seed in paired}, {seed: tops[seed] for seed in paired}),
        unpaired=tuple(sorted(set(shared) - set(paired))),
        measured=measured,
        off_target=any(_is_off_target(run) for run in done.values()),
        effective=_mean(done, lambda run: lookup(run, "sparsity.effective")),
        compression=None if measured in (None, 1) else 1 / (1 - measured),
        macs_remaining=_mean(done, _macs_remaining),
        relative_train_macs=_mean(done, lambda run: lookup(run, "cost.relative_train_macs")),
        forward_passes=_mean(done, lambda run: run["cost"]["forward_passes"]),
        wall_seconds=_mean(done, lambda run: run["cost"]["wall_seconds"]),
        hook_seconds=_mean(done, lambda run: lookup(run, "cost.hook_seconds")),
        peak_memory_bytes=_mean(done, lambda run: run["cost"]["peak_memory_bytes"]),
        storage_bits=_mean(done, lambda run: lookup(run, "cost.storage_bits.total")),
        layers=_layers(list(done.values())),
        failures=group.failures,
        codes=tuple(sorted({str(code) for run in done.values() if (code := lookup(run, "software.code.method"))})),
        tunings=tuple(sorted({found for run in done.values() if (found := _tuning(run))})),
        repeats=group.repeats,
        superseded=group.superseded,
        conflicting=tuple(sorted(group.conflicting)),
        same_weights=_same_weights(done),
        validations=_mean(done, lambda run: lookup(run, "cost.validations")),
        writes_weights=any(lookup(run, "method.traits.writes_weights_at_harden") for run in done.values()),
    )


def _top1(run: Record) -> float:
    return float(run["metrics"]["test"]["top1"])


def _start(run: Record) -> str:
    return content_hash({path: lookup(run, path) for path in _START_FIELDS})[:12]


def _same_weights(done: Mapping[int, Record]) -> tuple[int, ...]:
    """Return the seeds whose final weights are also those of another seed."""
    found = {seed: run.get("weights_sha256") for seed, run in done.items()}
    counts = Counter(found.values())
    return tuple(seed for seed, weights in found.items() if weights is not None and counts[weights] > 1)


def _is_off_target(run: Record) -> bool:
    sparsity = run["sparsity"]
    target, n = sparsity["target"], sparsity["prunable"]
    if target is None:
        return False
    # Counts kept positions, not non-zeros: a kept weight can be 0.0 by chance, which the audit tolerates.
    exact = sparsity["nonzero"] + sparsity["kept_zero"] == n - round(target * n)
    return not (run["method"]["traits"]["hits_target"] and exact)


def _macs_remaining(run: Record) -> float | None:
    dense, left = lookup(run, "cost.macs_dense"), lookup(run, "cost.macs_remaining")
    return left / dense if dense and left is not None else None


def _tuning(run: Record) -> Tuning | None:
    trials = lookup(run, "tuning.trials")
    return None if trials is None else Tuning(trials, lookup(run, "tuning.source") or "")


def _mean(done: Mapping[int, Record], value: Callable[[Record], float | None]) -> float | None:
    """Return the mean over the runs, or None unless all have the value: a mean over some of them would mislead."""
    values = [value(run) for run in done.values()]
    known = [item for item in values if item is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _seed(run: Record) -> int:
    return int(run["seed"])


def _failure(run: Record) -> Failure:
    if run["status"] == "done":
        return Failure(run["seed"], "disputed", DISPUTED)
    return Failure(run["seed"], run["status"], (run["error"] or {}).get("message", ""))


def _layers(runs: list[Record]) -> tuple[LayerShare, ...]:
    """Return the mean sparsity of each layer over the runs; nothing if the runs have different layers."""
    shapes = {tuple((layer["name"], layer["n"]) for layer in run["sparsity"]["layers"]) for run in runs}
    if len(shapes) != 1:
        return ()
    nonzero = zip(*([layer["nonzero"] for layer in run["sparsity"]["layers"]] for run in runs), strict=True)
    return tuple(
        LayerShare(name, n, 1 - statistics.fmean(counts) / n)
        for (name, n), counts in zip(shapes.pop(), nonzero, strict=True)
    )
