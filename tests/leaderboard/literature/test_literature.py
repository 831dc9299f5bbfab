"""Published numbers: those that are shipped, a user's own, and the boards they may be drawn on."""

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
    """A file of published numbers."""
    file = io.StringIO()
    writer = csv.DictWriter(file, literature.COLUMNS)
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def test_every_shipped_number_is_a_fraction_with_a_source():
    """All 533 lines are read; each has a method, a source, and fractions in [0, 1]."""
    numbers = literature.included()
    assert len(numbers) == 533
    assert all(number.method and number.source for number in numbers)
    assert all(0 <= number.sparsity <= 1 and 0 < number.top1 <= 1 for number in numbers)
    assert {number.track for number in numbers} == {"prune", "supermask"}


def test_a_known_number_is_found_where_it_belongs():
    """STR at 90.23 % on ResNet-50, 74.31 % in its official README, is on the ImageNet board of timm's resnet50."""
    (board,) = leaderboard.build_boards([record(data__name="imagenet", model__name="resnet50")])
    found = literature.on_boards(literature.included(), [board])[board.fingerprint]
    (number,) = [one for one in found if one.method == "STR" and one.sparsity == 0.9023]
    assert (number.top1, number.dense_top1, number.top1_sd) == (0.7431, 0.7701, None)
    assert number.source == "github RAIVNLab/STR@cc74d38 README.md L89-112"
    assert all((one.dataset, one.model, one.track) == ("imagenet", "resnet50", "prune") for one in found)


def test_a_board_of_other_data_gets_none():
    """Digits were never published on, and a supermask is not drawn on the track of pruning."""
    tables = leaderboard.build_boards([record(), record(track="supermask", data__name="imagenet", model__name="resnet18")])
    assert literature.on_boards(literature.included(), tables) == {}


def test_a_users_own_file_is_read_with_our_names_or_the_sources(tmp_path):
    """A file of the same columns may call data and networks as the papers do or as pruneboard does."""
    path = tmp_path / "own.csv"
    path.write_text(text(LINE, LINE | {"dataset": "digits", "architecture": "resnet20_cifar", "top1_std": "0.2"}))
    first, second = literature.read(path)
    assert (first.dataset, first.model, first.sparsity, first.top1) == ("cifar10", "resnet32_cifar", 0.95, 0.925)
    assert (second.dataset, second.model, second.top1_sd) == ("digits", "resnet20_cifar", 0.002)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"top1_mean": "150"}, "line 2: top1_mean is a percentage in"),
        ({"top1_mean": ""}, "line 2: top1_mean is a percentage in"),
        ({"sparsity_percent": "nan"}, "line 2: sparsity_percent is a percentage in"),
        ({"dense_top1": "-1"}, "line 2: dense_top1 is a percentage in"),
        ({"source": " "}, "line 2: source is empty"),
        ({"track": "both"}, "line 2: track is prune or supermask; found 'both'"),
    ],
)
def test_a_wrong_number_is_named_by_its_line(tmp_path, change, told):
    """What is no percentage, or has no source, is refused with file, line and column."""
    path = tmp_path / "own.csv"
    path.write_text(text(LINE | change))
    with pytest.raises(UsageError, match=rf"own\.csv, {told}"):
        literature.read(path)


def test_another_layout_and_unreadable_files_are_refused(tmp_path):
    """A missing column, bytes that are no text, a folder and a missing file are told apart."""
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
def test_any_text_is_numbers_or_an_error_of_ours(garbage):
    """Whatever a file holds, nothing but a usage error comes of it."""
    for content in (garbage, text(LINE) + garbage):
        with contextlib.suppress(UsageError):
            literature.parse(content, "own.csv")
