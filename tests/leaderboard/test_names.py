"""Tests the short names of rows."""

from __future__ import annotations

from fake_records import record
from leaderboard_cases import only_board
from pruneboard.leaderboard.names import short_names


def names_of(*made):
    """Return the sorted names of the rows that some records form."""
    return sorted(short_names(only_board(*made).rows).values())


def test_a_unique_method_is_named_by_itself():
    """Version, package and options are not part of the name if only one row has the method."""
    assert names_of(record("a", method__options={"t": 1}), record("b")) == ["a", "b"]


def test_names_contain_what_distinguishes_rows():
    """Package, version and differing options are added if rows of one method differ in them."""
    base = {"method__options": {"lr": 1, "t": 1}}
    assert names_of(record("a", **base), record("a", method__options={"lr": 1, "t": 2})) == ["a t=1", "a t=2"]
    assert names_of(record("a"), record("a", method__version="0.2.0")) == ["a 0.1.0", "a 0.2.0"]
    assert names_of(record("a"), record("a", method__distribution="other")) == ["a other", "a pruneboard"]
    assert names_of(record("a"), record("a", hash="f" * 64)) == ["a", "a #2"]


def test_an_option_that_only_one_row_has_distinguishes_rows():
    """A missing option differs from every value, and the row without it keeps the short name."""
    assert names_of(record("a"), record("a", method__options={"t": 1})) == ["a", "a t=1"]


def test_ablations_and_controls_are_marked():
    """The name states the ablation, and that a method is the floor or the baseline; `dense` needs no mark."""
    made = [record("dense", None), record("random"), record("magnitude"), record("a", method__ablation="shuffled-mask")]
    assert names_of(*made) == ["a shuffled-mask", "dense", "magnitude (baseline)", "random (floor)"]


def test_one_name_per_method_and_not_per_sparsity():
    """The operating points of a method share its name."""
    assert names_of(record("a", 0.5), record("a", 0.9)) == ["a"]


def test_a_row_of_another_distribution_always_shows_it():
    """A third-party method is never named like one of pruneboard's own, even if it is alone on its board."""
    assert names_of(record("magnitude", method__distribution="other")) == ["magnitude other"]
