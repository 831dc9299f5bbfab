"""Boards as files: Markdown for people, CSV for spreadsheets, JSON for programs. Pure functions."""

from __future__ import annotations

import csv as csvlib
import dataclasses
import io
import json as jsonlib
from collections.abc import Iterable, Sequence
from typing import Any

from pruneboard.leaderboard import Board, Row
from pruneboard.report.clean import csv_text, markdown_text, plain
from pruneboard.report.tables import LEGEND, Page, Table, page

SCHEMA = 1
"""Version of the layout of `leaderboard.json`."""


def markdown(boards: Sequence[Board]) -> str:
    """Return the boards as one Markdown document: per board accuracy against sparsity, then every row."""
    lines = ["# Leaderboard", ""]
    for board in boards:
        lines += _section(page(board))
    return "\n".join([*lines, *_bullets(LEGEND)]).rstrip() + "\n"


def csv(boards: Sequence[Board]) -> str:
    """Return one line per row of every board; fractions stay fractions, in full precision."""
    file = io.StringIO()
    writer = csvlib.DictWriter(file, fieldnames=_CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for board in boards:
        writer.writerows(_csv_row(board, row) for row in board.rows)
    return file.getvalue()


def json(boards: Sequence[Board]) -> str:
    """Return everything the boards hold as one JSON document with a `schema` number."""
    document = {"schema": SCHEMA, "boards": [_json_board(board) for board in boards]}
    return jsonlib.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _section(content: Page) -> list[str]:
    lines = [f"## {markdown_text(content.heading)}", "", *_bullets(content.facts)]
    for table in (content.grid, content.detail):
        lines += _markdown_table(table)
    return lines + _bullets(content.notes)


def _bullets(texts: Iterable[str]) -> list[str]:
    lines = [f"- {markdown_text(text)}" for text in texts]
    return [*lines, ""] if lines else []


def _markdown_table(table: Table) -> list[str]:
    if not table.rows:
        return []
    rule = ["---" if index < table.keys else "---:" for index in range(len(table.headers))]
    cells = [[markdown_text(cell) for cell in row] for row in (table.headers, *table.rows)]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])] + [""]


_CSV_COLUMNS = (
    *("dataset", "model", "track", "fingerprint", "method", "distribution", "version", "options"),
    *("ablation", "variant", "control", "target", "measured", "off_target", "n", "label", "rank", "seeds"),
    *("top1_mean", "top1_sd", "top1_low", "top1_high"),
    *("drop_n", "drop_mean", "drop_sd", "drop_low", "drop_high", "unpaired"),
    *("compression", "macs_remaining", "relative_train_macs", "forward_passes", "wall_seconds"),
    *("failed", "failures", "repeats", "superseded"),
)


def _csv_row(board: Board, row: Row) -> dict[str, Any]:
    values = {name: getattr(board, name) for name in ("dataset", "model", "track", "fingerprint")}
    values |= {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    values |= {"n": row.n, "label": row.label, "failed": len(row.failures)}
    values["options"] = jsonlib.dumps(row.options, sort_keys=True)
    values["seeds"] = " ".join(map(str, row.seeds))
    values["unpaired"] = " ".join(map(str, row.unpaired))
    values["failures"] = "; ".join(f"seed {f.seed} {f.status}: {f.message}" for f in row.failures)
    for name in ("top1", "drop"):
        estimate = values[name]
        values |= {f"{name}_{key}": value for key, value in dataclasses.asdict(estimate).items()} if estimate else {}
    return {name: _csv_value(values.get(name)) for name in _CSV_COLUMNS}


def _csv_value(value: Any) -> Any:
    return csv_text(plain(value, 10_000)) if isinstance(value, str) else value


def _json_board(board: Board) -> dict[str, Any]:
    # `dense` is one of the rows, marked there by its `control`.
    values = {item.name: getattr(board, item.name) for item in dataclasses.fields(board) if item.name != "dense"}
    return values | {"rows": [_json_row(row) for row in board.rows]}


def _json_row(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"n": row.n, "label": row.label}
