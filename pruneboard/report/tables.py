"""The tables and notes of a board as plain text cells, shared by the terminal and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pruneboard.leaderboard import Board, Curve, Leaderboard, Row, Tuning
from pruneboard.leaderboard.model import RowIdentity
from pruneboard.leaderboard.names import RowNames, method_name, short_names
from pruneboard.leaderboard.ranking import MAX_MISSING
from pruneboard.leaderboard.stats import LEVEL, Interval, MeanEstimate, MethodComparison
from pruneboard.records.schema import format_sparsity, lookup
from pruneboard.report.escaping import printable
from pruneboard.spec import RULES_CHANGES

LEGEND = (
    "top-1 in % on the test split, last step's model: mean ± sample standard deviation (seeds); ○ is a single seed",
    "seeds: 1 single, never ranked; 2 to 5 provisional; 6 or more official",
    "rank: by mean top-1 among the rows with the same sparsity [seed-bootstrap interval]",
    "(chance), (majority class): top-1 of guessing, and of always answering the largest class of the test split",
    "at chance, at majority class: the row's 95 % interval is not above that line, so the row is not ranked",
    "*: the 95 % interval of the paired difference to the runner-up is above 0",
    "drop: dense minus row, in points, paired by seed: mean [Student-t 95 % interval] (pairs, if fewer than seeds)",
    "P(> baseline): fraction of seeds for which the row is above the baseline control; a tie counts one half",
    "area: mean drop over log2 of the compression [seed-bootstrap interval]; coverage: share of points finished",
    "bootstrap intervals are nominally 95 %; their actual coverage is about 75, 84 and 90 % at 3, 5 and 10 seeds",
    "sparsity: fraction of zeros among the prunable weights; compression: 1 / (1 - measured)",
    "effective: sparsity if weights that are disconnected from the input or the output count as removed",
    "MACs: multiply-adds (1 MAC = 2 FLOPs); training: multiply-adds of the whole training, dense = 1",
)
WRITES_WEIGHTS = "the method changes weights when it hardens, as it declares"

MAX_POINTS = 100
"""Limit for the operating points that are columns of a table: a board may have thousands of them, and of methods."""

_SHOWN_FIELDS = ("steps", "global_batch", "norm_batch", "precision", "init", "stem", "rules", "torch")


@dataclass(frozen=True)
class Table:
    """A table of text cells. The first `keys` columns identify the row."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int = 1


@dataclass(frozen=True)
class BoardTables:
    """One board as text.

    Attributes:
        heading: data set, model and track.
        facts: settings shared by all rows, and the dense control.
        grid: accuracy by method and sparsity.
        curves: area of each method.
        detail: all rows with all columns.
        notes: everything that the tables do not show, such as failures.
    """

    heading: str
    facts: tuple[str, ...]
    grid: Table
    curves: Table
    detail: Table
    notes: tuple[str, ...]


def board_tables(board: Board) -> BoardTables:
    """Return the tables and notes of a board."""
    names = row_names(board.rows)
    return BoardTables(
        heading=printable(f"{board.dataset} / {board.model} / {board.track}"),
        facts=tuple(_facts(board)),
        grid=_grid(board, names),
        curves=_curves(board, names),
        detail=_detail(board, names),
        notes=tuple(_notes(board, names)),
    )


def row_names(rows: Iterable[Row]) -> dict[RowIdentity, str]:
    """Return identity -> shortest unique name of a row on its board, printable and at most 60 characters long.

    Of a long name, the distribution of a third-party method is kept.
    """
    rows = list(rows)
    distributions = {row.identity: (row.method, row.distribution) for row in rows}
    return {identity: _shortened(name, *distributions[identity]) for identity, name in short_names(rows).items()}


def _shortened(name: str, method: str, distribution: str) -> str:
    full = method_name(method, distribution)
    if len(full) > 60 and full != method:
        return f"{printable(method, 34)} {printable(distribution, 25)}"
    return printable(name, 60)


def percent(fraction: float) -> str:
    """Return a fraction in percent, with two decimals."""
    return f"{100 * fraction:.2f}"


def top1_text(estimate: MeanEstimate) -> str:
    """Return `91.23 ± 0.45`, or `○ 91.23` for a single seed, which has no standard deviation."""
    mean = percent(estimate.mean)
    return f"○ {mean}" if estimate.sd is None else f"{mean} ± {percent(estimate.sd)}"


