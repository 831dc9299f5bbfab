"""Figures for papers and pages: the accuracy-sparsity chart of each board as SVG and PNG, through vl-convert."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pruneboard.leaderboard import Board, Leaderboard, Published
from pruneboard.leaderboard.names import RowNames
from pruneboard.report import chart_data, charts, styles
from pruneboard.report.escaping import printable
from pruneboard.report.styles import Style
from pruneboard.report.tables import row_names

MAX_FIGURES = 12
"""Number of boards that are drawn, starting with the largest. A figure takes 0.2 s, or 0.4 s for 200 rows."""

MAX_DOTS = 500
"""Limit for the dots of single seeds in one figure. Beyond it, dots hide each other and are not drawn."""

WIDTH, HEIGHT = 640, 360
"""Size of the plot in pixels, without axes and legend. A PNG has twice the resolution."""

MAX_MARKS = 300
"""Limit for the rows in one figure. Complete methods are kept, in the order of their curves."""


def figures(leaderboard: Leaderboard) -> dict[str, bytes]:
    """Return file name -> content of an SVG and a PNG for each board with at least one operating point.

    File names consist of data set, model, track and fingerprint, reduced to letters, digits, dots, underscores and
    hyphens, so that no text of a record can form a path. Boards beyond `MAX_FIGURES` are listed in `left-out.txt`.
    """
    drawable = [board for board in leaderboard.boards if _count_marks(board)]
    chosen = {id(board) for board in sorted(drawable, key=lambda board: -len(board.rows))[:MAX_FIGURES]}
    positions, files, left = styles.palette_positions(leaderboard.boards), dict[str, bytes](), []
    for board in drawable:
        svg = ""
        if id(board) in chosen:
            names = row_names(board.rows)
            line_styles = styles.assign_styles(board.rows, names, positions)
            svg = draw(board, names, line_styles, leaderboard.published.get(board.fingerprint, ()))
        if svg:
            files |= _files(_unused(file_name(board), files), svg)
        else:
            left.append(board)
    return files | ({"left-out.txt": _left_out(left)} if left else {})


def _files(name: str, svg: str) -> dict[str, bytes]:
    import vl_convert

    return {f"{name}.svg": svg.encode("utf-8"), f"{name}.png": vl_convert.svg_to_png(svg, scale=2)}


def file_name(board: Board) -> str:
    """Return the file name of a board's figure, without the extension."""
    return "-".join(_safe(part) for part in (board.dataset, board.model, board.track, board.fingerprint))


def draw(board: Board, names: RowNames, line_styles: Mapping[str, Style], published: Sequence[Published] = ()) -> str:
    """Return the accuracy-sparsity chart as SVG with title and legend; an empty string if there is nothing to draw."""
    if not _count_marks(board):
        return ""
    some = chart_data.limit_rows(board, MAX_MARKS)
    data = chart_data.data_sets(some, names, published)
    dots = sum(len(cell["tops"]) for cell in data["cells"])
    data["seeds"] = data["cells"] if dots <= MAX_DOTS else []
    shown = {names[row.identity] for row in some.rows if row is not some.dense}
    drawn = [style for name, style in line_styles.items() if name in shown]
    spec = charts.fill(charts.trade_off(), data, drawn, chart_data.ticks(some))
    spec |= {"width": WIDTH, "height": HEIGHT, "title": _title(board, len(some.curves)), "padding": 12}
    return _svg(json.dumps(spec, sort_keys=True, ensure_ascii=False))


def draw_data_uri(
    board: Board, names: RowNames, line_styles: Mapping[str, Style], published: Sequence[Published] = ()
) -> str:
    """Return the same figure as a `data:` URI for a page; an empty string if there is nothing to draw."""
    svg = draw(board, names, line_styles, published).encode("utf-8")
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}" if svg else ""


@lru_cache(maxsize=64)
def _svg(spec: str) -> str:
    import vl_convert

    # Vega truncates long labels by UTF-16 units and can split these characters, at which vl-convert fails.
    spec = re.sub("[\U00010000-\U0010ffff]", "\ufffd", spec)
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return _renumbered(svg)


def _renumbered(svg: str) -> str:
    """Number clip paths from 1. Vega numbers them over the lifetime of the process, so bytes would differ."""
    order: dict[str, str] = {}
    return re.sub(
        r'(<clipPath id="clip|clip-path="url\(#clip)(\d+)',
        lambda match: match[1] + order.setdefault(match[2], str(len(order) + 1)),
        svg,
    )


def _title(board: Board, shown: int) -> dict[str, str]:
    kind = "accuracy of masks over frozen random weights" if board.track == "supermask" else "accuracy against sparsity"
    part = "" if shown == len(board.curves) else f"{shown} of {len(board.curves)} methods; "
    return {
        "text": printable(f"{board.dataset}, {board.model}", 120),
        "subtitle": printable(
            f"{part}{kind}; mean and Student-t 95 % interval over seeds; board {board.fingerprint}", 160
        ),
    }


def _count_marks(board: Board) -> int:
    return sum(1 for row in board.rows if row.target is not None)


def _safe(part: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", ascii_only).strip("._-")[:60] or "_"


def _unused(name: str, files: Mapping[str, bytes]) -> str:
    """Return a file name that is not used yet, including on case-insensitive file systems."""
    used = {other.casefold() for other in files}
    number, unused = 1, name
    while f"{unused}.svg".casefold() in used:
        number += 1
        unused = f"{name}-{number}"
    return unused


def _left_out(boards: Sequence[Board]) -> bytes:
    lines = [f"{len(boards)} boards without a figure; their numbers are in leaderboard.csv and leaderboard.json."]
    lines += [printable(f"{one.dataset} / {one.model} / {one.track} / {one.fingerprint}", 300) for one in boards]
    return ("\n".join(lines) + "\n").encode("utf-8")
