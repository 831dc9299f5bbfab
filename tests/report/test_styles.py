"""Tests that methods can be distinguished in charts and look the same on every board."""

from __future__ import annotations

from itertools import combinations

from fake_records import record
from leaderboard_cases import dense
from pruneboard import leaderboard
from pruneboard.report import styles
from pruneboard.report.tables import row_names


def styles_of(rows, positions=None):
    """Return name -> style of a board's rows."""
    return styles.assign_styles(rows, row_names(rows), positions or {})


def test_methods_are_distinguishable():
    """No two of thirty methods share colour, dash and shape, and a method found the same alone and among others."""
    positions = {f"m{number:02}": number for number in range(30)}
    found = styles_of(leaderboard.build_boards([record(name, 0.9, 0) for name in positions])[0].rows, positions)
    for first, second in combinations(found.values(), 2):
        assert (first.light, first.dash, first.shape) != (second.light, second.dash, second.shape)
    assert styles_of(leaderboard.build_boards([record("m04", 0.9, 0)])[0].rows, positions)["m04"] == found["m04"]


def test_variants_of_a_method_share_its_colour():
    """Rows of one method with other options share its colour, with different dashes and shapes; so do controls."""
    for method in ("m01", "magnitude"):
        made = [record(method, 0.9, 0, method__options={"lr": lr}) for lr in range(4)]
        found = styles_of(leaderboard.build_boards(made)[0].rows, {"m01": 1}).values()
        assert len({(style.light, style.dark) for style in found}) == 1
        assert len({style.dash for style in found}) == len({style.shape for style in found}) == 4


def test_controls_are_grey():
    """Dense, floor and baseline have colours without hue, on light and on dark pages."""
    made = [*dense(1), record("random", 0.9, 0), record("magnitude", 0.9, 0), record("probmask", 0.9, 0)]
    for style in styles_of(leaderboard.build_boards(made)[0].rows).values():
        spreads = [max(rgb) - min(rgb) for rgb in (bytes.fromhex(color[1:]) for color in (style.light, style.dark))]
        assert (max(spreads) <= 16) is bool(style.control)


def test_colours_are_the_same_on_every_board():
    """The position in the palette follows the names of the methods of all boards, without controls."""
    boards = leaderboard.build_boards([record("b"), record("a", board__steps=300), record("magnitude")])
    assert styles.palette_positions(boards) == {"a": 0, "b": 1}


def test_controls_are_at_the_ends_of_the_legend():
    """The dense control is first, and baseline and floor are last."""
    made = [record("z"), record("a"), record("random"), record("magnitude"), *dense(1)]
    names = list(styles_of(leaderboard.build_boards(made)[0].rows))
    assert names == ["dense", "a", "z", "magnitude (baseline)", "random (floor)"]