def interval_text(estimate: MeanEstimate | Interval | None) -> str:
    """Return an interval of fractions in percent, `[91.02, 91.44]`, or a dash."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def rank_text(row: Row) -> str:
    """Return the rank and its interval, `1 [1, 2]`; without a rank, `at chance` or a dash."""
    if row.rank is None:
        return f"at {row.at_chance}" if row.at_chance else "-"
    return f"{row.rank} [{row.rank_low}, {row.rank_high}]"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals, or a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def standing_tables(leaderboard: Leaderboard) -> Iterator[tuple[str, Table, str]]:
    """Yield (heading, table, note) for each track with several boards: mean ranks and significant differences."""
    for track, found in leaderboard.standings.items():
        order = sorted(found.mean_rank, key=lambda name: (found.mean_rank[name], name))
        lines = [(printable(name, 60), f"{found.mean_rank[name]:.2f}", _better_than(found, name)) for name in order]
        table = Table(("method", "mean rank", "better than (p after Holm's correction)"), tuple(lines))
        yield f"{track}, {found.boards} boards", table, found.verdict


def _better_than(found: MethodComparison, name: str) -> str:
    beaten = []
    for (first, second), pair in found.pairs.items():
        if pair.adjusted < LEVEL and name == (first if pair.wins > pair.losses else second):
            beaten.append(f"{printable(second if name == first else first, 60)} ({pair.adjusted:.3f})")
    return ", ".join(beaten) or "-"


def _facts(board: Board) -> Iterable[str]:
    known = {name: lookup(board.fields, name) for name in _SHOWN_FIELDS}
    shown = [f"{name} {value}" for name, value in known.items() if isinstance(value, str | int | float)]
    yield printable(", ".join([f"board {board.fingerprint}", *shown]), 400)
    if board.differs:
        fields = "; ".join(f"{path} = {json.dumps(value)}" for path, value in board.differs.items())
        yield printable(f"differs from the other boards with this data set, model and track in: {fields}", 1000)
        yield from rules_notes(board)
    if board.dense and board.dense.top1:
        yield f"dense control: {_cell(board.dense)}"
    elif board.track == "prune":
        yield "no dense control: drops are unknown"
    if board.missing_controls:
        yield f"missing controls: {', '.join(board.missing_controls)}"


def rules_notes(board: Board) -> Iterator[str]:
    """Yield what later rules changed, if this board differs from others in the version of its rules."""
    rules = board.differs.get("rules")
    if type(rules) is int:
        for version in sorted(version for version in RULES_CHANGES if version > rules):
            yield f"rules {rules}: not comparable with rules {version}, under which {RULES_CHANGES[version]}"


def _grid(board: Board, names: RowNames) -> Table:
    rows = [row for row in board.rows if row.target is not None and not row.off_target]
    cells = {(row.identity, row.target): _cell(row) for row in rows}
    methods = list(dict.fromkeys(row.identity for row in rows))
    points = board.points[:MAX_POINTS]
    lines = [(names[method], *(cells.get((method, point), "") for point in points)) for method in methods]
    levels = board.chance_levels if lines else {}
    lines += [(f"({name})", *(percent(level) for _ in points)) for name, level in levels.items()]
    return Table(("method", *(format_sparsity(point) for point in points)), tuple(lines))


def _curves(board: Board, names: RowNames) -> Table:
    """Return one row per method; none if the board has a single operating point."""
    lines = [(names[curve.rows[0].identity], *_curve(curve)) for curve in board.curves if len(board.points) > 1]
    return Table(("method", "area", "interval", "coverage", "missing at"), tuple(lines))


def _curve(curve: Curve) -> tuple[str, ...]:
    area = curve.area
    coverage = f"{100 * curve.coverage:.0f} %"
    return percent(area.value) if area else "-", interval_text(area), coverage, missing_text(curve) or "-"


def missing_text(curve: Curve) -> str:
    """Return the operating points at which the method has no run, with `…` if the curve does not list all of them."""
    shown = [format_sparsity(point) for point in curve.missing]
    return ", ".join([*shown, "…"] if len(shown) == MAX_MISSING else shown)


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


# Ordered by importance: a narrow terminal shows only the first columns.
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
    "remaining MACs %": lambda row: number(None if row.macs_remaining is None else 100 * row.macs_remaining),
    "passes per step": lambda row: "-" if row.forward_passes is None else f"{row.forward_passes:g}",
    "seconds": lambda row: number(row.wall_seconds, 1),
}


def _detail(board: Board, names: RowNames) -> Table:
    known = any(row.effective is not None for row in board.rows)
    columns = {name: text for name, text in _COLUMNS.items() if name != "effective" or known}
    rows = tuple((names[row.identity], *(text(row) for text in columns.values())) for row in board.rows)
    return Table(("method", *columns), rows, keys=2)


def tuning_text(tuning: Tuning, methods: str = "") -> str:
    """Return how options were chosen, such as `3 option sets for every method (cifar10-small-search)`."""
    sets = {0: "none on this data set", 1: "1 option set"}.get(tuning.trials, f"{tuning.trials} option sets")
    return f"{sets}{methods}{f' ({printable(tuning.source, 160)})' if tuning.source else ''}"


def tuning_notes(board: Board, names: RowNames) -> Iterable[str]:
    """Yield how the options of the methods were chosen: one line if it was the same way for all, else one per way.

    Methods that tried different numbers of option sets did not have the same chance, which is noted first.
    """
    methods: dict[Tuning, dict[str, None]] = {}
    tuned = [row for row in board.rows if row.control != "dense"]
    for row in tuned:
        for tuning in row.tunings:
            methods.setdefault(tuning, {})[names[row.identity]] = None
    if len({tuning.trials for tuning in methods}) > 1:
        yield "Tuning: the number of option sets tried on this data set differs between methods"
    for tuning, found in sorted(methods.items()):
        alike = len(methods) == 1 and len(found) == len({row.identity for row in tuned})
        who = ("every method" if tuning.trials else "") if alike else ", ".join(found)
        yield f"Tuning: {tuning_text(tuning, f' for {who}' if who else '')}"


def _notes(board: Board, names: RowNames) -> Iterable[str]:
    yield from tuning_notes(board, names)
    if len(board.points) > MAX_POINTS:
        yield f"the first {MAX_POINTS} of {len(board.points):,} sparsities have columns; the table of all rows has all"
    for row in board.rows:
        name = names[row.identity]
        where = name if row.target is None else f"{name} at {format_sparsity(row.target)}"
        yield from _result_notes(board, row, where)
        if row.unpaired:
            seeds = ", ".join(map(str, row.unpaired))
            yield f"not paired: {where}, seed {seeds}: initial weights, split or order differ from the dense run"
        if len(row.codes) > 1:
            yield f"code: {where}: runs with the same version have {len(row.codes)} different code digests"
        if row.superseded:
            yield f"superseded: {where}: {row.superseded} finished records were replaced with --force"
        yield from (f"{name}: {where}: {text}" for name, text in copy_notes(row))
        for failure in row.failures:
            yield printable(f"{failure.status}: {where}, seed {failure.seed}: {failure.message or 'no message'}", 300)


def copy_notes(row: Row) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of notes on copies of the row's runs, also on copies that claim to be other runs."""
    if row.repeats:
        yield "copies", f"{row.repeats} further copies of the same runs are not counted"
    if row.conflicting:
        different = "there are records with different results, of which one is shown; `pruneboard merge` names them"
        yield "conflict", f"seed {_seeds(row.conflicting)}: {different}"
    if row.same_weights:
        yield "same weights", f"seeds {_seeds(row.same_weights)} have equal final weights, so they are not independent"


def _seeds(seeds: tuple[int, ...]) -> str:
    return ", ".join([*map(str, seeds[:50]), *(["…"] if len(seeds) > 50 else [])])


def _result_notes(board: Board, row: Row, where: str) -> Iterable[str]:
    if row.off_target:
        yield f"off target: {where} has measured sparsity {row.measured:.6g}: {_cell(row)}"
    if row.writes_weights:
        yield f"hardening: {where}: {WRITES_WEIGHTS}"
    if row.at_chance:
        level = percent(board.chance_levels[row.at_chance])
        yield f"at {row.at_chance}: {where}: 95 % interval {interval_text(row.top1)}, not above {level}: not ranked"
