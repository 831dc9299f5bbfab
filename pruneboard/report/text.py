"""Leaderboards as Markdown (for people), CSV (for spreadsheets) and JSON (for programs)."""

from __future__ import annotations

import csv as csvlib
import dataclasses
import io
import json as jsonlib
from collections.abc import Iterable, Mapping
from typing import Any

from pruneboard.leaderboard import Board, Curve, Leaderboard, Row
from pruneboard.leaderboard.model import LayerShare
from pruneboard.leaderboard.stats import MethodComparison
from pruneboard.report.escaping import csv_text, markdown_text, printable
from pruneboard.report.tables import LEGEND, BoardTables, Table, board_tables, standing_tables

SCHEMA = 2
"""Version of the layout of `leaderboard.json`."""


def markdown(leaderboard: Leaderboard) -> str:
    """Return a Markdown document with, for each board, accuracy by sparsity, areas, and all rows."""
    lines = ["# Leaderboard", ""]
    for board in leaderboard.boards:
        lines += _section(board_tables(board))
    for heading, table, note in standing_tables(leaderboard):
        lines += [f"## {markdown_text(heading)}", "", *_markdown_table(table), *_bullets([note] if note else [])]
    lines += _bullets(LEGEND)
    skipped = [printable(f"skipped {path}: {reason}", 500) for path, reason in leaderboard.problems]
    return "\n".join([*lines, *_bullets(skipped)]).rstrip() + "\n"


def csv(leaderboard: Leaderboard) -> str:
    """Return one line per row of every board, with fractions in full precision."""
    file = io.StringIO()
    writer = csvlib.DictWriter(file, fieldnames=_CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for board in leaderboard.boards:
        writer.writerows(_csv_row(board, row) for row in board.rows)
    return file.getvalue()


def json(leaderboard: Leaderboard) -> str:
    """Return all boards as one JSON document with a `schema` number."""
    document = {
        "schema": SCHEMA,
        "boards": [_json_board(board) for board in leaderboard.boards],
        "records": leaderboard.total,
        "standings": {track: _json_standing(across) for track, across in leaderboard.standings.items()},
        "skipped": [{"path": path, "reason": reason} for path, reason in leaderboard.problems],
    }
    return jsonlib.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _section(content: BoardTables) -> list[str]:
    lines = [f"## {markdown_text(content.heading)}", "", *_bullets(content.facts)]
    for table in (content.grid, content.curves, content.detail):
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
    *("ablation", "variant", "control", "target", "measured", "off_target", "n", "label", "seeds"),
    *("rank", "rank_low", "rank_high", "leads", "at_chance", "chance", "majority_class"),
    *("top1_mean", "top1_sd", "top1_low", "top1_high"),
    *("drop_n", "drop_mean", "drop_sd", "drop_low", "drop_high", "unpaired"),
    *("above_baseline_value", "above_baseline_low", "above_baseline_high"),
    *("effective", "compression", "macs_remaining", "relative_train_macs", "forward_passes"),
    *("wall_seconds", "hook_seconds", "peak_memory_bytes", "storage_bits"),
    *("tuning_trials", "failed", "failures", "repeats", "superseded"),
)


def _csv_row(board: Board, row: Row) -> dict[str, Any]:
    values = {name: getattr(board, name) for name in ("dataset", "model", "track", "fingerprint")}
    values |= {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    values |= {name.replace(" ", "_"): level for name, level in board.chance_levels.items()}
    values |= {"n": row.n, "label": row.label, "failed": len(row.failures)}
    values["options"] = jsonlib.dumps(row.options, sort_keys=True)
    values["seeds"] = " ".join(map(str, row.seeds))
    values["unpaired"] = " ".join(map(str, row.unpaired))
    values["tuning_trials"] = " ".join(str(tuning.trials) for tuning in row.tunings)
    values["failures"] = "; ".join(f"seed {f.seed} {f.status}: {f.message}" for f in row.failures)
    for name in ("top1", "drop", "above_baseline"):
        estimate = values[name]
        values |= {f"{name}_{key}": value for key, value in dataclasses.asdict(estimate).items()} if estimate else {}
    return {name: _csv_value(values.get(name)) for name in _CSV_COLUMNS}


def _csv_value(value: Any) -> Any:
    return csv_text(printable(value, 10_000)) if isinstance(value, str) else value


def _json_board(board: Board) -> dict[str, Any]:
    # `dense` is left out: it is one of the rows, recognizable by its `control`.
    values = {item.name: getattr(board, item.name) for item in dataclasses.fields(board) if item.name != "dense"}
    values |= {"rows": [_json_row(row) for row in board.rows]}
    values["layers"] = [{"name": layer.name, "n": layer.n} for layer in _layers(board)]
    indices = {id(row): index for index, row in enumerate(board.rows)}
    return values | {"curves": [_json_curve(curve, indices) for curve in board.curves]}


def _json_curve(curve: Curve, indices: Mapping[int, int]) -> dict[str, Any]:
    """Return a curve with the indices of its rows in the board's list of rows."""
    area = dataclasses.asdict(curve.area) if curve.area else None
    rows = [indices[id(row)] for row in curve.rows]
    return {"rows": rows, "missing": curve.missing, "area": area, "coverage": curve.coverage}


def _json_standing(across: MethodComparison) -> dict[str, Any]:
    pairs = [{"methods": names, **dataclasses.asdict(pair)} for names, pair in across.pairs.items()]
    return {**dataclasses.asdict(across), "pairs": pairs, "verdict": across.verdict}


def _layers(board: Board) -> tuple[LayerShare, ...]:
    return next((row.layers for row in board.rows if row.layers), ())


def _json_row(row: Row) -> dict[str, Any]:
    """Return a row. Its layers are a list of sparsities, in the order of the board's `layers`."""
    values = {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    values |= {name: dataclasses.asdict(values[name]) for name in ("top1", "drop", "above_baseline") if values[name]}
    values |= {"n": row.n, "label": row.label, "seeds": row.seeds}
    if row.validations is None:  # runs by rules 1, in whose records neither is stated
        del values["validations"], values["writes_weights"]
    for name in ("conflicting", "same_weights"):
        if not values[name]:  # as in nearly all rows
            del values[name]
    values["layers"] = [round(layer.sparsity, 9) for layer in row.layers]
    values["tunings"] = [dataclasses.asdict(tuning) for tuning in row.tunings]
    return values | {"failures": [dataclasses.asdict(failure) for failure in row.failures]}
