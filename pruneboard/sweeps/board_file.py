"""Board files: what a leaderboard is made of, as data. TOML -> `BoardFile`; imports no torch.

A board is models x tracks x methods x operating points x seeds under one training. Every key of the file is
known by name: a misspelt one is refused with the nearest that exists, since a setting that is silently ignored
would change what the board measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneboard.coerce import build_dataclass, read_toml
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.spec import ABLATIONS, RECIPE_FIELDS, TRACKS, check_sparsity, default_recipe, load_recipe, recipe_names

SCOPES = ("all",)
"""Which weights a board prunes: every convolution and linear weight, first and last included."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""A board's name is that of a folder and of a file."""

_LISTED = {"models", "seeds", "data", "training", "tracks", "methods"}


@dataclass(frozen=True, kw_only=True)
class Images:
    """`[data]`: which images, and how many of what size, so that a cost can be named before they are there.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `folder` or `imagenet`.
        train: images of the training pool in use, validation included.
        test: images of the test split.
        classes: how many.
        side: of the stored images, in pixels.
        limit_train: use only this many training images, the first of each class; None is all.
    """

    name: str
    train: int
    test: int
    classes: int
    side: int
    limit_train: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts that no data set has."""
        for name in ("train", "test", "classes", "side"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} in [data] is a whole number of 1 or more; found {getattr(self, name)}")
        if self.limit_train is not None and self.limit_train < 1:
            raise UsageError(f"limit_train in [data] is a number of images, 1 or more; found {self.limit_train}")


@dataclass(frozen=True)
class Points:
    """`[tracks.NAME]`: the operating points of one track, and how its weights start.

    Attributes:
        sparsities: rising, each in [0, 1).
        init: as `RunSpec.init`.
    """

    sparsities: tuple[float, ...]
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """`tuning` of a method: how its options were found.

    Attributes:
        trials: sets of options that were tried; 0 for options that were not chosen on this data.
        source: where they come from: a paper, or the search that chose them.
    """

    trials: int = 0
    source: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number of trials, and a source that would not fit a line of `sweep --plan-only`."""
        if self.trials < 0:
            raise UsageError(f"trials is a number of 0 or more; found {self.trials}")
        if self.source is not None and not self.source.isprintable():
            raise UsageError(f"source of a tuning is one line of text; found {self.source!r}")


@dataclass(frozen=True)
class Entry:
    """One of `[[methods]]`: a row per operating point.

    Attributes:
        name: an installed pruner.
        options: its own options.
        tracks: those it enters; empty for every track of the board that it runs on.
        sparsities: operating points, where they are not all of its tracks'; empty for all.
        ablation: as `RunSpec.ablation`.
        tuning: how the options were found.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    tracks: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    ablation: str | None = None
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class BoardFile:
    """A whole board.

    Attributes:
        name: the file's stem.
        title: one line for people.
        models: timm classifiers, or pruneboard's own.
        data: which images.
        tracks: track -> operating points.
        methods: what is compared.
        seeds: of the runs of every row.
        recipe: name or path of the training; None follows the data set.
        training: recipe fields that differ.
        stem: `stock` or `small`; None follows the rule.
        precision: `fp32` or `bf16`.
        scope: which weights are prunable.
    """

    name: str
    title: str
    models: tuple[str, ...]
    data: Images
    tracks: Mapping[str, Points]
    methods: tuple[Entry, ...]
    seeds: tuple[int, ...]
    recipe: str | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    stem: str | None = None
    precision: str = "fp32"
    scope: str = "all"


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The keys of a board file that are single values."""

    title: str = ""
    recipe: str | None = None
    stem: str | None = None
    precision: str = "fp32"
    scope: str = "all"


@dataclass(frozen=True, kw_only=True)
class _Track:
    sparsities: Any
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Method:
    name: str
    options: Any = None
    tracks: Any = None
    sparsities: Any = None
    ablation: str | None = None
    tuning: Any = None


def load_board(path: str | Path) -> BoardFile:
    """Read a board file.

    Raises:
        UsageError: it cannot be read, lacks a key, or a value cannot be meant.
        UnknownNameError: a key, track, scope or recipe that does not exist.
    """
    path = Path(path)
    values = read_toml(path)
    name = path.stem
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{path} names its board {name!r}: letters, digits, dots and dashes, a letter or digit first")
    allowed = {*_LISTED, *_Head.__dataclass_fields__}
    for key in values:
        if key not in allowed:
            raise UnknownNameError(f"key in {path}:", key, allowed)
    head = build_dataclass(_Head, {key: value for key, value in values.items() if key not in _LISTED}, str(path))
    if head.scope not in SCOPES:
        raise UnknownNameError(f"scope in {path}:", head.scope, SCOPES)
    data = build_dataclass(Images, _table(values.get("data"), f"[data] in {path}"), f"[data] in {path}")
    board = BoardFile(
        name=name,
        title=head.title or name,
        models=_texts(values.get("models"), f"models in {path}"),
        data=data,
        tracks=_tracks(values.get("tracks"), path),
        methods=_methods(values.get("methods"), path),
        seeds=_seeds(values.get("seeds"), path),
        recipe=_recipe(head.recipe, path),
        training=_table(values.get("training", {}), f"[training] in {path}"),
        stem=head.stem,
        precision=head.precision,
        scope=head.scope,
    )
    _check_training(board, path)
    for entry in board.methods:
        _check_entry(board, entry, path)
    return board


