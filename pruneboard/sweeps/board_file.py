"""Board files: read a TOML description of a board into a `BoardFile`. Imports no torch.

A board is the product of models, tracks, methods, operating points and seeds, all trained with the same recipe. An
unknown key is refused with the closest known one: a setting that is silently ignored would change what the board
measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneboard.coerce import build_dataclass, read_toml
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.spec import (
    ABLATIONS,
    MAX_SEEDS,
    RECIPE_FIELDS,
    TRACKS,
    check_sparsity,
    default_recipe,
    load_recipe,
    recipe_names,
)

SCOPES = ("all",)
"""Allowed values of `scope`. `all`: every convolution and linear weight, including the first and the last layer."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Allowed board names. The name is used for a folder and for a file."""

_STRUCTURED_KEYS = {"models", "seeds", "data", "training", "tracks", "methods"}


@dataclass(frozen=True, kw_only=True)
class BoardData:
    """The table `[data]`: the data set, with its counts and image size, so that costs can be estimated without it.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `folder` or `imagenet`.
        train: number of training images in use, including the validation split.
        test: number of test images.
        classes: number of classes.
        side: side of the stored images in pixels.
        limit_train: use only this many training images, the first of each class; None uses all.
    """

    name: str
    train: int
    test: int
    classes: int
    side: int
    limit_train: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        for name in ("train", "test", "classes", "side"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} in [data] must be 1 or more; found {getattr(self, name)}")
        if self.limit_train is not None and self.limit_train < 1:
            raise UsageError(f"limit_train in [data] must be 1 or more; found {self.limit_train}")


@dataclass(frozen=True)
class BoardTrack:
    """A table `[tracks.NAME]`: operating points and initial weights of a track.

    Attributes:
        sparsities: in ascending order, each in [0, 1).
        init: initialization of the weights, as in `RunSpec.init`.
    """

    sparsities: tuple[float, ...]
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class MethodTuning:
    """The table `tuning` of a method: how its options were chosen.

    Attributes:
        trials: number of option sets tried on this data; 0 if the options were not chosen on this data.
        source: source of the options: a paper, or the search that chose them.
    """

    trials: int = 0
    source: str | None = None

    def __post_init__(self) -> None:
        """Refuse a negative number of trials, and a source that `sweep --plan-only` could not print in one line."""
        if self.trials < 0:
            raise UsageError(f"trials in tuning must be 0 or more; found {self.trials}")
        if self.source is not None and not self.source.isprintable():
            raise UsageError(f"source in tuning must be one line of printable text; found {self.source!r}")


