"""What a board's page says, as plain text cells: one layout for the terminal and for Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pruneboard.leaderboard import Board, Curve, Leaderboard, Row, Tuning
from pruneboard.leaderboard.model import Identity
from pruneboard.leaderboard.names import names as raw_names
from pruneboard.leaderboard.stats import LEVEL, Across, Estimate, Interval
from pruneboard.records.schema import format_sparsity, lookup
from pruneboard.report.clean import plain

LEGEND = (
    "top-1 in % on the test split, last step's model: mean ± sample standard deviation (n seeds); ○ is a single seed",
    "seeds: 1 single, never ranked; 2 to 5 provisional; 6 or more official",
    "rank: by mean top-1 at one sparsity [and the ranks between which resampled seeds leave it]",
    "*: ahead of the runner-up by more than the 95 % interval of their paired difference",
    "drop: dense minus row, in points, paired by seed: mean [Student-t 95 % interval] (pairs, if fewer than seeds)",
    "P(> baseline): how often it comes out above the baseline control at the same seed; a tie counts one half",
    "area: mean drop over log2 of the compression [seed bootstrap], and the share of operating points that is covered",
    "bootstrap intervals are named 95 % and hold the truth less often: about 75, 84 and 90 % at 3, 5 and 10 seeds",
    "sparsity: fraction of zeros over the prunable weights; compression: 1 / (1 - measured)",
    "effective: sparsity when weights that are cut off from the input or the output do not count as left either",
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
    """One board: a heading, what was equal for all rows, three tables, and what the tables cannot say."""

    heading: str
    facts: tuple[str, ...]
    grid: Table
    curves: Table
    detail: Table
    notes: tuple[str, ...]


def page(board: Board) -> Page:
    """Lay out one board: accuracy against sparsity first, then every row in full."""
    names = row_names(board.rows)
    return Page(
        heading=plain(f"{board.dataset} / {board.model} / {board.track}"),
        facts=tuple(_facts(board)),
        grid=_grid(board, names),
        curves=_curves(board, names),
        detail=_detail(board, names),
        notes=tuple(_notes(board, names)),
    )


def row_names(rows: Iterable[Row]) -> dict[Identity, str]:
    """Return identity -> the shortest name that tells a row from the others of its board, fit to be printed."""
    return {identity: plain(name, 60) for identity, name in raw_names(rows).items()}


def percent(fraction: float) -> str:
    """Return a fraction as percent with two decimals."""
    return f"{100 * fraction:.2f}"


def top1_text(estimate: Estimate) -> str:
    """Return `91.23 ± 0.45`, or `○ 91.23` for a single seed, which has no spread."""
    mean = percent(estimate.mean)
    return f"○ {mean}" if estimate.sd is None else f"{mean} ± {percent(estimate.sd)}"


def interval_text(estimate: Estimate | Interval | None) -> str:
    """Return an interval of fractions in percent, `[91.02, 91.44]`, or a dash."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def rank_text(row: Row) -> str:
    """Return `1 [1, 2]`: the rank and the interval of it."""
    return "-" if row.rank is None else f"{row.rank} [{row.rank_low}, {row.rank_high}]"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def standing_tables(whole: Leaderboard) -> Iterator[tuple[str, Table, str]]:
    """Yield (heading, table, note) for each track with several boards: mean ranks, and the tests there can be."""
    for track, across in whole.standings.items():
        order = sorted(across.mean_rank, key=lambda name: (across.mean_rank[name], name))
        lines = [(plain(name, 60), f"{across.mean_rank[name]:.2f}", _better_than(across, name)) for name in order]
        table = Table(("method", "mean rank", "above, after Holm's correction"), tuple(lines))
        yield f"{track}, over {across.boards} boards", table, across.verdict


def _better_than(across: Across, name: str) -> str:
    beaten = []
    for (first, second), pair in across.pairs.items():
        if pair.adjusted < LEVEL and name == (first if pair.wins > pair.losses else second):
            beaten.append(f"{plain(second if name == first else first, 60)} (p {pair.adjusted:.3f})")
    return ", ".join(beaten) or "-"


def _facts(board: Board) -> Iterable[str]:
    known = {name: lookup(board.fields, name) for name in _SHOWN_FIELDS}
    shown = [f"{name} {value}" for name, value in known.items() if isinstance(value, str | int | float)]
    yield plain(", ".join([f"board {board.fingerprint}", *shown]), 400)
    if board.differs:
        fields = "; ".join(f"{path} = {json.dumps(value)}" for path, value in board.differs.items())
        yield plain(f"differs from the other boards of this data, model and track in: {fields}", 1000)
    if board.dense and board.dense.top1:
        yield f"dense control: {_cell(board.dense)}"
    elif board.track == "prune":
        yield "no dense control: drops are unknown"
    if board.missing_controls:
        yield f"controls that are missing: {', '.join(board.missing_controls)}"


