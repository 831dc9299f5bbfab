"""The plan of a sweep: all runs of a board file in the order of execution, each with the status of its record."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from pruneboard import registry
from pruneboard.data import Dataset, dataset_cache
from pruneboard.errors import DataError, UnknownNameError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.processes import phases
from pruneboard.records import store
from pruneboard.spec import RunSpec, TrackName
from pruneboard.sweeps.board_file import BoardData, BoardFile, BoardMethod

MAX_RUNS = 100_000
"""Maximum number of runs of one board: a short file can ask for more runs than fit into the memory."""

_Row = tuple[BoardMethod, str, float | None]
"""Method, track and sparsity: what the runs of one row of the leaderboard have in common."""


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Settings that depend on the machine, not on the board. They are not part of a content hash.

    Attributes:
        results: folder that contains one folder per run.
        data_dir: folder of the data set.
        download: download the data set if it is missing.
        check_images: decode every image file once when the plan is made.
        device: `auto`, `cpu` or `cuda`.
        procs: processes per run.
    """

    results: str
    data_dir: str | None = None
    download: bool = False
    check_images: bool = False
    device: str = "auto"
    procs: int = 1


@dataclass(frozen=True)
class PlannedRun:
    """One run of a board.

    Attributes:
        spec: the run.
        hash: its content hash; empty if the data set was not read.
        folder: folder of its record.
        status: status of the existing record, `missing` without one, or `unknown` if the data set was not read.
        notes: what a user should know about its data, in lines of text.
    """

    spec: RunSpec
    hash: str
    folder: Path
    status: str
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Method, options, sparsity, model, track and seed in one line."""
        spec = self.spec
        options = "".join(f" {name}={value}" for name, value in sorted(spec.options.items()))
        ablation = f" {spec.ablation}" if spec.ablation else ""
        point = "" if spec.sparsity is None else f" at {spec.sparsity:g}"
        return f"{spec.method}{options}{ablation}{point}, {spec.model}, {spec.track}, seed {spec.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a board in the order of execution."""

    board: BoardFile
    runs: tuple[PlannedRun, ...]

    def missing(self, *, retry_failed: bool = False) -> list[PlannedRun]:
        """Return the runs to execute: those without a record, interrupted ones, and with `retry_failed` failed ones."""
        left = {"missing", "interrupted", "unknown"}
        return [run for run in self.runs if run.status in left or (retry_failed and run.status != "done")]

    def counts(self) -> dict[str, int]:
        """Return status -> number of runs."""
        return dict(sorted(Counter(run.status for run in self.runs).items()))

    def notes(self) -> list[str]:
        """Return the distinct notes of all runs."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))


def make_plan(board: BoardFile, specs: Sequence[RunSpec]) -> SweepPlan:
    """Resolve the specs of a board and read the status of their records. Trains nothing and writes no file.

    Raises:
        UsageError: a run is not possible, for any reason for which `pruneboard run` would refuse it; or two rows of the
            board are the same run.
    """
    with dataset_cache():
        runs = tuple(_planned(spec, board.data) for spec in phases.counted("planning: run", specs, len(specs)))
    _check_distinct(board, runs)
    return SweepPlan(board, runs)


def _check_distinct(board: BoardFile, runs: Iterable[PlannedRun]) -> None:
    """Refuse two rows with the same run, such as one that omits an option and one that states its default."""
    labels: dict[str, str] = {}
    for run in runs:
        if run.hash in labels:
            raise UsageError(
                f"two rows of board {board.name} are the same run, {labels[run.hash]!r} and {run.label!r}: "
                "remove one of them"
            )
        labels[run.hash] = run.label


def make_plan_without_data(board: BoardFile, specs: Iterable[RunSpec]) -> SweepPlan:
    """Return the runs of a board without reading its data set; their status is `unknown`.

    A content hash includes the data, so without the data the folder of a run cannot be found.
    """
    return SweepPlan(board, tuple(PlannedRun(spec, "", Path(spec.results), "unknown") for spec in specs))


def board_specs(
    board: BoardFile, machine: MachineSettings, *, only: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """Return the specs of a board's runs: the dense control first, then all rows of one seed after another.

    With this order every row has a control to be compared with, and early results are complete seeds.

    Args:
        board: the board.
        machine: settings of this machine.
        only: names of methods; empty for all methods of the board.
        seeds: seeds; None for all seeds of the board.

    Raises:
        UsageError: a method is not installed or supports no track of the board, or the board has no such seed.
    """
    _check_selection(board, only, seeds)
    methods = [method for method in board.methods if not only or method.name in only]
    chosen = [seed for seed in board.seeds if seeds is None or seed in seeds]
    # Only controls take no sparsity. `sorted` is stable, so the order of seeds remains.
    return sorted(_specs(board, machine, methods, chosen), key=lambda spec: spec.sparsity is not None)


def _check_selection(board: BoardFile, only: Sequence[str], seeds: Sequence[int] | None) -> None:
    names = {method.name for method in board.methods}
    for name in only:
        if name not in names:
            raise UnknownNameError(f"method of board {board.name}:", name, names)
    for seed in seeds or ():
        if seed not in board.seeds:
            raise UsageError(f"board {board.name} has no seed {seed}: its seeds are {', '.join(map(str, board.seeds))}")


def _specs(
    board: BoardFile, machine: MachineSettings, methods: Sequence[BoardMethod], seeds: Sequence[int]
) -> Iterator[RunSpec]:
    rows = [row for method in methods for row in _rows(board, method)]
    if (count := len(rows) * len(seeds) * len(board.models)) > MAX_RUNS:
        raise UsageError(f"board {board.name} has {count:,} runs; at most {MAX_RUNS:,} are planned: use several boards")
    for seed in seeds:
        for model in board.models:
            for row in rows:
                yield _spec(board, machine, row, model, seed)


def _rows(board: BoardFile, method: BoardMethod) -> list[_Row]:
    """Return the rows of a method; the sparsity is None for a method without one."""
    cls = registry.load(registry.find(method.name))
    # On the prune track the weights were trained together with the mask, so replacing one of them measures nothing.
    allowed = cls.tracks & {"supermask"} if method.ablation else cls.tracks
    supported = [track for track in board.tracks if track in allowed]
    tracks = method.tracks or supported
    refused = [track for track in tracks if track not in supported]
    if refused or not tracks:
        names = ", ".join(refused or board.tracks)
        ablation = f" with ablation {method.ablation}" if method.ablation else ""
        raise UsageError(
            f"method {method.name!r}{ablation} does not run on track {names} of board {board.name}; "
            f"it runs on {', '.join(sorted(allowed)) or 'none'}"
        )
    if registry.takes_sparsity(cls):
        points = [(track, point) for track in tracks for point in board.tracks[track].sparsities]
        chosen = method.sparsities or {point for _, point in points}
        return [(method, track, point) for track, point in points if point in chosen]
    return [(method, track, None) for track in tracks]


def _spec(board: BoardFile, machine: MachineSettings, row: _Row, model: str, seed: int) -> RunSpec:
    method, track, sparsity = row
    return RunSpec(
        method=method.name,
        model=model,
        sparsity=sparsity,
        options=method.options,
        track=cast("TrackName", track),
        dataset=board.data.name,
        data_dir=machine.data_dir,
        download=machine.download,
        check_images=machine.check_images,
        recipe=board.recipe,
        overrides=board.training,
        seed=seed,
        tuning_trials=method.tuning.trials,
        tuning_source=method.tuning.source,
        limit_train=board.data.limit_train,
        init=board.tracks[track].init,
        ablation=method.ablation,
        stem=board.stem,
        precision=board.precision,
        procs=machine.procs,
        device=machine.device,
        results=machine.results,
    )


def _planned(spec: RunSpec, data: BoardData) -> PlannedRun:
    job, dataset = prepare(spec)
    _check_dataset(dataset, data)
    found = store.status(job.folder / store.RUN)
    if found == "done" and store.finished(job.folder, job.hash) is None:
        found = None  # a different run: the folder name contains only the first 8 of the 64 digits of the hash
    checked = replace(spec, check_images=False)  # once per sweep, not in every run
    return PlannedRun(checked, job.hash, job.folder, found or "missing", dataset.notes)


def _check_dataset(dataset: Dataset, data: BoardData) -> None:
    """Refuse a data set that differs from the one that the board file describes.

    Raises:
        DataError: the number of images or classes is different.
    """
    pool = len(dataset.train) + len(dataset.validation)
    for what, expected, found in (
        ("training images", data.train, pool),
        ("test images", data.test, len(dataset.test)),
        ("classes", data.classes, len(dataset.classes)),
    ):
        if expected != found:
            raise DataError(
                f"the board file states {expected:,} {what}, but {dataset.name} has {found:,}: point --data-dir at the "
                "right images, or change [data] in the board file, which makes it a different board"
            )


_NOT_FLAGS = {"options", "overrides", "force"}


def run_command(spec: RunSpec) -> str:
    """Return the `pruneboard run` command line of a spec, quoted for a shell."""
    words = ["pruneboard", "run"]
    for item in fields(RunSpec):
        value = getattr(spec, item.name)
        if item.name not in _NOT_FLAGS and value != item.default:
            words += _flag(item.name, value)
    for name, value in spec.overrides.items():
        words += _flag(name, value)
    for name, value in spec.options.items():
        words += ["--option", f"{name}={value}"]
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, str(value)]
