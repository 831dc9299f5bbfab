"""Published accuracies, drawn in grey behind measured ones and never ranked.

Sources differ from each other and from pruneboard in denominators, dense networks, budgets and selection rules. The
file `published.csv`, collected by the pruneboard authors, comes with the package and names for each number the page,
file or table from which it was copied. If you cite a number, cite its source.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from pruneboard.errors import UsageError, why
from pruneboard.leaderboard import Board, Published

COLUMNS = (
    *("method", "dataset", "architecture", "sparsity_percent", "top1_mean", "top1_std", "n_params_kept", "track"),
    *("dense_top1", "source", "table_or_figure", "note"),
)
"""Columns of a file of published numbers, in which accuracies and sparsities are percentages."""

LARGEST_FILE = 16 * 2**20
"""Size limit of such a file, in bytes."""

DATASETS = {"ImageNet": "imagenet", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}
MODELS = {
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "ResNet-50 v1.5": "resnet50",  # v1.5 has its strides where timm's resnet50 has them
    "ResNet-101": "resnet101",
    "Wide ResNet-50": "wide_resnet50_2",
    "ResNeXt-101-32x4d": "resnext101_32x4d",
    "MobileNetV1": "mobilenetv1_100",
    "VGG-16": "vgg16",
    "VGG-16-BN": "vgg16_bn",
    "ViT-B/16 (90ep)": "vit_base_patch16_224",
    "ViT-B/16 (300ep)": "vit_base_patch16_224",
    "DeiT-small": "deit_small_patch16_224",
    "ResNet-32": "resnet32_cifar",
    "VGG-19": "vgg19_cifar",
    "VGGNet-19": "vgg19_cifar",
}
"""Name of a network in the sources -> its name in pruneboard. Other names are kept and match no board."""


def included() -> tuple[Published, ...]:
    """Return the numbers that come with pruneboard."""
    text = resources.files("pruneboard.leaderboard.literature").joinpath("published.csv").read_text(encoding="utf-8")
    return parse(text, "published.csv")


def read(path: Path) -> tuple[Published, ...]:
    """Return the numbers of a CSV file with the columns `COLUMNS`.

    Data sets and networks can have the names of pruneboard or those of the sources.

    Raises:
        UsageError: the file cannot be read, is too large, lacks a column or contains an invalid value. The message
            names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {why(error)}") from None
    if len(data) > LARGEST_FILE:
        raise UsageError(
            f"{path} is larger than {LARGEST_FILE // 2**20} MiB, the limit for a file of published numbers"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> tuple[Published, ...]:
    """Return the numbers of a CSV text. Error messages refer to the text as `name`."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{name} has no column {missing[0]}; required columns: {', '.join(COLUMNS)}")
    try:
        return tuple(_entry(line, f"{name}, line {reader.line_num}") for line in reader)
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num} is not valid CSV: {error}") from None


def on_boards(entries: Iterable[Published], boards: Iterable[Board]) -> dict[str, tuple[Published, ...]]:
    """Return fingerprint -> numbers for the same data set, network and track as the board."""
    by_board: dict[tuple[str, str, str], list[Published]] = {}
    for entry in entries:
        by_board.setdefault((entry.dataset, entry.model, entry.track), []).append(entry)
    found = {board.fingerprint: by_board.get((board.dataset, board.model, board.track)) for board in boards}
    return {fingerprint: tuple(own) for fingerprint, own in found.items() if own}


def _entry(line: Mapping[str, str | None], where: str) -> Published:
    text = {column: (line[column] or "").strip() for column in COLUMNS}
    for column in ("method", "dataset", "architecture", "source"):
        if not text[column]:
            raise UsageError(f"{where}: {column} is empty, but every number needs its {column}")
    if text["track"] not in ("prune", "supermask"):
        raise UsageError(f"{where}: track must be prune or supermask; found {text['track']!r}")
    return Published(
        method=text["method"],
        dataset=DATASETS.get(text["dataset"], text["dataset"]),
        model=MODELS.get(text["architecture"], text["architecture"]),
        sparsity=_percent(text, "sparsity_percent", where),
        top1=_percent(text, "top1_mean", where),
        top1_sd=_percent(text, "top1_std", where) if text["top1_std"] else None,
        dense_top1=_percent(text, "dense_top1", where) if text["dense_top1"] else None,
        track=text["track"],
        source=text["source"],
        place=text["table_or_figure"],
        note=text["note"],
    )


def _percent(text: Mapping[str, str], column: str, where: str) -> float:
    try:
        value = float(text[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UsageError(f"{where}: {column} must be a percentage in [0, 100]; found {text[column]!r}")
    return round(value / 100, 12)