def _check_entry(board: BoardFile, entry: Entry, path: Path) -> None:
    for track in entry.tracks:
        if track not in board.tracks:
            raise UnknownNameError(f"track of method {entry.name!r} in {path}:", track, board.tracks)
    points = {point for track in entry.tracks or board.tracks for point in board.tracks[track].sparsities}
    for point in entry.sparsities:
        if point not in points:
            raise UsageError(
                f"sparsity {point:g} of method {entry.name!r} in {path} is no operating point of its tracks: "
                f"choose from {', '.join(f'{known:g}' for known in sorted(points))}"
            )


def _recipe(name: str | None, path: Path) -> str | None:
    """Return a recipe's name, or the path of one that lies beside the board."""
    if name is None or not name.endswith(".toml") or Path(name).is_absolute():
        return name
    return str(path.parent / name)


def _check_training(board: BoardFile, path: Path) -> None:
    for key in board.training:
        if key not in RECIPE_FIELDS:
            raise UnknownNameError(f"key in [training] in {path}:", key, RECIPE_FIELDS)
    known = {name for recipe in recipe_names() for name in load_recipe(recipe).default_for}
    if board.data.name not in known:
        raise UnknownNameError(f"data set in {path}:", board.data.name, known)
    load_recipe(board.recipe or default_recipe(board.data.name), board.training)


def _tracks(value: object, path: Path) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for name, table in _table(value, f"[tracks] in {path}").items():
        if name not in TRACKS:
            raise UnknownNameError(f"track in {path}:", name, TRACKS)
        where = f"[tracks.{name}] in {path}"
        track = build_dataclass(_Track, _table(table, where), where)
        found[name] = Points(_sparsities(track.sparsities, where), track.init)
    if not found:
        raise UsageError(f"{path} has no track: write [tracks.prune] with its sparsities")
    return found


def _sparsities(value: object, where: str) -> tuple[float, ...]:
    items = _list(value, f"sparsities in {where}")
    if not all(type(item) in (int, float) and 0 <= item < 1 for item in items):
        raise UsageError(f"sparsities in {where} are fractions of zeros, each in [0, 1); found {value!r}")
    found = [check_sparsity(item) for item in items]
    _unique(found, f"sparsities in {where}")
    return tuple(sorted(found))


def _methods(value: object, path: Path) -> tuple[Entry, ...]:
    tables = _list(value, f"[[methods]] in {path}")
    entries = tuple(_entry(table, f"[[methods]] number {index} in {path}") for index, table in enumerate(tables, 1))
    _unique([_said(entry) for entry in entries], f"[[methods]] in {path}")
    return entries


def _said(entry: Entry) -> str:
    """Return what tells one row from another, in words."""
    options = "".join(f" {name}={value!r}" for name, value in sorted(entry.options.items()))
    tracks = f" on {', '.join(entry.tracks)}" if entry.tracks else ""
    return f"{entry.name}{options}{tracks}{f' {entry.ablation}' if entry.ablation else ''}"


def _entry(value: object, where: str) -> Entry:
    method = build_dataclass(_Method, _table(value, where), where)
    if method.ablation is not None and method.ablation not in ABLATIONS:
        raise UnknownNameError(f"ablation in {where}:", method.ablation, ABLATIONS)
    tracks = () if method.tracks is None else _texts(method.tracks, f"tracks in {where}")
    points = () if method.sparsities is None else _sparsities(method.sparsities, where)
    options = {} if method.options is None else _table(method.options, f"options in {where}")
    tuning = {} if method.tuning is None else _table(method.tuning, f"tuning in {where}")
    return Entry(
        method.name, options, tracks, points, method.ablation, build_dataclass(Tuning, tuning, f"tuning in {where}")
    )


def _seeds(value: object, path: Path) -> tuple[int, ...]:
    where = f"seeds in {path}"
    if type(value) is int and value >= 1:
        return tuple(range(value))
    if not (isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value)):
        raise UsageError(f"{where} is a count such as 6, or a list such as [3, 7]; found {value!r}")
    _unique(value, where)
    return tuple(value)


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is a table; found {'nothing' if value is None else repr(value)}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} is a list with something in it; found {'nothing' if value is None else repr(value)}")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    items = _list(value, where)
    if not all(isinstance(item, str) for item in items):
        raise UsageError(f"{where} is a list of names; found {value!r}")
    _unique(items, where)
    return tuple(items)


def _unique(items: Any, where: str) -> None:
    twice = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if twice is not None:
        raise UsageError(f"{where} has {twice} twice")
