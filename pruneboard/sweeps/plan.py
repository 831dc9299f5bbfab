"""From a board file to its runs: which there are, in which order, and which are done."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from pruneboard import registry
from pruneboard.data import Dataset, dataset_cache
from pruneboard.errors import DataError, UnknownNameError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.records import store
from pruneboard.spec import RunSpec, TrackName
from pruneboard.sweeps.board_file import BoardFile, Entry, Images


@dataclass(frozen=True, kw_only=True)
class Place:
    """What belongs to a machine and not to a board; none of it decides a result.

    Attributes:
        results: folder that holds one folder per run.
        data_dir: where the images are.
        download: fetch them where they are not there.
        device: `auto`, `cpu` or `cuda`.
        procs: processes per run.
    """

    results: str
    data_dir: str | None = None
    download: bool = False
    device: str = "auto"
    procs: int = 1


@dataclass(frozen=True)
class Cell:
    """One run of a board.

    Attributes:
        spec: what to run.
        hash: its content hash.
        folder: where its record goes.
        status: of the record that is there, or `missing`.
    """

    spec: RunSpec
    hash: str
    folder: Path
    status: str

    @property
    def label(self) -> str:
        """The run in a few words."""
        spec = self.spec
        options = "".join(f" {name}={value}" for name, value in sorted(spec.options.items()))
        ablation = f" {spec.ablation}" if spec.ablation else ""
        point = "" if spec.sparsity is None else f" at {spec.sparsity:g}"
        return f"{spec.method}{options}{ablation}{point}, {spec.model}, {spec.track}, seed {spec.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a board, in the order in which they are carried out."""

    board: BoardFile
    cells: tuple[Cell, ...]

    def missing(self, *, retry_failed: bool = False) -> list[Cell]:
        """Return what there is to do: runs without a record and interrupted ones, with `retry_failed` failed ones."""
        left = {"missing", "interrupted", "unknown"}
        return [c for c in self.cells if c.status in left or (retry_failed and c.status != "done")]

    def counts(self) -> dict[str, int]:
        """Return status -> number of runs."""
        return dict(sorted(Counter(cell.status for cell in self.cells).items()))


