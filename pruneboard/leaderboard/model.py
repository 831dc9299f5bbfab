"""What a leaderboard is: boards of rows and curves, the runs behind them, what could not be used. Pure data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import Estimate
from pruneboard.records.schema import Record

Identity = tuple[str, str, str, str, str, int]
"""What makes two rows the same method, whatever their sparsity: see `Row.identity`."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish: a part of its row, never a gap."""

    seed: int
    status: str
    message: str


@dataclass(frozen=True, order=True)
class Tuning:
    """How the options of a run were found, as its record says.

    Attributes:
        trials: sets of options that were tried on the board's data before; 0 for none.
        source: a paper, or the search that chose them; empty where nothing is said.
    """

    trials: int
    source: str


@dataclass(frozen=True)
class LayerShare:
    """One prunable layer, averaged over a row's seeds.

    Attributes:
        name: of the module.
        n: its weights.
        sparsity: mean fraction of zeros.
    """

    name: str
    n: int
    sparsity: float


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
        by_seed: test top-1, a fraction, of each finished run.
        starts: what each of them began with, a digest of initial weights, split and order; only equal ones pair.
        hashes: content hashes of the finished runs, in the order of `by_seed`.
        top1: mean test top-1; None when no run finished.
        drop: dense control minus this row, paired by seed; positive means accuracy was lost.
        unpaired: seeds both have, but with other initial weights, another split or order: not in `drop`.
        measured: mean measured sparsity.
        off_target: the method does not promise the target, or a run missed the exact rounding of it.
        effective: mean fraction of weights that are 0 or cut off from input or output; None where a run does not say.
        compression: 1 / (1 - measured).
        macs_remaining: multiply-adds of the pruned network as a fraction of the dense one's.
        relative_train_macs: training multiply-adds relative to the dense run's.
        forward_passes: mean forward passes per training step, before hardening.
        wall_seconds: mean seconds of a whole run.
        hook_seconds: mean seconds of a run spent in the method's own code.
        peak_memory_bytes: mean peak memory of a run.
        storage_bits: mean bits to store the network, on the supermask track.
        layers: sparsity of each layer; empty where the runs' layers differ.
        failures: the runs that did not finish.
        codes: digests of the method's code in the finished runs; more than one under one version is noted.
        tunings: how the options of the finished runs were found; empty where no record says.
        repeats: further copies of the same run (equal hash), which do not count.
        superseded: finished records that later runs of this row replaced with --force.
        rank: 1, 2, ... by mean top-1 among the rows of this operating point with two seeds or more.
        rank_low: the best rank that resampling the seeds leaves plausible.
        rank_high: the worst.
        leads: whether it is ahead of the runner-up by more than the interval of their paired difference.
        above_baseline: P(this row > the baseline control) at a seed, with its interval.
    """

    method: str
    distribution: str
    version: str
    options: Mapping[str, Any]
    ablation: str | None
    variant: int
    control: str | None
    target: float | None
    by_seed: Mapping[int, float]
    starts: Mapping[int, str]
    hashes: tuple[str, ...]
    top1: Estimate | None
    drop: Estimate | None
    unpaired: tuple[int, ...]
    measured: float | None
    off_target: bool
    effective: float | None
    compression: float | None
    macs_remaining: float | None
    relative_train_macs: float | None
    forward_passes: float | None
    wall_seconds: float | None
    hook_seconds: float | None
    peak_memory_bytes: float | None
    storage_bits: float | None
    layers: tuple[LayerShare, ...]
    failures: tuple[Failure, ...]
    codes: tuple[str, ...]
    tunings: tuple[Tuning, ...]
    repeats: int
    superseded: int
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    leads: bool = False
    above_baseline: stats.Interval | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the finished runs."""
        return tuple(self.by_seed)

    @property
    def n(self) -> int:
        """Number of finished seeds."""
        return len(self.by_seed)

    @property
    def label(self) -> str:
        """What that number of seeds is worth: `none`, `single`, `provisional`, `official`."""
        return stats.label(self.n)

    @property
    def point(self) -> float | None:
        """The operating point: the target, or the measured sparsity of a row that is off target."""
        return self.measured if self.off_target and self.measured is not None else self.target

    def pairs(self, other: Row) -> tuple[dict[int, float], dict[int, float]]:
        """Return both rows' values at the seeds at which they began alike."""
        shared = [seed for seed in self.by_seed if self.starts[seed] == other.starts.get(seed)]
        return {seed: self.by_seed[seed] for seed in shared}, {seed: other.by_seed[seed] for seed in shared}

    @cached_property
    def identity(self) -> Identity:
        """What makes two rows the same method, whatever their sparsity."""
        options = json.dumps(self.options, sort_keys=True)
        return self.method, self.distribution, self.version, options, self.ablation or "", self.variant


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method over the operating points of its board.

    Attributes:
        rows: its rows, by rising sparsity.
        missing: operating points of the board at which it has no run at all.
        area: mean drop against the dense control over log2 compression; None with fewer than two points.
        coverage: finished operating points as a fraction of the board's.
    """

    rows: tuple[Row, ...]
    missing: tuple[float, ...]
    area: stats.Interval | None
    coverage: float


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
        points: the operating points, rising: every target sparsity of a row that is not off target.
        rows: the dense control first, then by sparsity, then by falling top-1.
        curves: one per method that has a target, by rising area, those without one last.
        missing_controls: of `dense`, `floor` and `baseline`, those of which no run finished.
    """

    dataset: str
    model: str
    track: str
    fingerprint: str
    fields: Mapping[str, Any]
    differs: Mapping[str, Any]
    dense: Row | None
    points: tuple[float, ...]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    missing_controls: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One record, as the page shows it.

    Attributes:
        path: where it was read, below the folders that were given; text to show, never to follow.
        record: the whole record.
        verdict: what `pruneboard verify` found of the run, the worst of its copies; None where it was not asked.
    """

    path: str
    record: Record
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All there is to show, from one look at some folders.

    Attributes:
        boards: by data, model, track and fingerprint.
        runs: the runs whose details are shown, the newest first.
        total: how many records there are in all.
        standings: track -> its methods over its boards, where there are several.
        problems: (path, reason) of every file that is no usable record.
        verdicts: content hash -> verdict, for rows to count.
        published: numbers from the literature, by the boards they may be drawn on; never ranked.
    """

    boards: tuple[Board, ...]
    runs: tuple[Run, ...] = ()
    total: int = 0
    standings: Mapping[str, stats.Across] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number from the literature.

    Attributes:
        method: as the source calls it.
        dataset, model: by the names they have here, or else as the source calls them.
        sparsity: a fraction, as the source counts it.
        top1: a fraction.
        top1_sd: its standard deviation where the source gives one.
        dense_top1: the source's own dense network.
        track: `prune` or `supermask`.
        source: where it was published.
        place: table or figure there.
        note: what to know about it.
    """

    method: str
    dataset: str
    model: str
    sparsity: float
    top1: float
    top1_sd: float | None
    dense_top1: float | None
    track: str
    source: str
    place: str
    note: str