@dataclass(frozen=True)
class BoardMethod:
    """A table `[[methods]]`: a method with its options, which makes one row per track and operating point.

    Attributes:
        name: name of an installed pruner.
        options: options of the pruner.
        tracks: tracks to run on; empty for every track of the board that the method supports.
        sparsities: operating points to run at; empty for all those of its tracks.
        ablation: as in `RunSpec.ablation`.
        tuning: how the options were chosen.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    tracks: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    ablation: str | None = None
    tuning: MethodTuning = field(default_factory=MethodTuning)


@dataclass(frozen=True)
class BoardFile:
    """The contents of a board file.

    Attributes:
        name: name of the file without its suffix.
        title: one-line title.
        models: names of timm classifiers, or of models that come with pruneboard.
        data: the data set.
        tracks: track name -> operating points.
        methods: the methods to compare.
        seeds: seeds of every row.
        recipe: name or path of the training recipe; None selects the recipe of the data set.
        training: recipe fields that replace those of the recipe.
        stem: `stock` or `small`; None chooses it as `pruneboard run` does.
        precision: `fp32` or `bf16`.
        scope: which weights are prunable, one of `SCOPES`.
    """

    name: str
    title: str
    models: tuple[str, ...]
    data: BoardData
    tracks: Mapping[str, BoardTrack]
    methods: tuple[BoardMethod, ...]
    seeds: tuple[int, ...]
    recipe: str | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    stem: str | None = None
    precision: str = "fp32"
    scope: str = "all"


@dataclass(frozen=True, kw_only=True)
class _ScalarKeys:
    """The keys of a board file with a single value."""

    title: str = ""
    recipe: str | None = None
    stem: str | None = None
    precision: str = "fp32"
    scope: str = "all"


@dataclass(frozen=True, kw_only=True)
class _TrackTable:
    sparsities: Any
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class _MethodTable:
    name: str
    options: Any = None
    tracks: Any = None
    sparsities: Any = None
    ablation: str | None = None
    tuning: Any = None


def load_board(path: str | Path) -> BoardFile:
    """Read a board file.

    Raises:
        UsageError: the file cannot be read, lacks a key, or has an invalid value.
        UnknownNameError: the file has an unknown key, or names a track, scope, recipe or data set that does not exist.
    """
    path = Path(path)
    values = read_toml(path)
    name = path.stem
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"{path}: the name of a board file must match {NAME_PATTERN}, for example my-board.toml")
    allowed = {*_STRUCTURED_KEYS, *_ScalarKeys.__dataclass_fields__}
    for key in values:
        if key not in allowed:
            raise UnknownNameError(f"key in {path}:", key, allowed)
    scalars = build_dataclass(
        _ScalarKeys, {key: values[key] for key in values if key not in _STRUCTURED_KEYS}, str(path)
    )
    if scalars.scope not in SCOPES:
        raise UnknownNameError(f"scope in {path}:", scalars.scope, SCOPES)
    if not scalars.title.isprintable():  # it is printed as it is
        raise UsageError(f"title in {path} must be one line of printable text; found {scalars.title!r}")
    data = build_dataclass(BoardData, _table(values.get("data"), f"[data] in {path}"), f"[data] in {path}")
    board = BoardFile(
        name=name,
        title=scalars.title or name,
        models=_names(values.get("models"), f"models in {path}"),
        data=data,
        tracks=_tracks(values.get("tracks"), path),
        methods=_methods(values.get("methods"), path),
        seeds=_seeds(values.get("seeds"), path),
        recipe=_recipe(scalars.recipe, path),
        training=_table(values.get("training", {}), f"[training] in {path}"),
        stem=scalars.stem,
        precision=scalars.precision,
        scope=scalars.scope,
    )
    _check_training(board, path)
    for method in board.methods:
        _check_method(board, method, path)
    return board


def _check_method(board: BoardFile, method: BoardMethod, path: Path) -> None:
    for track in method.tracks:
        if track not in board.tracks:
            raise UnknownNameError(f"track of method {method.name!r} in {path}:", track, board.tracks)
    points = {point for track in method.tracks or board.tracks for point in board.tracks[track].sparsities}
    for point in method.sparsities:
        if point not in points:
            raise UsageError(
                f"sparsity {point:g} of method {method.name!r} in {path} is not an operating point of its tracks: "
                f"choose from {', '.join(f'{known:g}' for known in sorted(points))}"
            )


def _recipe(name: str | None, path: Path) -> str | None:
    """Return the name or the path of the recipe; a relative path is resolved against the folder of the board file."""
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


def _tracks(value: object, path: Path) -> dict[str, BoardTrack]:
    tracks: dict[str, BoardTrack] = {}
    for name, table in _table(value, f"[tracks] in {path}").items():
        if name not in TRACKS:
            raise UnknownNameError(f"track in {path}:", name, TRACKS)
        where = f"[tracks.{name}] in {path}"
        track = build_dataclass(_TrackTable, _table(table, where), where)
        tracks[name] = BoardTrack(_sparsities(track.sparsities, where), track.init)
    if not tracks:
        raise UsageError(f"{path} has no track: add a table such as [tracks.prune] with its sparsities")
    return tracks


def _sparsities(value: object, where: str) -> tuple[float, ...]:
    items = _list(value, f"sparsities in {where}")
    if not all(type(item) in (int, float) and 0 <= item < 1 for item in items):
        raise UsageError(f"sparsities in {where} must be fractions in [0, 1); found {value!r}")
    sparsities = [check_sparsity(item) for item in items]
    _check_unique(sparsities, f"sparsities in {where}")
    return tuple(sorted(sparsities))


def _methods(value: object, path: Path) -> tuple[BoardMethod, ...]:
    tables = _list(value, f"[[methods]] in {path}")
    methods = tuple(_method(table, f"[[methods]] number {index} in {path}") for index, table in enumerate(tables, 1))
    _check_unique([_description(method) for method in methods], f"[[methods]] in {path}")
    return methods


def _description(method: BoardMethod) -> str:
    """Return the properties that distinguish one method entry from another: name, options, tracks and ablation."""
    options = "".join(f" {name}={value!r}" for name, value in sorted(method.options.items()))
    tracks = f" on {', '.join(method.tracks)}" if method.tracks else ""
    return f"{method.name}{options}{tracks}{f' {method.ablation}' if method.ablation else ''}"


def _method(value: object, where: str) -> BoardMethod:
    method = build_dataclass(_MethodTable, _table(value, where), where)
    if method.ablation is not None and method.ablation not in ABLATIONS:
        raise UnknownNameError(f"ablation in {where}:", method.ablation, ABLATIONS)
    tracks = () if method.tracks is None else _names(method.tracks, f"tracks in {where}")
    points = () if method.sparsities is None else _sparsities(method.sparsities, where)
    options = {} if method.options is None else _table(method.options, f"options in {where}")
    values = {} if method.tuning is None else _table(method.tuning, f"tuning in {where}")
    tuning = build_dataclass(MethodTuning, values, f"tuning in {where}")
    return BoardMethod(method.name, options, tracks, points, method.ablation, tuning)


def _seeds(value: object, path: Path) -> tuple[int, ...]:
    where = f"seeds in {path}"
    if type(value) is int and 1 <= value <= MAX_SEEDS:
        return tuple(range(value))
    if not (isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value)):
        raise UsageError(
            f"{where} must be a count such as 6, at most {MAX_SEEDS}, or a list such as [3, 7]; found {value!r}"
        )
    if len(value) > MAX_SEEDS:
        raise UsageError(f"{where} must be at most {MAX_SEEDS}; found {len(value)}")
    _check_unique(value, where)
    return tuple(value)


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table; found {'nothing' if value is None else repr(value)}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} must be a non-empty list; found {'nothing' if value is None else repr(value)}")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    items = _list(value, where)
    if not all(isinstance(item, str) for item in items):
        raise UsageError(f"{where} must be a list of names; found {value!r}")
    _check_unique(items, where)
    return tuple(items)


def _check_unique(items: Any, where: str) -> None:
    seen = set()
    for item in items:
        if item in seen:
            raise UsageError(f"{where} contains {item} more than once: remove the duplicate")
        seen.add(item)
