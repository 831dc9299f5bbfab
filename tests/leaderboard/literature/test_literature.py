"""Tests published numbers: the included ones, files of users, and the boards on which they are drawn."""

from __future__ import annotations

import contextlib
import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from pruneboard import leaderboard
from pruneboard.errors import UsageError
from pruneboard.leaderboard import literature

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


def text(*lines):
    """Return the text of a file of published numbers."""
    file = io.StringIO()
    writer = csv.DictWriter(file, literature.COLUMNS)
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
    (board,) = leaderboard.build_boards([record(data__name="imagenet", model__name="resnet50")])
    found = literature.on_boards(literature.included(), [board])[board.fingerprint]
    (number,) = [one for one in found if one.method == "STR" and one.sparsity == 0.9023]
    assert (number.top1, number.dense_top1, number.top1_sd) == (0.7431, 0.7701, None)
    assert number.source == "github RAIVNLab/STR@cc74d38 README.md L89-112"
    assert all((one.dataset, one.model, one.track) == ("imagenet", "resnet50", "prune") for one in found)


def test_other_boards_have_no_published_numbers():
    """There are none for the digits, and numbers of the prune track are not drawn on the supermask track."""
    tables = leaderboard.build_boards(
        [record(), record(track="supermask", data__name="imagenet", model__name="resnet18")]
    )
    assert literature.on_boards(literature.included(), tables) == {}


def test_a_users_file_can_use_both_kinds_of_names(tmp_path):
    """Data sets and networks can have the names of the papers or those of pruneboard."""
    path = tmp_path / "own.csv"
    path.write_text(text(LINE, LINE | {"dataset": "digits", "architecture": "resnet20_cifar", "top1_std": "0.2"}))
    first, second = literature.read(path)
    assert (first.dataset, first.model, first.sparsity, first.top1) == ("cifar10", "resnet32_cifar", 0.95, 0.925)
    assert (second.dataset, second.model, second.top1_sd) == ("digits", "resnet20_cifar", 0.002)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top1_mean": "150"}, "line 2: top1_mean must be a percentage in"),
        ({"top1_mean": ""}, "line 2: top1_mean must be a percentage in"),
        ({"sparsity_percent": "nan"}, "line 2: sparsity_percent must be a percentage in"),
        ({"dense_top1": "-1"}, "line 2: dense_top1 must be a percentage in"),
        ({"source": " "}, "line 2: source is empty"),
        ({"track": "both"}, "line 2: track must be prune or supermask; found 'both'"),
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
