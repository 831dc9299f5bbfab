"""The HTML of one board on the page: readable without scripts, with the data of its interactive charts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pruneboard.leaderboard import Board, Published
from pruneboard.leaderboard.names import RowNames
from pruneboard.report import chart_data, panels, styles, views
from pruneboard.report.escaping import printable
from pruneboard.report.figures import draw_data_uri
from pruneboard.report.size_budget import PagePart
from pruneboard.report.tables import percent, row_names, rules_notes, top1_text, tuning_notes
from pruneboard.report.templating import json_script, render

MAX_ROWS = 2_000
"""Limit for the rows of one board on the page. Complete methods are kept, in the order of their curves."""

MAX_FIELDS, MAX_DIFFERING = 120, 12
"""Limits for the listed fields of a board, and for those in which it differs from similar boards."""


@dataclass(frozen=True)
class PageContext:
    """What all boards of a page share.

    Attributes:
        positions: method -> position in the palette.
        verdicts: content hash -> verdict.
        shown_runs: content hashes of the runs whose details are on the page.
    """

    positions: Mapping[str, int]
    verdicts: Mapping[str, str]
    shown_runs: Collection[str]


def board_section(
    part: PagePart, board: Board, published: Sequence[Published], context: PageContext, *, drawn: bool
) -> str:
    """Return the HTML of one board.

    Args:
        part: where the board is on the page.
        board: the board.
        published: numbers from the literature to draw on it.
        context: what all boards share.
        drawn: whether to include a picture of the default chart, for readers without scripts.
    """
    all_rows, names = len(board.rows), row_names(board.rows)
    board = chart_data.limit_rows(board, MAX_ROWS)
    line_styles = styles.assign_styles(board.rows, names, context.positions)
    columns, costs = panels.costs(board, names)
    return render(
        "board.html",
        part=part,
        board=board,
        dataset=printable(board.dataset, 120),
        model=printable(board.model, 120),
        facts=views.facts(board),
        fields=views.flat(board.fields)[:MAX_FIELDS],
        differs=views.flat(board.differs)[:MAX_DIFFERING],
        rules_notes=list(rules_notes(board)),
        dense=f"{top1_text(board.dense.top1)} over {board.dense.n} seeds" if board.dense and board.dense.top1 else "",
        levels=[(name, percent(level)) for name, level in board.chance_levels.items()],
        failures=sum(len(row.failures) for row in board.rows),
        columns=views.COLUMNS,
        before=views.BEFORE_VERDICT,
        lines=[
            views.row_view(row, name := names[row.identity], line_styles[name], context.verdicts, context.shown_runs)
            for row in board.rows
        ],
        line_styles=list(line_styles.values()),
        symbols=styles.SYMBOLS,
        curves=[(names[curve.rows[0].identity], curve) for curve in board.curves],
        panels=panels,
        cost_columns=columns,
        costs=costs,
        data=json_script(_chart_data(board, names, line_styles, published)),
        picture=draw_data_uri(board, names, line_styles, published) if drawn else "",
        literature=len(published),
        tuning=list(tuning_notes(board, names)),
        rows_left_out=all_rows - len(board.rows),
        seeds_left_out=chart_data.seeds_left_out(board),
    )


def _chart_data(
    board: Board, names: RowNames, line_styles: Mapping[str, styles.Style], published: Sequence[Published]
) -> dict[str, Any]:
    return {
        "layers": chart_data.layers(board, names),
        "points": chart_data.data_sets(board, names, published),
        "styles": [asdict(style) for style in line_styles.values()],
        "ticks": chart_data.ticks(board),
    }
