"""Boards on a terminal, through rich. Returns text; nothing is printed here."""

from __future__ import annotations

import io
import shutil
import sys

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pruneboard.leaderboard import Leaderboard
from pruneboard.report.tables import LEGEND, Page, Table, page, standing_tables

PIPED_WIDTH = 120
"""Columns where there is no terminal to ask, so that a file or a pipe gets whole tables."""

_ASCII = str.maketrans({"─": "-", "±": "+-", "○": "o", "…": "..."})


def terminal(whole: Leaderboard, width: int | None = None, *, color: bool | None = None) -> str:
    """Return the boards as text for a terminal.

    Args:
        whole: the boards and what they were made of.
        width: columns. Operating points that do not fit continue below; columns about single rows that do not
            fit are named, and stand in the files. None asks the terminal.
        color: whether to use colors; None means on a terminal only.
    """
    width = width or screen_width()
    parts: list[RenderableType] = []
    for board in whole.boards:
        parts += _board(page(board), width)
    for heading, table, note in standing_tables(whole):
        parts += [Text(heading, style="bold"), Text(""), rich_table(table), *([Text(note)] if note else []), Text("")]
    parts += [Text(line, style="dim") for line in LEGEND]
    return render(Group(*parts), width, color=color)


def render(content: RenderableType, width: int | None = None, *, color: bool | None = None) -> str:
    """Return anything rich can draw as text for standard output, without a line end after it.

    Args:
        content: a rich renderable; text from records must be in `rich.text.Text`, never in markup.
        width: columns; None asks the terminal.
        color: whether to use colors; None means on a terminal only.
    """
    color = sys.stdout.isatty() if color is None else color
    file = io.StringIO()
    console = Console(
        file=file,
        width=width or screen_width(),
        force_terminal=color,
        color_system="standard" if color else None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(content)
    lines = [line if color else line.rstrip() for line in file.getvalue().splitlines()]
    return _encodable("\n".join(lines).rstrip("\n"))


def screen_width() -> int:
    """Return the terminal's columns, or `PIPED_WIDTH` where there is no terminal."""
    return max(40, shutil.get_terminal_size((PIPED_WIDTH, 24)).columns)


def rich_table(table: Table) -> RichTable:
    """Return a table whose cells stay on one line each; the first columns are text, the others numbers."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(table.headers):
        justify: JustifyMethod = "left" if index < table.keys else "right"
        drawn.add_column(Text(header), justify=justify, no_wrap=True, overflow="ellipsis")
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def split(table: Table, width: int) -> list[Table]:
    """Cut a table into as many as it takes to fit `width`, each with the key columns."""
    # Three columns of space between two cells is how rich draws this box; the last cell needs none.
    sizes = [3 + max(map(cell_len, column)) for column in zip(table.headers, *table.rows, strict=True)]
    keys = range(table.keys)
    pieces: list[list[int]] = []
    room = 0
    for index in range(table.keys, len(sizes)):
        if not pieces or room < sizes[index]:
            pieces.append([])
            room = width + 3 - sum(sizes[key] for key in keys)
        pieces[-1].append(index)
        room -= sizes[index]
    return [_columns(table, [*keys, *piece]) for piece in pieces]


def _board(content: Page, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(content.heading, style="bold")]
    parts += [Text(fact, style="dim") for fact in content.facts]
    detail, *rest = split(content.detail, width)
    for table in (*split(content.grid, width), *split(content.curves, width), detail):
        parts += [Text(""), rich_table(table)] if table.rows else []
    left_out = ", ".join(header for table in rest for header in table.headers[table.keys :])
    notes = [*content.notes, *([f"wider, or in the files: {left_out}"] if left_out else [])]
    return [*parts, *([Text("")] if notes else []), *map(Text, notes), Text("")]


def _columns(table: Table, chosen: list[int]) -> Table:
    rows = tuple(tuple(row[index] for index in chosen) for row in table.rows)
    return Table(tuple(table.headers[index] for index in chosen), rows, table.keys)


def _encodable(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
