"""The leaderboard as a single HTML file below 10 MB that opens from disk, without a network and without scripts.

The templates and `templating.json_script` escape all texts. The largest boards are plain HTML. Further boards are
compressed (`size_budget`) and shown when they are selected. Boards that do not fit even then are only named; the CSV
and JSON files contain them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pruneboard.leaderboard import Board, Leaderboard, RunEntry
from pruneboard.leaderboard.stats import COVERAGE
from pruneboard.report import charts, styles
from pruneboard.report.board_section import PageContext, board_section
from pruneboard.report.escaping import printable
from pruneboard.report.figures import MAX_FIGURES
from pruneboard.report.run_details import run_details
from pruneboard.report.size_budget import PagePart, SizeBudget
from pruneboard.report.tables import LEGEND, standing_tables
from pruneboard.report.templating import asset, json_script, mark_safe, render, vega_bundle

MAX_BYTES = 9_900_000
"""Size limit of the page."""

PLAIN_BOARDS, COMPRESSED_BOARDS = 1_400_000, 6_000_000
PLAIN_RUNS, COMPRESSED_RUNS = 500_000, 500_000
"""Size limits of the parts, in bytes. The rest is for Vega (0.9 million) and for lists and headings. If very long names
need more, the page is built again with lower limits."""

MAX_NAMED = 300
"""Limit for the lists of left-out boards and of unusable files."""

SECURITY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""The page loads nothing. Vega uses its expression interpreter, so `unsafe-eval` is not needed either."""

_SCRIPTS = ("table.js", "chart.js", "page.js")
_FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def html(leaderboard: Leaderboard) -> str:
    """Return the page. The same leaderboard gives the same bytes."""
    for share in (1.0, 0.6, 0.3, 0.1):
        page = _build(leaderboard, share)
        if len(page.encode("utf-8", "replace")) <= MAX_BYTES:
            return page
    return _build(leaderboard, 0.0)


def _build(leaderboard: Leaderboard, share: float) -> str:
    """Return the page with this share of the size limits for boards and runs."""
    for_runs = SizeBudget(int(share * PLAIN_RUNS), int(share * COMPRESSED_RUNS))
    for_boards = SizeBudget(int(share * PLAIN_BOARDS), int(share * COMPRESSED_BOARDS))
    runs = _run_parts(leaderboard.runs, for_runs)
    parts = _board_parts(leaderboard, {part.item.key for part in runs}, for_boards)
    shown = [part for part in parts if part.html or part.key in for_boards.positions]
    return render(
        "page.html",
        security=SECURITY,
        style=asset("page.css"),
        vega=vega_bundle(),
        scripts=[asset(name) for name in _SCRIPTS],
        settings=json_script(_settings(shown)),
        compressed=json_script([{"positions": b.positions, "chunks": b.chunks} for b in (for_runs, for_boards)]),
        tracks=[(track, [part for part in shown if part.track == track]) for track in ("prune", "supermask")],
        standings=dict(zip(leaderboard.standings, standing_tables(leaderboard), strict=True)),
        left_out=[part.title for part in parts if not (part.html or part.key in for_boards.positions)],
        runs=runs,
        leaderboard=leaderboard,
        problems=[(printable(path, 300), printable(reason, 400)) for path, reason in leaderboard.problems[:MAX_NAMED]],
        legend=LEGEND,
        coverage=COVERAGE,
        max_named=MAX_NAMED,
    )


def _run_parts(runs: Sequence[RunEntry], budget: SizeBudget) -> list[PagePart]:
    """Return the runs that fit: the first as plain HTML, the others compressed."""
    parts: dict[str, PagePart] = {}
    for run in runs:
        item = run_details(run)
        part = PagePart(f"run-{item.key}", item.path, item=item)
        if part.key not in parts and not budget.full:
            text = render("run.html", run=item)
            parts[part.key] = replace(part, html=mark_safe(text)) if budget.fits_plain(part.key, text) else part
    budget.flush()
    return [part for part in parts.values() if part.html or part.key in budget.positions]


def _board_parts(leaderboard: Leaderboard, shown_runs: set[str], budget: SizeBudget) -> list[PagePart]:
    """Return all boards in their order. The largest boards use the budget first."""
    boards = leaderboard.boards
    context = PageContext(styles.palette_positions(boards), leaderboard.verdicts, shown_runs)
    parts = _empty_parts(boards)
    for position, index in enumerate(sorted(range(len(parts)), key=lambda index: -len(boards[index].rows))):
        if budget.full:
            break
        board, part = boards[index], parts[index]
        published = leaderboard.published.get(board.fingerprint, ())
        text = board_section(part, board, published, context, drawn=position < MAX_FIGURES)
        if budget.fits_plain(part.key, text):
            parts[index] = replace(part, html=mark_safe(text))
    budget.flush()
    return parts


def _empty_parts(boards: Iterable[Board]) -> list[PagePart]:
    """Return the parts of all boards without content. Keys are fingerprints, numbered if a fingerprint repeats."""
    used: dict[str, int] = {}
    parts = []
    for board in boards:
        count = used[board.fingerprint] = used.get(board.fingerprint, 0) + 1
        key = f"board-{board.fingerprint}" + (f"-{count}" if count > 1 else "")
        title = printable(f"{board.dataset} / {board.model} / {board.fingerprint}", 160)
        parts.append(PagePart(key, title, board.track))
    return parts


def _settings(parts: Sequence[PagePart]) -> dict[str, Any]:
    return {
        "boards": [{"key": part.key, "title": part.title, "track": part.track} for part in parts],
        "charts": {f"{x} {y}": charts.trade_off(x, y) for x in charts.X_AXES for y in charts.Y_AXES},
        "layers": charts.heat_map(),
        "config": {theme: charts.config(theme, _FONT) | {"background": "transparent"} for theme in ("light", "dark")},
    }
