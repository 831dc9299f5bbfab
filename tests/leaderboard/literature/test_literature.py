"""Tests published numbers: the included ones, files of users, and the boards on which they are drawn."""

from __future__ import annotations

import contextlib
import csv
import io

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from pruneboard import leaderboard
from pruneboard.errors import UsageError
from pruneboard.leaderboard import literature
from pruneboard.models import prunable_layers

LINE = {
    **dict.fromkeys(literature.COLUMNS, ""),
    "method": "STR",
    "dataset": "CIFAR-10",
    "architecture": "ResNet-32",
    "sparsity_percent": "95",
    "top1_mean": "92.5",
    "track": "prune",
    "source": "arXiv:0000.00000",
}


RESNET32, RESNET50 = 1_855_584, 25_502_912
"""Prunable weights of resnet32_cifar with 10 classes, and of resnet50 with 1,000."""


def text(*lines):
    """Return the text of a file of published numbers."""
    file = io.StringIO()
    writer = csv.DictWriter(file, dict.fromkeys(key for line in lines for key in line) or literature.COLUMNS)
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def test_included_numbers_are_complete():
    """All 533 lines can be read; each has a method, a source, and fractions in [0, 1]."""
    numbers = literature.included()
    assert len(numbers) == 533
    assert all(number.method and number.source for number in numbers)
    assert all(0 <= number.sparsity <= 1 and 0 < number.top1 <= 1 for number in numbers)
    assert {number.track for number in numbers} == {"prune", "supermask"}


def test_a_known_number_is_on_its_board():
    """STR at 90.23 % on ResNet-50, 74.31 % in its official README, is on the ImageNet board of timm's resnet50."""
    made = record(data__name="imagenet", model__name="resnet50", board__prunable=RESNET50)
    (board,) = leaderboard.build_boards([made])
    found = literature.on_boards(literature.included(), [board])[board.fingerprint]
    (number,) = [one for one in found if one.method == "STR" and one.sparsity == 0.9023]
    assert (number.top1, number.dense_top1, number.top1_sd) == (0.7431, 0.7701, None)
    assert number.source == "github RAIVNLab/STR@cc74d38 README.md L89-112"
    assert all((one.dataset, one.model, one.track) == ("imagenet", "resnet50", "prune") for one in found)


def test_every_included_number_on_a_board_belongs_to_its_network():
    """With a board of each network in pruneboard, all included numbers that are drawn have its number of weights.

    Those of learning-compression do not: they keep .0462 million weights at 89.96 %, so their network had .46 million.
    """
    networks = {(model, "imagenet"): weights for model, weights in literature.IMAGENET_NETWORKS.values()}
    networks |= {("resnet32_cifar", "cifar10"): RESNET32, ("resnet32_cifar", "cifar100"): 1_867_104}
    networks |= {("vgg19_cifar", "cifar10"): 20_024_000, ("vgg19_cifar", "cifar100"): 20_070_080}
    made = [
        record(
            data__name=data, model__name=model, track=track, board__model=f"{model} {track}", board__prunable=weights
        )
        for (model, data), weights in networks.items()
        for track in ("prune", "supermask")
    ]
    found = literature.on_boards(literature.included(), leaderboard.build_boards(made))
    numbers = [number for numbers in found.values() for number in numbers]
    assert len(numbers) == 223
    for number in numbers:
        low, high = number.weights
        assert low * 0.99 <= networks[number.model, number.dataset] <= high * 1.01
    assert not any("learning-compression" in number.method for number in numbers)
    assert not any(number.dataset == "cifar10" for number in numbers)


def test_the_numbers_of_weights_are_those_of_the_networks():
    """The table of networks on ImageNet agrees with timm, convolutions and linear layers counted."""
    for name, weights in set(literature.IMAGENET_NETWORKS.values()):
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=1000)
        assert sum(layer.weight.numel() for layer in dict(prunable_layers(net)).values()) == weights, name


def test_boards_of_other_networks_with_the_same_name_have_no_published_numbers():
    """A board with other widths, another stem or an unknown number of weights shows none."""
    for change in ({"board__prunable": RESNET50 * 4}, {"board__stem": "small"}, {"board__prunable": {"fc": 1}}):
        made = record(**{"data__name": "imagenet", "model__name": "resnet50", "board__prunable": RESNET50} | change)
        assert literature.on_boards(literature.included(), leaderboard.build_boards([made])) == {}


