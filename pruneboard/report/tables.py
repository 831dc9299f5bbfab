"""What a board's page says, as plain text cells: one layout for the terminal and for Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pruneboard.leaderboard import Board, Row
from pruneboard.record import format_sparsity, look
from pruneboard.report.clean import plain
from pruneboard.stats import Estimate

LEGEND = (
    "top-1 in % on the test split, last step's model: mean ± sample standard deviation (n seeds); ○ is a single seed",
    "seeds: 1 single, never ranked; 2 to 5 provisional; 6 or more official",
    "drop: dense minus row, in points, paired by seed: mean [Student-t 95 % interval] (pairs, if fewer than seeds)",
    "sparsity: fraction of zeros over the prunable weights; compression: 1 / (1 - measured)",
    "MACs: multiply-adds (FLOPs are twice that); training: multiply-adds of the whole training, dense = 1",
)
_SHOWN_FIELDS = ("steps", "global_batch", "norm_batch", "precision", "init", "stem", "rules", "torch")


@dataclass(frozen=True)
class Table:
    """Cells of text; the first `keys` columns say what a row is about."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int = 1


@dataclass(frozen=True)
class Page:
    """One board: a heading, what was equal for all rows, two tables, and what the tables cannot say."""

    heading: str
    facts: tuple[str, ...]
    grid: Table
    detail: Table
    notes: tuple[str, ...]


def page(board: Board) -> Page:
    """Lay out one board: accuracy against sparsity first, then every row in full."""
    names = row_names(board.rows)
    return Page(
        heading=plain(f"{board.dataset} / {board.model} / {board.track}"),
        facts=tuple(_facts(board)),
        grid=_grid(board, names),
        detail=_detail(board, names),
        notes=tuple(_notes(board, names)),
    )


def row_names(rows: Iterable[Row]) -> dict[tuple[str, ...], str]:
    """Return identity -> the shortest name that tells a row from the others of its board."""
    rows = list(rows)
    return {identity(row): _name(row, [other for other in rows if other.method == row.method]) for row in rows}


def identity(row: Row) -> tuple[str, ...]:
    """Return what makes two rows the same method, whatever their sparsity."""
    return row.method, row.distribution, row.version, _options(row), row.ablation or "", str(row.variant)


def percent(fraction: float) -> str:
    """Return a fraction as percent with two decimals."""
    return f"{100 * fraction:.2f}"


def top1_text(estimate: Estimate) -> str:
    """Return `91.23 ± 0.45`, or `○ 91.23` for a single seed, which has no spread."""
    mean = percent(estimate.mean)
    return f"○ {mean}" if estimate.sd is None else f"{mean} ± {percent(estimate.sd)}"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _options(row: Row) -> str:
    return json.dumps(row.options, sort_keys=True)


def _name(row: Row, namesakes: list[Row]) -> str:
    parts = [row.method]
    if len({other.distribution for other in namesakes}) > 1:
        parts.append(row.distribution)
    if len({other.version for other in namesakes}) > 1:
        parts.append(row.version)
    parts += [f"{key}={value}" for key, value in sorted(row.options.items()) if _differs(key, namesakes)]
    if row.ablation:
        parts.append(row.ablation)
    if row.variant:
        parts.append(f"#{row.variant + 1}")
    if row.control in ("floor", "baseline"):
        parts.append(f"({row.control})")
    return plain(" ".join(parts), 60)


def _differs(option: str, namesakes: list[Row]) -> bool:
    return len({json.dumps(row.options.get(option), sort_keys=True) for row in namesakes}) > 1


def _facts(board: Board) -> Iterable[str]:
    known = {name: look(board.fields, name) for name in _SHOWN_FIELDS}
    shown = [f"{name} {value}" for name, value in known.items() if isinstance(value, str | int | float)]
    yield plain(", ".join([f"board {board.fingerprint}", *shown]), 400)
    if board.differs:
        fields = "; ".join(f"{path} = {json.dumps(value)}" for path, value in board.differs.items())
        yield plain(f"differs from the other boards of this data, model and track in: {fields}", 1000)
    if board.dense and board.dense.top1:
        yield f"dense control: {_cell(board.dense)}"
    elif board.track == "prune":
        yield "no dense control: drops are unknown"


def _grid(board: Board, names: dict[tuple[str, ...], str]) -> Table:
    rows = [row for row in board.rows if row.target is not None and not row.off_target]
    points = sorted({row.target for row in rows if row.target is not None})
    cells = {(identity(row), row.target): _cell(row) for row in rows}
    methods = list(dict.fromkeys(identity(row) for row in rows))
    return Table(
        ("method", *(format_sparsity(point) for point in points)),
        tuple((names[method], *(cells.get((method, point), "") for point in points)) for method in methods),
    )


def _cell(row: Row) -> str:
    if row.top1 is None:
        return ", ".join(dict.fromkeys(failure.status for failure in row.failures)) + f" ({len(row.failures)})"
    failed = f", {len(row.failures)} failed" if row.failures else ""
    return f"{top1_text(row.top1)} ({row.n}{failed})"


def _measured(row: Row) -> str:
    text = "-" if row.measured is None else f"{row.measured:.6g}"
    return f"{text} off" if row.off_target else text


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def _drop(row: Row) -> str:
    drop = row.drop
    if drop is None:
        return "-"
    interval = "" if drop.low is None else f" {_interval(drop)}"
    return f"{percent(drop.mean)}{interval}{'' if drop.n == row.n else f' ({drop.n})'}"


# In the order of what must not be missing where a terminal is narrow.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "sparsity": lambda row: format_sparsity(row.target),
    "measured": _measured,
    "top-1 %": lambda row: top1_text(row.top1) if row.top1 else "-",
    "seeds": lambda row: f"{row.n} {row.label}" if row.n else "-",
    "rank": lambda row: str(row.rank or "-"),
    "drop": _drop,
    "training": lambda row: number(row.relative_train_macs),
    "failed": lambda row: str(len(row.failures) or "-"),
    "95 % interval": lambda row: _interval(row.top1),
    "compression": lambda row: number(row.compression),
    "MACs left %": lambda row: number(None if row.macs_remaining is None else 100 * row.macs_remaining),
    "passes a step": lambda row: "-" if row.forward_passes is None else f"{row.forward_passes:g}",
    "seconds": lambda row: number(row.wall_seconds, 1),
}


def _detail(board: Board, names: dict[tuple[str, ...], str]) -> Table:
    rows = tuple((names[identity(row)], *(text(row) for text in _COLUMNS.values())) for row in board.rows)
    return Table(("method", *_COLUMNS), rows, keys=2)


def _notes(board: Board, names: dict[tuple[str, ...], str]) -> Iterable[str]:
    for row in board.rows:
        name = names[identity(row)]
        where = name if row.target is None else f"{name} at {format_sparsity(row.target)}"
        if row.off_target:
            yield f"off target: {where} measures {row.measured:.6g}: {_cell(row)}"
        if row.unpaired:
            seeds = ", ".join(map(str, row.unpaired))
            yield f"not paired: {where}, seed {seeds}: other initial weights, split or order than the dense run"
        if row.superseded:
            yield f"superseded: {where}: {row.superseded} finished records were replaced with --force"
        if row.repeats:
            yield f"copies: {where}: {row.repeats} further copies of the same runs were not counted"
        for failure in row.failures:
            yield plain(f"{failure.status}: {where}, seed {failure.seed}: {failure.message or 'no message'}", 300)
