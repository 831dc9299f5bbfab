"""Figures for papers and pages: accuracy against sparsity of each board as SVG and PNG, through vl-convert."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pruneboard.leaderboard import Board, Leaderboard, Published
from pruneboard.leaderboard.model import Identity
from pruneboard.report import charts, points, styles
from pruneboard.report.clean import plain
from pruneboard.report.styles import Style
from pruneboard.report.tables import row_names

MOST = 12
"""Boards that are drawn, those with most rows first; each takes a fifth of a second, one with 200 rows twice that."""

MOST_DOTS = 500
"""Dots of single seeds in one figure; beyond it they hide each other, and only means and intervals are drawn."""

WIDTH, HEIGHT = 640, 360
"""Size of the plot in pixels, without axes and legend; a PNG has twice as many."""

MOST_MARKS = 300
"""Rows in one figure: whole methods, in the order of their curves."""


def figures(board: Leaderboard) -> dict[str, bytes]:
    """Return file name -> bytes of an SVG and a PNG for each board that has something to draw.

    Names are made of data set, model, track and fingerprint, reduced to letters, digits, dots, underscores and
    hyphens; no text of a record makes a path. Boards beyond `MOST` are named in `left-out.txt`.
    """
    drawable = [one for one in board.boards if _marks(one)]
    chosen = {id(one) for one in sorted(drawable, key=lambda one: -len(one.rows))[:MOST]}
    places, files, left = styles.preferred(board.boards), dict[str, bytes](), []
    for one in drawable:
        svg = ""
        if id(one) in chosen:
            names = row_names(one.rows)
            svg = draw(one, names, styles.of(one.rows, names, places), board.published.get(one.fingerprint, ()))
        if svg:
            files |= _files(_free(file_name(one), files), svg)
        else:
            left.append(one)
    return files | ({"left-out.txt": _left_out(left)} if left else {})


def _files(name: str, svg: str) -> dict[str, bytes]:
    import vl_convert

    return {f"{name}.svg": svg.encode("utf-8"), f"{name}.png": vl_convert.svg_to_png(svg, scale=2)}


def file_name(board: Board) -> str:
    """Return the name of a board's figure without its ending."""
    return "-".join(_safe(part) for part in (board.dataset, board.model, board.track, board.fingerprint))


def draw(
    board: Board, names: Mapping[Identity, str], line_styles: Mapping[str, Style], published: Sequence[Published] = ()
) -> str:
    """Return accuracy against sparsity as SVG with a heading and a legend; nothing where there is nothing to draw."""
    if not _marks(board):
        return ""
    some = points.cut(board, MOST_MARKS)
    data = points.data_sets(some, names, published)
    dots = sum(len(cell["tops"]) for cell in data["cells"])
    data["seeds"] = data["cells"] if dots <= MOST_DOTS else []
    shown = {names[row.identity] for row in some.rows if row is not some.dense}
    drawn = [style for name, style in line_styles.items() if name in shown]
    spec = charts.fill(charts.trade_off(), data, drawn, points.ticks(some))
    spec |= {"width": WIDTH, "height": HEIGHT, "title": _title(board, len(some.curves)), "padding": 12}
    return _svg(json.dumps(spec, sort_keys=True, ensure_ascii=False))


def picture(
    board: Board, names: Mapping[Identity, str], line_styles: Mapping[str, Style], published: Sequence[Published] = ()
) -> str:
    """Return the same figure as the address of an image, to stand in a page; nothing where there is none."""
    svg = draw(board, names, line_styles, published).encode("utf-8")
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}" if svg else ""


@lru_cache(maxsize=64)
def _svg(spec: str) -> str:
    import vl_convert

    # Vega shortens long names between the halves of such characters, which vl-convert cannot measure.
    spec = re.sub("[\U00010000-\U0010ffff]", "\ufffd", spec)
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return _renumbered(svg)


def _renumbered(svg: str) -> str:
    """Number clipping paths from 1: Vega counts them through the life of the process, so bytes would differ."""
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
        "text": plain(f"{board.dataset}, {board.model}", 120),
        "subtitle": plain(f"{part}{kind}; mean and Student-t 95 % interval over seeds; board {board.fingerprint}", 160),
    }


def _marks(board: Board) -> int:
    return sum(1 for row in board.rows if row.target is not None)


def _safe(part: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", ascii_only).strip("._-")[:60] or "_"


def _free(name: str, files: Mapping[str, bytes]) -> str:
    """Return a name no file has yet, also where capitals do not count."""
    used = {other.casefold() for other in files}
    number, free = 1, name
    while f"{free}.svg".casefold() in used:
        number += 1
        free = f"{name}-{number}"
    return free


def _left_out(boards: Sequence[Board]) -> bytes:
    lines = [f"{len(boards)} boards without a figure here; leaderboard.csv and leaderboard.json have their numbers."]
    lines += [plain(f"{one.dataset} / {one.model} / {one.track} / {one.fingerprint}", 300) for one in boards]
    return ("\n".join(lines) + "\n").encode("utf-8")