def test_other_boards_have_no_published_numbers():
    """There are none for the digits, and numbers of the prune track are not drawn on the supermask track."""
    tables = leaderboard.build_boards(
        [
            record(),
            record(track="supermask", data__name="imagenet", model__name="resnet18", board__prunable=11_678_912),
        ]
    )
    assert literature.on_boards(literature.included(), tables) == {}


def test_a_users_file_can_use_both_kinds_of_names(tmp_path):
    """Data sets and networks can have the names of the papers or those of pruneboard."""
    path = tmp_path / "own.csv"
    lines = (
        LINE | {"n_params_kept": "0.0928M"},
        LINE | {"dataset": "digits", "architecture": "resnet20_cifar", "top1_std": "0.2"},
    )
    path.write_text(text(*lines))
    first, second = literature.read(path)
    assert (first.dataset, first.model, first.sparsity, first.top1) == ("cifar10", "resnet32_cifar", 0.95, 0.925)
    assert (second.dataset, second.model, second.top1_sd) == ("digits", "resnet20_cifar", 0.002)


@pytest.mark.parametrize(
    ("change", "is_drawn"),
    [
        ({}, False),  # the width of this ResNet-32 is unknown
        ({"sparsity_percent": "89.96", "n_params_kept": "0.0462M"}, False),  # widths 16, 32, 64
        ({"sparsity_percent": "90", "n_params_kept": "0.186M"}, True),
        ({"sparsity_percent": "0", "n_params_kept": "1,855,584"}, True),
        ({"sparsity_percent": "100", "n_params_kept": "0"}, False),
        ({"n_params_dense": "0.46M"}, False),
        ({"n_params_dense": "1.86m"}, True),
        ({"n_params_dense": "1860512"}, True),  # with batch normalization
        ({"n_params_dense": "1.86M", "n_params_kept": "0.023M"}, True),  # the stated number of weights counts first
        ({"architecture": "ResNet-56", "n_params_dense": "1855584"}, False),
        ({"architecture": "resnet32_cifar"}, True),
        ({"architecture": "resnet32_cifar", "n_params_kept": "0.023M"}, False),
    ],
)
def test_the_network_is_known_by_name_and_number_of_weights(change, is_drawn):
    """A number is drawn if its network has the weights of the board's; a name used for several networks is not enough.

    The weights are stated, or follow from those kept and the sparsity, up to rounding and batch normalization.
    """
    made = record(data__name="cifar10", model__name="resnet32_cifar", board__prunable=RESNET32)
    boards = leaderboard.build_boards([made])
    assert bool(literature.on_boards(literature.parse(text(LINE | change), "own.csv"), boards)) is is_drawn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top1_mean": "150"}, "line 2: top1_mean must be a percentage in"),
        ({"top1_mean": ""}, "line 2: top1_mean must be a percentage in"),
        ({"sparsity_percent": "nan"}, "line 2: sparsity_percent must be a percentage in"),
        ({"dense_top1": "-1"}, "line 2: dense_top1 must be a percentage in"),
        ({"source": " "}, "line 2: source is empty"),
        ({"track": "both"}, "line 2: track must be prune or supermask; found 'both'"),
        ({"n_params_kept": "about 5M"}, "line 2: n_params_kept must be a number of weights, such as 463504"),
    ],
)
def test_invalid_lines_are_reported(tmp_path, change, message):
    """Invalid percentages and missing sources are reported with file, line and column."""
    path = tmp_path / "own.csv"
    path.write_text(text(LINE | change))
    with pytest.raises(UsageError, match=rf"own\.csv, {message}"):
        literature.read(path)


def test_unreadable_files_are_rejected(tmp_path):
    """A missing column, bytes that are not UTF-8, and a folder have different messages."""
    path = tmp_path / "own.csv"
    path.write_text("method,top1\nSTR,92\n")
    with pytest.raises(UsageError, match="has no column dataset"):
        literature.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8"):
        literature.read(path)
    with pytest.raises(UsageError, match="cannot read"):
        literature.read(tmp_path)


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=60)
def test_any_text_is_parsed_or_a_usage_error(garbage):
    """Arbitrary content raises nothing but a usage error."""
    for content in (garbage, text(LINE) + garbage):
        with contextlib.suppress(UsageError):
            literature.parse(content, "own.csv")
