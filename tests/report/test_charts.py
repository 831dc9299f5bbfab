"""Tests the Vega-Lite templates."""

from __future__ import annotations

import pytest

from pruneboard.report import chart_data, charts, styles
from pruneboard.report.tables import row_names


def styles_of(board):
    """Return name -> style of a board's rows."""
    return styles.assign_styles(board.rows, row_names(board.rows), {})


@pytest.mark.parametrize("x", charts.X_AXES)
@pytest.mark.parametrize("y", charts.Y_AXES)
def test_templates_are_valid_vega_lite(everything, x, y):
    """Every template and every filled template is valid under the schema of Vega-Lite."""
    altair = pytest.importorskip("altair")
    one = everything.boards[0]
    line_styles = list(styles_of(one).values())
    filled = charts.fill(
        charts.trade_off(x, y), chart_data.data_sets(one, row_names(one.rows)), line_styles, chart_data.ticks(one)
    )
    altair.LayerChart.from_dict(filled, validate=True)
    altair.LayerChart.from_dict(charts.heat_map(), validate=True)


def test_filling_changes_only_a_copy(everything):
    """The next template is empty again."""
    before = charts.trade_off()
    charts.fill(charts.trade_off(), {}, list(styles_of(everything.boards[0]).values()), {"kept": [0.5]})
    assert charts.trade_off() == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_filled_templates_have_styles_ticks_and_theme(everything, theme):
    """Every scale of the methods has the colours, dashes and shapes of the board, and the x axes have its ticks."""
    board = everything.boards[0]
    line_styles = list(styles_of(board).values())
    filled = charts.fill(charts.trade_off(), {"cells": []}, line_styles, {"kept": [0.5, 0.1]}, theme)
    scales = [
        layer["encoding"]["color"]["scale"]
        for layer in filled["layer"]
        if layer["encoding"].get("color", {}).get("field") == "method"
    ]
    assert scales
    for scale in scales:
        expected = {style.name: getattr(style, theme) for style in line_styles}
        assert dict(zip(scale["domain"], scale["range"], strict=True)) == expected
    axes = [
        layer["encoding"]["x"] for layer in filled["layer"] if layer["encoding"].get("x", {}).get("field") == "kept"
    ]
    assert axes
    assert all(axis["axis"]["values"] == [0.5, 0.1] for axis in axes)
    assert (filled["datasets"], filled["config"]) == ({"cells": []}, charts.config(theme))