def _grid(board: Board, names: dict[Identity, str]) -> Table:
    rows = [row for row in board.rows if row.target is not None and not row.off_target]
    cells = {(row.identity, row.target): _cell(row) for row in rows}
    methods = list(dict.fromkeys(row.identity for row in rows))
    return Table(
        ("method", *(format_sparsity(point) for point in board.points)),
        tuple((names[method], *(cells.get((method, point), "") for point in board.points)) for method in methods),
    )


def _curves(board: Board, names: dict[Identity, str]) -> Table:
    """One line per method over all operating points; nothing where there is only one."""
    lines = [(names[curve.rows[0].identity], *_curve(curve)) for curve in board.curves if len(board.points) > 1]
    return Table(("method", "area", "interval", "covered", "missing"), tuple(lines))


def _curve(curve: Curve) -> tuple[str, ...]:
    area = curve.area
    missing = ", ".join(format_sparsity(point) for point in curve.missing) or "-"
    return percent(area.value) if area else "-", interval_text(area), f"{100 * curve.coverage:.0f} %", missing


def _cell(row: Row) -> str:
    if row.top1 is None:
        return ", ".join(dict.fromkeys(failure.status for failure in row.failures)) + f" ({len(row.failures)})"
    failed = f", {len(row.failures)} failed" if row.failures else ""
    return f"{top1_text(row.top1)} ({row.n}{failed}){' *' if row.leads else ''}"


def _measured(row: Row) -> str:
    text = "-" if row.measured is None else f"{row.measured:.6g}"
    return f"{text} off" if row.off_target else text


def _drop(row: Row) -> str:
    drop = row.drop
    if drop is None:
        return "-"
    interval = "" if drop.low is None else f" {interval_text(drop)}"
    return f"{percent(drop.mean)}{interval}{'' if drop.n == row.n else f' ({drop.n})'}"


# In the order of what must not be missing where a terminal is narrow.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "sparsity": lambda row: format_sparsity(row.target),
    "measured": _measured,
    "top-1 %": lambda row: top1_text(row.top1) if row.top1 else "-",
    "seeds": lambda row: f"{row.n} {row.label}" if row.n else "-",
    "rank": rank_text,
    "drop": _drop,
    "P(> baseline)": lambda row: "-" if row.above_baseline is None else f"{row.above_baseline.value:.2f}",
    "training": lambda row: number(row.relative_train_macs),
    "failed": lambda row: str(len(row.failures) or "-"),
    "95 % interval": lambda row: interval_text(row.top1),
    "compression": lambda row: number(row.compression),
    "effective": lambda row: "-" if row.effective is None else f"{row.effective:.6g}",
    "MACs left %": lambda row: number(None if row.macs_remaining is None else 100 * row.macs_remaining),
    "passes a step": lambda row: "-" if row.forward_passes is None else f"{row.forward_passes:g}",
    "seconds": lambda row: number(row.wall_seconds, 1),
}


def _detail(board: Board, names: dict[Identity, str]) -> Table:
    known = any(row.effective is not None for row in board.rows)
    columns = {name: text for name, text in _COLUMNS.items() if name != "effective" or known}
    rows = tuple((names[row.identity], *(text(row) for text in columns.values())) for row in board.rows)
    return Table(("method", *columns), rows, keys=2)


def tuning_text(tuning: Tuning) -> str:
    """Return in words how options were found."""
    tried = f"{tuning.trials} sets of options tried on this data" if tuning.trials else "no options tried on this data"
    return plain(f"{tried}, {tuning.source}" if tuning.source else tried, 200)


def tuning_notes(board: Board, names: dict[Identity, str]) -> Iterable[str]:
    """Say once for all methods that were tuned alike how they were: unequal effort is no fair comparison."""
    alike: dict[Tuning, dict[str, None]] = {}
    for row in board.rows:
        for tuning in row.tunings if row.control != "dense" else ():
            alike.setdefault(tuning, {})[names[row.identity]] = None
    if len({tuning.trials for tuning in alike}) > 1:
        yield "tuning: the methods did not have the same number of trials"
    for tuning, methods in sorted(alike.items()):
        yield f"tuning: {tuning_text(tuning)}: {', '.join(methods)}"


def _notes(board: Board, names: dict[Identity, str]) -> Iterable[str]:
    yield from tuning_notes(board, names)
    for row in board.rows:
        name = names[row.identity]
        where = name if row.target is None else f"{name} at {format_sparsity(row.target)}"
        if row.off_target:
            yield f"off target: {where} measures {row.measured:.6g}: {_cell(row)}"
        if row.unpaired:
            seeds = ", ".join(map(str, row.unpaired))
            yield f"not paired: {where}, seed {seeds}: other initial weights, split or order than the dense run"
        if len(row.codes) > 1:
            yield f"code: {where}: {len(row.codes)} different codes of one version"
        if row.superseded:
            yield f"superseded: {where}: {row.superseded} finished records were replaced with --force"
        if row.repeats:
            yield f"copies: {where}: {row.repeats} further copies of the same runs were not counted"
        for failure in row.failures:
            yield plain(f"{failure.status}: {where}, seed {failure.seed}: {failure.message or 'no message'}", 300)