def make_plan(board: BoardFile, place: Place, *, only: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Plan:
    """Resolve every run of a board, and look which are done. Trains and writes nothing.

    Args:
        board: what to run.
        place: on which machine.
        only: methods; empty is all of them.
        seeds: seeds; None is all of the board's.

    Raises:
        UsageError: anything that a single run would be refused for.
    """
    with dataset_cache():
        cells = tuple(_cell(spec, board.data) for spec in specs(board, place, only=only, seeds=seeds))
    _check_distinct(board, cells)
    return Plan(board, cells)


def _check_distinct(board: BoardFile, cells: Iterable[Cell]) -> None:
    """Refuse a run that two rows ask for, such as with an option left out and with its default written down."""
    labels: dict[str, str] = {}
    for cell in cells:
        if cell.hash in labels:
            raise UsageError(
                f"two rows of board {board.name} ask for the same run, {labels[cell.hash]!r} and {cell.label!r}: "
                "take one of them out"
            )
        labels[cell.hash] = cell.label


def unknown_plan(
    board: BoardFile, place: Place, *, only: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Plan:
    """Return the runs of a board where its images are not: which of them are done cannot be told."""
    listed = specs(board, place, only=only, seeds=seeds)
    return Plan(board, tuple(Cell(spec, "", Path(place.results), "unknown") for spec in listed))


def specs(
    board: BoardFile, place: Place, *, only: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """Return the runs of a board: its dense control first, then seed by seed, so that early results are whole seeds.

    Raises:
        UsageError: a method that is not installed or has no track of the board, or a seed that the board has not.
    """
    _check_asked(board, only, seeds)
    entries = [entry for entry in board.methods if not only or entry.name in only]
    chosen = [seed for seed in board.seeds if seeds is None or seed in seeds]
    # Only a control takes no sparsity; `sorted` is stable.
    return sorted(_specs(board, place, entries, chosen), key=lambda spec: spec.sparsity is not None)


def _check_asked(board: BoardFile, only: Sequence[str], seeds: Sequence[int] | None) -> None:
    names = {entry.name for entry in board.methods}
    for name in only:
        if name not in names:
            raise UnknownNameError(f"method of board {board.name}:", name, names)
    for seed in seeds or ():
        if seed not in board.seeds:
            raise UsageError(f"board {board.name} has no seed {seed}: its seeds are {', '.join(map(str, board.seeds))}")


def _specs(board: BoardFile, place: Place, entries: Sequence[Entry], seeds: Iterable[int]) -> Iterator[RunSpec]:
    rows = [(entry, track, point) for entry in entries for track, point in _rows(board, entry)]
    for seed in seeds:
        for model in board.models:
            for entry, track, point in rows:
                yield _spec(board, place, entry, track, point, model, seed)


def _rows(board: BoardFile, entry: Entry) -> list[tuple[str, float | None]]:
    """Return track and operating point of every row of a method; a method that takes no sparsity has one."""
    info = registry.find(entry.name)
    cls = registry.load(info)
    known = {"supermask"} if entry.ablation else cls.tracks  # an ablation needs weights that no mask was trained with
    supported = [track for track in board.tracks if track in cls.tracks and track in known]
    tracks = entry.tracks or supported
    refused = [track for track in tracks if track not in supported]
    if refused or not tracks:
        names = ", ".join(refused or board.tracks)
        ablation = f" with ablation {entry.ablation}" if entry.ablation else ""
        raise UsageError(
            f"method {entry.name!r}{ablation} does not run on track {names} of board {board.name}; "
            f"it runs on {', '.join(sorted(known & cls.tracks)) or 'none'}"
        )
    if registry.takes_sparsity(cls):
        points = [(track, point) for track in tracks for point in board.tracks[track].sparsities]
        return [(track, point) for track, point in points if not entry.sparsities or point in entry.sparsities]
    return [(track, None) for track in tracks]


def _spec(
    board: BoardFile, place: Place, entry: Entry, track: str, point: float | None, model: str, seed: int
) -> RunSpec:
    return RunSpec(
        method=entry.name,
        model=model,
        sparsity=point,
        options=entry.options,
        track=cast("TrackName", track),
        dataset=board.data.name,
        data_dir=place.data_dir,
        download=place.download,
        recipe=board.recipe,
        overrides=board.training,
        seed=seed,
        tuning_trials=entry.tuning.trials,
        tuning_source=entry.tuning.source,
        limit_train=board.data.limit_train,
        init=board.tracks[track].init,
        ablation=entry.ablation,
        stem=board.stem,
        precision=board.precision,
        procs=place.procs,
        device=place.device,
        results=place.results,
    )


def _cell(spec: RunSpec, images: Images) -> Cell:
    job, dataset = prepare(spec)
    _check_images(dataset, images)
    found = store.status(job.folder / store.RUN)
    if found == "done" and store.finished(job.folder, job.hash) is None:
        found = None  # eight digits agree and sixty-four do not
    return Cell(spec, job.hash, job.folder, found or "missing")


def _check_images(dataset: Dataset, images: Images) -> None:
    """Refuse other images than the board is about.

    Raises:
        DataError: another number of images or classes.
    """
    pool = len(dataset.train) + len(dataset.validation)
    for what, said, found in (
        ("training images", images.train, pool),
        ("test images", images.test, len(dataset.test)),
        ("classes", images.classes, len(dataset.classes)),
    ):
        if said != found:
            raise DataError(
                f"the board is about {said:,} {what}, and {dataset.name} has {found:,}: point --data-dir at the right "
                "images, or change [data] in the board file, which makes it another board"
            )


_FLAGS = {"options", "overrides", "force"}


def command(spec: RunSpec) -> str:
    """Return the `pruneboard run` line that carries out one cell, quoted for a shell."""
    words = ["pruneboard", "run"]
    for item in fields(RunSpec):
        value = getattr(spec, item.name)
        if item.name not in _FLAGS and value != item.default:
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
