"""Tests the data of the charts."""

from __future__ import annotations

import dataclasses

import pytest

from fake_records import record
from leaderboard_cases import only_board
from pruneboard.report import chart_data
from pruneboard.report.tables import row_names


def test_large_boards_keep_complete_methods(everything):
    """A board with too many rows is reduced to complete methods."""
    one = everything.boards[0]
    many = tuple(dataclasses.replace(curve, rows=curve.rows * 400) for curve in one.curves)
    rows = tuple(row for curve in many for row in curve.rows)
    cut = chart_data.limit_rows(dataclasses.replace(one, curves=many, rows=rows), 2_000)
    assert 0 < len(cut.rows) <= 2_000
    assert all(curve in many for curve in cut.curves)
    assert len(cut.rows) == sum(len(curve.rows) for curve in cut.curves)


def test_points_have_the_values_of_their_rows(everything):
    """x, mean, interval and dots are those of the row in percent, and drops are paired with the dense run."""
    for one in everything.boards:
        names = row_names(one.rows)
        rows = {(names[row.identity], row.point): row for row in one.rows if row.target is not None and row.top1}
        cells = chart_data.data_sets(one, names)["cells"]
        assert len(cells) == len(rows)
        for cell in cells:
            row = rows[cell["method"], cell["sparsity"]]
            assert cell["kept"] == pytest.approx(1 - row.point)
            assert cell["compression"] == pytest.approx(1 / cell["kept"], rel=1e-3)
            assert cell["macs"] == pytest.approx(100 * row.macs_remaining)
            assert cell["top1"] == pytest.approx(100 * row.top1.mean, abs=6e-3)
            assert cell["tops"] == pytest.approx([100 * top1 for top1 in row.by_seed.values()], abs=6e-3)
            if one.dense and row.drop and row.n == row.drop.n:
                drops = [100 * (one.dense.by_seed[seed] - top1) for seed, top1 in row.by_seed.items()]
                assert cell["drops"] == pytest.approx(drops, abs=6e-3)
                assert cell["drop"] == pytest.approx(sum(drops) / len(drops), abs=1.1e-2)


def test_failures_and_off_target_rows_are_marked(everything):
    """A row without a finished run is a failure at its target; an off-target row is marked as such."""
    one = max(everything.boards, key=lambda one: len(one.rows))
    data = chart_data.data_sets(one, row_names(one.rows))
    assert [(item["method"], item["sparsity"]) for item in data["failures"]] == [("gmp", 0.9)]
    assert "diverged and 1 more" in data["failures"][0]["failed"]
    assert [cell["method"] for cell in data["cells"] if cell["off"]] == ["str"]


def test_crowded_boards_have_no_dots(monkeypatch):
    """Beyond the limit, single seeds are not part of the data, and their number is known."""
    board = only_board(*(record("a", point, seed) for point in (0.5, 0.9) for seed in (0, 1)))
    assert chart_data.seeds_left_out(board) == 0
    monkeypatch.setattr(chart_data, "MAX_DOTS", 3)
    assert chart_data.seeds_left_out(board) == 4
    for cell in chart_data.data_sets(board, row_names(board.rows))["cells"]:
        assert (cell["tops"], cell["drops"]) == ([], [])


def test_ticks_are_at_the_operating_points(monkeypatch):
    """Both logarithmic axes have ticks at 0.5 and 0.75; with too many points, Vega chooses the ticks."""
    board = only_board(record("a", 0.5), record("a", 0.75))
    assert chart_data.ticks(board) == {"kept": [0.5, 0.25], "compression": [2.0, 4.0]}
    monkeypatch.setattr(chart_data, "MAX_TICKS", 1)
    assert chart_data.ticks(board) == {}


def test_layer_maps_have_the_kept_fraction_of_each_layer():
    """Rows with the same layers share a map, by operating point; the sparsity of a layer is the mean over its seeds."""
    made = [record("a", 0.9, seed) for seed in (0, 1)] + [record("b", 0.5)]
    board = only_board(*made)
    (found,) = chart_data.layers(board, row_names(board.rows))
    assert found["layers"] == [layer["name"] for layer in made[0]["sparsity"]["layers"]]
    assert [point["point"] for point in found["points"]] == ["0.5", "0.9"]
    kept = [layer["nonzero"] / layer["n"] for layer in made[0]["sparsity"]["layers"]]
    assert found["points"][1]["rows"] == [{"method": "a", "kept": pytest.approx(kept, rel=1e-3)}]


def levels_of(top1, **changes):
    """Return the lines and the text about chance, for a dense control with 90 % and a method with `top1`."""
    made = [record("dense", None, 0, 0.9, **changes), record("a", 0.9, 0, top1, **changes)]
    board = only_board(*made)
    data = chart_data.data_sets(board, row_names(board.rows))
    return data["levels"], data["below"]


def test_chance_is_a_line_of_the_chart():
    """Chance and majority class have their accuracy and their drop against dense, where the axis reaches them."""
    lines, below = levels_of(0.3, data__majority=0.25)
    assert [(line["name"], line["top1"], line["drop"]) for line in lines] == [
        ("chance", 10.0, 80.0),
        ("majority class", 25.0, 65.0),
    ]
    assert below == []


def test_a_far_line_is_a_text_instead():
    """Below curves from 80 to 90 %, a line at 10 % would leave an eighth of the chart to them."""
    assert levels_of(0.8, data__majority=0.25) == ([], [{"text": "below: chance 10.00 %, majority class 25.00 %"}])
    lines, below = levels_of(0.8, data__majority=0.78)
    assert ([line["name"] for line in lines], below) == (["majority class"], [{"text": "below: chance 10.00 %"}])


def test_a_board_without_points_or_classes_has_no_lines():
    """Nothing is drawn if the number of classes is unknown or no run has finished."""
    assert levels_of(0.3, data__classes=None) == ([], [])
    board = only_board(record("a", status="oom"))
    data = chart_data.data_sets(board, row_names(board.rows))
    assert (data["levels"], data["below"]) == ([], [])
