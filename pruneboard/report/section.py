"""One board of the page: everything in it, as HTML that is readable without scripts, and the data of its charts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pruneboard.leaderboard import Board, Published
from pruneboard.leaderboard.model import Identity
from pruneboard.report import panels, points, styles, views
from pruneboard.report.clean import plain
from pruneboard.report.figures import picture
from pruneboard.report.packing import Part
from pruneboard.report.tables import row_names, top1_text, tuning_notes
from pruneboard.report.templating import render, script

MOST_ROWS = 2_000
"""Rows of one board on the page: whole methods, in the order of their curves."""

MOST_FIELDS, MOST_DIFFERING = 120, 12
"""Fields of a board, and of what tells it from its siblings, that are listed."""


@dataclass(frozen=True)
class Context:
    """What all boards of a page share.

    Attributes:
        places: method -> its place in the palette.
        verdicts: content hash -> verdict.
        shown: content hashes of the runs that the page has details of.
    """

    places: Mapping[str, int]
    verdicts: Mapping[str, str]
    shown: Collection[str]


def section(part: Part, board: Board, published: Sequence[Published], context: Context, *, drawn: bool) -> str:
    """Return the HTML of one board; `drawn` has its default chart drawn ahead, for readers without scripts."""
    whole, names = len(board.rows), row_names(board.rows)
    board = points.cut(board, MOST_ROWS)
    line_styles = styles.of(board.rows, names, context.places)
    columns, costs = panels.costs(board, names)
    return render(
        "board.html",
        part=part,
        board=board,
        dataset=plain(board.dataset, 120),
        model=plain(board.model, 120),
        facts=views.facts(board),
        fields=views.flat(board.fields)[:MOST_FIELDS],
        differs=views.flat(board.differs)[:MOST_DIFFERING],
        dense=f"{top1_text(board.dense.top1)} over {board.dense.n} seeds" if board.dense and board.dense.top1 else "",
        failures=sum(len(row.failures) for row in board.rows),
        columns=views.COLUMNS,
        before=views.BEFORE_VERDICT,
        lines=[
            views.line(row, names[row.identity], line_styles[names[row.identity]], context.verdicts, context.shown)
            for row in board.rows
        ],
        line_styles=list(line_styles.values()),
        symbols=styles.SYMBOLS,
        curves=[(names[curve.rows[0].identity], curve) for curve in board.curves],
        panels=panels,
        cost_columns=columns,
        costs=costs,
        data=script(_data(board, names, line_styles, published)),
        picture=picture(board, names, line_styles, published) if drawn else "",
        literature=len(published),
        tuning=list(tuning_notes(board, names)),
        rows_left_out=whole - len(board.rows),
        seeds_left_out=points.seeds_left_out(board),
    )


def _data(
    board: Board, names: Mapping[Identity, str], line_styles: Mapping[str, styles.Style], published: Sequence[Published]
) -> dict[str, Any]:
    return {
        "layers": points.layers(board, names),
        "points": points.data_sets(board, names, published),
        "styles": [asdict(style) for style in line_styles.values()],
        "ticks": points.ticks(board),
    }
