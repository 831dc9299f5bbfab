"""The leaderboard as one HTML file that opens from disk: no network, readable without scripts, below 10 MB.

Texts are escaped by the templates and by `templating.script`. The largest boards stand in plain HTML, further ones
are packed (`packing`) and unpacked when they are chosen; what does not fit even so is named, and stands in the CSV
and JSON files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pruneboard.leaderboard import Board, Leaderboard, Run
from pruneboard.leaderboard.stats import COVERAGE
from pruneboard.report import charts, styles
from pruneboard.report.clean import plain
from pruneboard.report.details import detail
from pruneboard.report.figures import MOST
from pruneboard.report.packing import Part, Room
from pruneboard.report.section import Context, section
from pruneboard.report.tables import LEGEND, standing_tables
from pruneboard.report.templating import asset, library, markup, render, script

LARGEST = 9_900_000
"""Bytes of the whole page at most."""

PLAIN_BOARDS, PACKED_BOARDS = 1_400_000, 6_000_000
PLAIN_RUNS, PACKED_RUNS = 500_000, 500_000
"""Bytes of each kind of part. Vega takes 0.9 million, lists and headings what is left; where hostile names need more,
the page is laid out again with less."""

MOST_NAMED = 300
"""Boards and problems that are named at most where they cannot be shown."""

SECURITY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""Nothing is ever loaded. Vega runs by its interpreter of expressions, so nothing needs to be compiled either."""

_SCRIPTS = ("table.js", "chart.js", "page.js")
_FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def html(board: Leaderboard) -> str:
    """Return the page; the same leaderboard gives the same bytes."""
    for share in (1.0, 0.6, 0.3, 0.1):
        page = _page(board, share)
        if len(page.encode("utf-8", "replace")) <= LARGEST:
            return page
    return _page(board, 0.0)


def _page(board: Leaderboard, share: float) -> str:
    """Lay the page out, with boards and runs in a share of the room they have at most."""
    few = Room(int(share * PLAIN_RUNS), int(share * PACKED_RUNS))
    many = Room(int(share * PLAIN_BOARDS), int(share * PACKED_BOARDS))
    runs = _runs(board.runs, few)
    parts = _boards(board, {part.item.key for part in runs}, many)
    shown = [part for part in parts if part.plain or part.key in many.where]
    return render(
        "page.html",
        security=SECURITY,
        style=asset("page.css"),
        vega=library(),
        scripts=[asset(name) for name in _SCRIPTS],
        settings=script(_settings(shown)),
        packed=script([{"where": room.where, "chunks": room.chunks} for room in (few, many)]),
        tracks=[(track, [part for part in shown if part.track == track]) for track in ("prune", "supermask")],
        standings=dict(zip(board.standings, standing_tables(board), strict=True)),
        left_out=[part.title for part in parts if not (part.plain or part.key in many.where)],
        runs=runs,
        board=board,
        problems=[(plain(path, 300), plain(reason, 400)) for path, reason in board.problems[:MOST_NAMED]],
        legend=LEGEND,
        coverage=COVERAGE,
        named=MOST_NAMED,
    )


def _runs(runs: Sequence[Run], room: Room) -> list[Part]:
    """Return the runs there is room for: the first in plain HTML, the others packed."""
    parts: dict[str, Part] = {}
    for run in runs:
        item = detail(run)
        part = Part(f"run-{item.key}", item.path, item=item)
        if part.key not in parts and not room.full:
            text = render("run.html", run=item)
            parts[part.key] = replace(part, plain=markup(text)) if room.holds_plain(part.key, text) else part
    room.close()
    return [part for part in parts.values() if part.plain or part.key in room.where]


def _boards(board: Leaderboard, shown: set[str], room: Room) -> list[Part]:
    """Return all boards in their order; the largest are given room first."""
    context = Context(styles.preferred(board.boards), board.verdicts, shown)
    parts = _parts(board.boards)
    for place, index in enumerate(sorted(range(len(parts)), key=lambda index: -len(board.boards[index].rows))):
        if room.full:
            break
        one, part = board.boards[index], parts[index]
        text = section(part, one, board.published.get(one.fingerprint, ()), context, drawn=place < MOST)
        if room.holds_plain(part.key, text):
            parts[index] = replace(part, plain=markup(text))
    room.close()
    return parts


def _parts(boards: Iterable[Board]) -> list[Part]:
    """Return the parts of all boards, yet empty; the address of each is its fingerprint, numbered if it comes twice."""
    used: dict[str, int] = {}
    parts = []
    for board in boards:
        again = used[board.fingerprint] = used.get(board.fingerprint, 0) + 1
        key = f"board-{board.fingerprint}" + (f"-{again}" if again > 1 else "")
        parts.append(Part(key, plain(f"{board.dataset} / {board.model} / {board.fingerprint}", 160), board.track))
    return parts


def _settings(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "boards": [{"key": part.key, "title": part.title, "track": part.track} for part in parts],
        "charts": {f"{x} {y}": charts.trade_off(x, y) for x in charts.X for y in charts.Y},
        "layers": charts.heat_map(),
        "config": {theme: charts.config(theme, _FONT) | {"background": "transparent"} for theme in ("light", "dark")},
    }
