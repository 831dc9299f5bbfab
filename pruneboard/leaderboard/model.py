"""The data classes of a leaderboard: boards with their rows and curves, the runs behind them, and unusable files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import MeanEstimate
from pruneboard.records.schema import Record

RowIdentity = tuple[str, str, str, str, str, int]
"""Identifies a method across operating points; see `Row.identity`."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish or is disputed. It is counted in its row."""

    seed: int
    status: str
    message: str


@dataclass(frozen=True, order=True)
class Tuning:
    """How the options of a run were chosen, according to its record.

    Attributes:
        trials: number of option sets that were tried on the data of the board; 0 if the options were not tuned on it.
        source: the paper or search that the options come from; empty if unknown.
    """

    trials: int
    source: str


@dataclass(frozen=True)
class LayerShare:
    """One prunable layer, averaged over a row's seeds.

    Attributes:
        name: name of the module.
        n: number of its weights.
        sparsity: mean fraction of zeros.
    """

    name: str
    n: int
    sparsity: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method, with its version and options, at one target sparsity.

    Attributes:
        method: name of the pruner.
        distribution: Python distribution that provides it.
        version: version of that distribution.
        options: options of the pruner.
        ablation: how the final mask was changed before it was measured, or None.
        variant: 0, or 1, 2, ... for further runs with the same seed that agree in all fields above.
        control: `dense`, `floor`, `baseline` or None.
        target: requested sparsity; None for a control that does not prune.
        by_seed: seed -> test top-1 of the finished run, a fraction.
        starts: seed -> digest of initial weights, split and order of images. Runs are paired only if it is equal.
        hashes: content hashes of the finished runs, in the order of `by_seed`.
        top1: mean test top-1; None if no run finished.
        drop: dense control minus this row, paired by seed; positive if accuracy was lost.
        unpaired: seeds that both rows have, but with different starts; they are not part of `drop`.
        measured: mean measured sparsity.
        off_target: the method declares `hits_target=False`, or a run missed its exact rounding.
        effective: mean fraction of weights that are 0 or disconnected from input or output; None unless all runs
            have it.
        compression: 1 / (1 - measured).
        macs_remaining: multiply-adds of the pruned network as a fraction of the dense network's.
        relative_train_macs: multiply-adds of the whole training, relative to the dense run.
        forward_passes: mean number of forward passes per training step, before hardening.
        validations: mean number of validations while it hardened; None if a record does not state it.
        writes_weights: whether the method declares that it changes weights when it hardens.
        wall_seconds: mean duration of a run, in seconds.
        hook_seconds: mean seconds of a run spent in the method's own code.
        peak_memory_bytes: mean peak memory of a run.
        storage_bits: mean number of bits to store the network, on the supermask track.
        layers: sparsity of each layer; empty if the runs have different layers.
        failures: runs that did not finish or are disputed.
        codes: digests of the method's code in the finished runs; several digests with one version are reported.
        tunings: how the options of the finished runs were chosen; empty if no record contains it.
        repeats: number of further copies of the same runs (equal hash), which are not counted.
        superseded: number of finished records that runs of this row replaced with --force.
        conflicting: seeds whose copies of one run differ in their measurements; the row uses the first copy.
        same_weights: seeds whose final weights are also those of another seed, so that they are not independent.
        rank: 1, 2, ... by mean top-1 among the rows with two or more seeds at this operating point.
        rank_low: the better end of the bootstrap interval of the rank.
        rank_high: the worse end.
        leads: whether the interval of the paired difference to the runner-up lies above 0.
        at_chance: the level of `Board.chance_levels` that the 95 % interval of `top1` does not lie above, or None. Such
            a row has no rank.
        above_baseline: P(this row > the baseline control) for a common seed, with its interval.
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
    top1: MeanEstimate | None
    drop: MeanEstimate | None
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
    conflicting: tuple[int, ...] = ()
    same_weights: tuple[int, ...] = ()
    validations: float | None = None
    writes_weights: bool = False
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    leads: bool = False
    at_chance: str | None = None
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
        """The status that follows from the number of seeds: `none`, `single`, `provisional` or `official`."""
        return stats.label(self.n)

    @property
    def point(self) -> float | None:
        """The operating point: the target sparsity, or the measured sparsity if the row is off target."""
        return self.measured if self.off_target and self.measured is not None else self.target

    def pairs(self, other: Row) -> tuple[dict[int, float], dict[int, float]]:
        """Return both rows' top-1 by seed, for the seeds at which both runs started from the same state."""
        shared = [seed for seed in self.by_seed if self.starts[seed] == other.starts.get(seed)]
        return {seed: self.by_seed[seed] for seed in shared}, {seed: other.by_seed[seed] for seed in shared}

    @cached_property
    def identity(self) -> RowIdentity:
        """Identifies the method across operating points: name, distribution, version, options, ablation, variant."""
        options = json.dumps(self.options, sort_keys=True)
        return self.method, self.distribution, self.version, options, self.ablation or "", self.variant


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method over the operating points of its board.

    Attributes:
        rows: rows of the method, in order of increasing sparsity.
        missing: operating points of the board at which the method has no run; the first 100 of them.
        area: mean drop against the dense control over log2 of the compression; None for fewer than two points.
        coverage: fraction of the board's operating points that the method finished.
    """

    rows: tuple[Row, ...]
    missing: tuple[float, ...]
    area: stats.Interval | None
    coverage: float


@dataclass(frozen=True, kw_only=True)
class Board:
    """One table, of runs that were trained in the same way.

    Attributes:
        dataset: name of the data set.
        model: name of the model.
        track: `prune` or `supermask`.
        fingerprint: 12 hexadecimal digits that identify the board.
        fields: the fields that the fingerprint covers.
        differs: dotted path -> value of the fields in which boards of the same data, model and track differ;
            None for a field that this board lacks (left out if there are more than 100 such fields in all).
        dense: the dense control, against which drops are measured; the one with most seeds if there are several.
        points: operating points in increasing order: the target sparsities of all rows that are on target.
        rows: the dense control, then all rows by sparsity, then by decreasing top-1.
        curves: one per method with a target sparsity, by increasing area; curves without an area are last.
        missing_controls: required controls without a finished run (`dense`, `floor`, `baseline`).
        chance_levels: name -> top-1 that needs no training: `chance` (1 / classes) and `majority class` (always
            answering the most frequent class of the test split), as far as the records contain them.
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
    chance_levels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One record in the page's list of runs.

    Attributes:
        path: where the record was read, relative to the given folders. Only shown, never opened.
        record: the complete record.
        verdict: the worst verdict of this user's `pruneboard verify` on any copy of the run, `claimed` if somebody else
            wrote it; None if the run was not verified.
    """

    path: str
    record: Record
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Everything that was read from the given folders.

    Attributes:
        boards: sorted by data, model, track and fingerprint.
        runs: the runs whose details are shown, newest first.
        total: number of records.
        standings: track -> comparison of its methods over several boards.
        problems: (path, reason) of every file that is not a usable record.
        verdicts: content hash -> verdict, as in `RunEntry`.
        published: fingerprint -> numbers from the literature to draw on that board; never ranked.
    """

    boards: tuple[Board, ...]
    runs: tuple[RunEntry, ...] = ()
    total: int = 0
    standings: Mapping[str, stats.MethodComparison] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number from the literature.

    Attributes:
        method: name in the source.
        dataset, model: names in pruneboard if known there, otherwise names in the source.
        weights: the least and the greatest number of the network's weights before pruning that the source can mean.
            None if it is unknown and `model` is the name in the file.
        sparsity: a fraction, as counted by the source.
        top1: a fraction.
        top1_sd: standard deviation of `top1`, if the source gives one.
        dense_top1: top-1 of the source's dense network, if given.
        track: `prune` or `supermask`.
        source: the publication.
        place: table or figure in the source.
        note: remarks.
    """

    method: str
    dataset: str
    model: str
    weights: tuple[float, float] | None = None
    sparsity: float
    top1: float
    top1_sd: float | None
    dense_top1: float | None
    track: str
    source: str
    place: str
    note: str
