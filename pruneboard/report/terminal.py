"""Leaderboards as text for a terminal, through rich. Functions return text and print nothing."""

from __future__ import annotations

import io
import shutil
import sys
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pruneboard.leaderboard import Leaderboard
from pruneboard.report.tables import LEGEND, BoardTables, Table, board_tables, standing_tables

PIPED_WIDTH = 120
"""Width in columns if the output is not a terminal, so that files and pipes get complete tables."""

MAX_BOARDS = MAX_ROWS = 200
"""Limits for the boards on a terminal, and for the rows of a table; notes state the numbers of the others."""

_ASCII = str.maketrans({"─": "-", "±": "+-", "○": "o", "…": "..."})


def terminal(leaderboard: Leaderboard, width: int | None = None, *, color: bool | None = None) -> str:
    """Return the boards as text for a terminal.

    Args:
        leaderboard: the boards and their runs.
        width: width in columns; None uses the width of the terminal. Operating points that do not fit continue in a
            further table. Columns of the table of all rows that do not fit are left out, and a note lists them.
        color: whether to use colors; None uses them on a terminal only.
    """
    width = width or screen_width()
    parts: list[RenderableType] = []
    for board in leaderboard.boards[:MAX_BOARDS]:
        parts += _board(board_tables(board), width)
    if len(leaderboard.boards) > MAX_BOARDS:
        more = f"{len(leaderboard.boards) - MAX_BOARDS:,} further boards are not shown here"
        parts += [Text(f"{more}; --json and the written files contain them"), Text("")]
    for heading, table, note in standing_tables(leaderboard):
        parts += [Text(heading, style="bold"), Text(""), rich_table(table), *([Text(note)] if note else []), Text("")]
    parts += [Text(line, style="dim") for line in LEGEND]
    return render(Group(*parts), width, color=color)


def render(content: RenderableType, width: int | None = None, *, color: bool | None = None) -> str:
    """Return a rich renderable as text for standard output, without a final newline.

    Args:
        content: a rich renderable; text from records must be in `rich.text.Text`, never in markup.
        width: width in columns; None uses the width of the terminal.
        color: whether to use colors; None uses them on a terminal only.
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
    """Return the width of the terminal in columns, or `PIPED_WIDTH` if there is no terminal."""
    return max(40, shutil.get_terminal_size((PIPED_WIDTH, 24)).columns)


def rich_table(table: Table) -> RichTable:
    """Return a rich table with one line per row. Key columns are aligned to the left, the others to the right."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(table.headers):
        justify: JustifyMethod = "left" if index < table.keys else "right"
        drawn.add_column(Text(header), justify=justify, no_wrap=True, overflow="ellipsis")
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def split_columns(table: Table, width: int) -> list[Table]:
    """Split a table by columns into tables that fit `width`, each with the key columns."""
    # rich separates the cells of this box style by three spaces; there are none after the last cell.
    sizes = [3 + max(map(cell_len, column)) for column in zip(table.headers, *table.rows, strict=True)]
    keys = range(table.keys)
    pieces: list[list[int]] = []
    left = 0  # free columns in the last piece
    for index in range(table.keys, len(sizes)):
        if not pieces or left < sizes[index]:
            pieces.append([])
            left = width + 3 - sum(sizes[key] for key in keys)
        pieces[-1].append(index)
        left -= sizes[index]
    return [_columns(table, [*keys, *piece]) for piece in pieces]


def _board(content: BoardTables, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(content.heading, style="bold")]
    parts += [Text(fact, style="dim") for fact in content.facts]
    grid, curves, all_rows = (
        replace(t, rows=t.rows[:MAX_ROWS]) for t in (content.grid, content.curves, content.detail)
    )
    detail, *rest = split_columns(all_rows, width)
    for table in (*split_columns(grid, width), *split_columns(curves, width), detail):
        parts += [Text(""), rich_table(table)] if table.rows else []
    hidden = len(content.detail.rows) - MAX_ROWS
    left_out = ", ".join(header for table in rest for header in table.headers[table.keys :])
    notes = [
        *content.notes,
        *([f"further columns, in the files or on a wider terminal: {left_out}"] if left_out else []),
        *([f"the tables have the first {MAX_ROWS} rows here; the files have {hidden:,} more"] if hidden > 0 else []),
    ]
    return [*parts, *([Text("")] if notes else []), *map(Text, notes), Text("")]


def _columns(table: Table, chosen: list[int]) -> Table:
    rows = tuple(tuple(row[index] for index in chosen) for row in table.rows)
    return Table(tuple(table.headers[index] for index in chosen), rows, table.keys)


def _encodable(text: str) -> str:
    """Return text that standard output can encode, with ASCII instead of lines and symbols where necessary."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
