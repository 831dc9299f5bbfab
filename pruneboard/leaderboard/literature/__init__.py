"""Published accuracies, drawn in grey behind measured ones and never ranked.

Sources differ from each other and from pruneboard in denominators, budgets and selection rules. The file
`published.csv`, collected by the pruneboard authors, comes with the package and names for each number the page, file or
table from which it was copied. If you cite a number, cite its source.

A number is drawn only if its network is known to be the board's, by name and by number of weights: different papers
call networks of .46 and 1.86 million weights "ResNet-32". The number of weights is, in this order,

1. `n_params_dense`: weights of the convolutions and linear layers of the network before pruning;
2. `n_params_kept / (1 - sparsity)`;
3. that of `IMAGENET_NETWORKS`, for networks whose name means one architecture on ImageNet.

It has to agree with the prunable weights of the board within `TOLERANCE`, in addition to the rounding of its digits. A
number without any of these is drawn only if its file uses the name of a network in pruneboard.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from pruneboard.errors import UsageError, why
from pruneboard.leaderboard import Board, Published

Span = tuple[float, float]
"""The least and the greatest value that a rounded number can stand for."""

COLUMNS = (
    *("method", "dataset", "architecture", "sparsity_percent", "top1_mean", "top1_std", "n_params_kept", "track"),
    *("dense_top1", "source", "table_or_figure", "note"),
)
"""Columns of a file of published numbers, in which accuracies and sparsities are percentages."""

DENSE_PARAMS = "n_params_dense"
"""Optional further column."""

LARGEST_FILE = 16 * 2**20
"""Size limit of such a file, in bytes."""

TOLERANCE = 0.01
"""Relative difference allowed between two counts of one network, because some sources count biases and the parameters
of batch normalization (0.2 to 0.6 % of these networks), and others do not."""

DATASETS = {"ImageNet": "imagenet", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}

IMAGENET_NETWORKS = {
    "ResNet-18": ("resnet18", 11_678_912),
    "ResNet-50": ("resnet50", 25_502_912),
    "ResNet-50 v1.5": ("resnet50", 25_502_912),  # v1.5 has its strides where timm's resnet50 has them
    "ResNet-101": ("resnet101", 44_442_816),
    "Wide ResNet-50": ("wide_resnet50_2", 68_814_016),
    "ResNeXt-101-32x4d": ("resnext101_32x4d", 44_038_848),
    "MobileNetV1": ("mobilenetv1_100", 4_209_088),
    "VGG-16": ("vgg16", 138_344_128),
    "VGG-16-BN": ("vgg16_bn", 138_344_128),
    "DeiT-small": ("deit_small_patch16_224", 21_912_576),
}
"""Name of a network in sources on ImageNet -> its name in pruneboard and its number of prunable weights.

The ViT-B/16 of jaxpruner is not listed: its configuration has `representation_size = 768`, a linear layer more than
timm's `vit_base_patch16_224`.
"""

CIFAR_NETWORKS = {"ResNet-32": "resnet32_cifar", "VGG-19": "vgg19_cifar", "VGGNet-19": "vgg19_cifar"}
"""Name of a network in sources on CIFAR -> the network in pruneboard that it may be, depending on its weights.

The number of weights of Lottery Jackpots is unknown on purpose. In its code (zyxxmu/lottery-jackpots@8a23a82, models/),
the ResNet-32 has no convolutions on shortcuts and the VGG-19 five max-pooling layers, so both are other networks.
"""


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
    """Return fingerprint -> numbers for the same data set, network (by name and number of weights) and track."""
    by_board: dict[tuple[str, str, str], list[Published]] = {}
    for entry in entries:
        by_board.setdefault((entry.dataset, entry.model, entry.track), []).append(entry)
    found = {
        board.fingerprint: tuple(
            entry
            for entry in by_board.get((board.dataset, board.model, board.track), ())
            if _is_network_of(board, entry)
        )
        for board in boards
    }
    return {fingerprint: own for fingerprint, own in found.items() if own}


def _is_network_of(board: Board, entry: Published) -> bool:
    """Return whether stem and number of weights agree; without a number, the entry has pruneboard's name already."""
    if entry.dataset == "imagenet" and board.fields.get("stem") == "small":
        return False  # the sources have the stock stem, and a small one differs by a thousand weights only
    if entry.weights is None:
        return True
    weights, (low, high) = board.fields.get("prunable"), entry.weights
    return type(weights) is int and low * (1 - TOLERANCE) <= weights <= high * (1 + TOLERANCE)


def _entry(line: Mapping[str, str | None], where: str) -> Published:
    text = {column: (line.get(column) or "").strip() for column in (*COLUMNS, DENSE_PARAMS)}
    for column in ("method", "dataset", "architecture", "source"):
        if not text[column]:
            raise UsageError(f"{where}: {column} is empty, but every number needs its {column}")
    if text["track"] not in ("prune", "supermask"):
        raise UsageError(f"{where}: track must be prune or supermask; found {text['track']!r}")
    dataset = DATASETS.get(text["dataset"], text["dataset"])
    sparsity = _percent(text, "sparsity_percent", where)
    stated = _stated_weights(text, sparsity, where)
    model, weights = _network(text["architecture"], dataset, stated)
    return Published(
        method=text["method"],
        dataset=dataset,
        model=model,
        weights=weights,
        sparsity=sparsity,
        top1=_percent(text, "top1_mean", where),
        top1_sd=_percent(text, "top1_std", where) if text["top1_std"] else None,
        dense_top1=_percent(text, "dense_top1", where) if text["dense_top1"] else None,
        track=text["track"],
        source=text["source"],
        place=text["table_or_figure"],
        note=text["note"],
    )


def _network(name: str, dataset: str, stated: Span | None) -> tuple[str, Span | None]:
    """Return the name in pruneboard and the number of weights; the name in the source if the network is not known."""
    if dataset == "imagenet" and name in IMAGENET_NETWORKS:
        model, weights = IMAGENET_NETWORKS[name]
        return model, stated or (weights, weights)
    if dataset in ("cifar10", "cifar100") and name in CIFAR_NETWORKS and stated:
        return CIFAR_NETWORKS[name], stated
    return name, stated


def _stated_weights(text: Mapping[str, str], sparsity: float, where: str) -> Span | None:
    """Return the least and the greatest number of weights before pruning that a line can mean, or None."""
    dense, kept = (_rounded(text, column, where) for column in (DENSE_PARAMS, "n_params_kept"))
    if dense or not kept or sparsity == 1:
        return dense
    low, high = kept
    return low / (1 - sparsity), high / (1 - sparsity)


def _rounded(text: Mapping[str, str], column: str, where: str) -> Span | None:
    """Return the numbers that round to a text such as `0.46M`, as an interval; None for an empty text."""
    if not text[column]:
        return None
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([KMB]?)", text[column].replace(",", "").upper())
    if not match:
        raise UsageError(
            f"{where}: {column} must be a number of weights, such as 463504, 464K or 0.46M; found {text[column]!r}"
        )
    whole, decimals, unit = match[1], match[2] or "", match[3]
    scale = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[unit]
    half = 0.5 * 10.0 ** -len(decimals) if decimals or unit else 0.0
    value = float(f"{whole}.{decimals or 0}")
    return (value - half) * scale, (value + half) * scale


def _percent(text: Mapping[str, str], column: str, where: str) -> float:
    try:
        value = float(text[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UsageError(f"{where}: {column} must be a percentage in [0, 100]; found {text[column]!r}")
    return round(value / 100, 12)
