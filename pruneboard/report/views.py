"""A board as the page's template wants it: text and sort keys, nothing left to decide in HTML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.leaderboard import Board, Row
from pruneboard.records.schema import format_sparsity, leaves
from pruneboard.report.clean import plain
from pruneboard.report.styles import Style
from pruneboard.report.tables import interval_text, number, percent, rank_text, top1_text, tuning_text

VERDICTS = ("disputed", "unverified", "record-only", "spot-checked", "certified")
"""What `pruneboard verify` can say of a run, worst first; `unverified` where it was never asked."""


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it sorts by (None goes last), and its classes."""

    text: str
    sort: float | None = None
    css: str = ""

    @property
    def key(self) -> str:
        """What it sorts by, in as many digits as tell two rows apart; empty where there is nothing."""
        return "" if self.sort is None else f"{self.sort:.6g}"


@dataclass(frozen=True)
class Column:
    """One column of the main table."""

    title: str
    explain: str
    cell: Callable[[Row], Cell]


@dataclass(frozen=True)
class Line:
    """One row of the main table with what opens under its name."""

    name: str
    style: Style
    css: str
    label: str
    sparsity: str
    cells: tuple[Cell, ...]
    badge: str
    badge_note: str
    facts: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]


def _sparsity(row: Row) -> Cell:
    if row.off_target and row.measured is not None:
        return Cell(f"{row.measured:.5g} off target", row.measured, "warn")
    return Cell(format_sparsity(row.target), -1.0 if row.target is None else row.target)


def _top1(row: Row) -> Cell:
    if row.top1 is None:
        return Cell(", ".join(dict.fromkeys(failure.status for failure in row.failures)), None, "bad")
    return Cell(top1_text(row.top1), row.top1.mean, "lead" if row.leads else "")


def _drop(row: Row) -> Cell:
    if row.drop is None:
        return Cell("-")
    pairs = "" if row.drop.n == row.n else f" ({row.drop.n} paired)"
    interval = "" if row.drop.low is None else f" {interval_text(row.drop)}"
    return Cell(f"{percent(row.drop.mean)}{interval}{pairs}", row.drop.mean)


def _above(row: Row) -> Cell:
    above = row.above_baseline
    if above is None:
        return Cell("-")
    interval = "" if above.low is None else f" [{above.low:.2f}, {above.high:.2f}]"
    return Cell(f"{above.value:.2f}{interval}", above.value)


def _number(value: float | None, digits: int = 2, factor: float = 1) -> Cell:
    scaled = None if value is None else factor * value
    return Cell(number(scaled, digits), scaled)


def _seeds(row: Row) -> Cell:
    return Cell(f"{row.n} {row.label}", row.n, row.label)


def _failed(row: Row) -> Cell:
    failed = len(row.failures)
    return Cell(str(failed), failed, "bad") if failed else Cell("-")


COLUMNS = (
    Column(
        "Sparsity", "fraction of zeros over the prunable weights: the target, or what was measured instead", _sparsity
    ),
    Column("Top-1, %", "test split, last step's model: mean ± sample standard deviation; ○ is a single seed", _top1),
    Column(
        "95 % interval",
        "Student-t interval of the mean",
        lambda row: Cell(interval_text(row.top1), row.top1.low if row.top1 else None),
    ),
    Column("Seeds", "finished seeds: 1 single, 2 to 5 provisional, 6 or more official", _seeds),
    Column(
        "Rank",
        "by mean top-1 at this sparsity, and the ranks that resampling the seeds leaves plausible",
        lambda row: Cell(rank_text(row), row.rank),
    ),
    Column("Drop, points", "dense minus row, paired by seed: mean and Student-t 95 % interval", _drop),
    Column("P(> baseline)", "how often it is above the baseline at the same seed, and its bootstrap interval", _above),
    Column("Failed", "runs that did not finish", _failed),
    Column("Compression", "1 / (1 - measured sparsity)", lambda row: _number(row.compression)),
    Column(
        "MACs left, %",
        "multiply-adds of the pruned network, of the dense one's",
        lambda row: _number(row.macs_remaining, 1, 100),
    ),
    Column(
        "Training",
        "multiply-adds of the whole training, dense = 1",
        lambda row: _number(row.relative_train_macs),
    ),
)
"""The main table, but for the name in front and the verdict after the first `BEFORE_VERDICT` of these."""

BEFORE_VERDICT = 7


def line(row: Row, name: str, style: Style, verdicts: Mapping[str, str], shown: Collection[str]) -> Line:
    """Lay out one row.

    Args:
        row: what to show.
        name: as its board calls it.
        style: how its curve is drawn.
        verdicts: content hash -> verdict.
        shown: hashes of the runs whose details the page holds.
    """
    badge, note = verdict(row, verdicts)
    css = [f"control {row.control}" if row.control else "", "leads" if row.leads else ""]
    return Line(
        name=name,
        style=style,
        css=" ".join(filter(None, css)),
        label=row.label,
        sparsity=format_sparsity(row.target),
        cells=tuple(column.cell(row) for column in COLUMNS),
        badge=badge,
        badge_note=note,
        facts=tuple(_facts(row)),
        runs=tuple(_runs(row, shown)),
        failures=tuple(plain(f"seed {f.seed} {f.status}: {f.message or 'no message'}", 300) for f in row.failures[:20]),
    )


def verdict(row: Row, verdicts: Mapping[str, str]) -> tuple[str, str]:
    """Return the worst verdict of a row's runs, and how many have which."""
    if not row.hashes:
        return "", ""
    found = [verdicts.get(run, "unverified") for run in row.hashes]
    known = Counter(item if item in VERDICTS else "unverified" for item in found)
    worst = next(item for item in VERDICTS if item in known)
    return worst, ", ".join(f"{count} {item}" for item, count in sorted(known.items()))


def _facts(row: Row) -> Iterable[tuple[str, str]]:
    yield "from", plain(f"{row.distribution} {row.version}", 120)
    if row.options:
        yield (
            "options",
            plain(", ".join(f"{key} = {json.dumps(value)}" for key, value in sorted(row.options.items())), 600),
        )
    if row.ablation:
        yield "ablation", plain(row.ablation)
    for tuning in row.tunings:
        yield "tuning", tuning_text(tuning)
    yield from _numbers(row)
    if row.unpaired:
        seeds = ", ".join(map(str, row.unpaired[:50]))
        yield "not paired", f"seed {seeds}: other initial weights, split or order than the dense run"
    if len(row.codes) > 1:
        yield "code", f"its runs are of {len(row.codes)} different codes under one version"
    if row.superseded:
        yield "superseded", f"{row.superseded} finished records were replaced with --force"
    if row.repeats:
        yield "copies", f"{row.repeats} further copies of the same runs were not counted"


def _numbers(row: Row) -> Iterable[tuple[str, str]]:
    if row.measured is not None:
        yield "sparsity measured", f"{row.measured:.6g}"
    if row.effective is not None:
        yield "effective sparsity", f"{row.effective:.6g}: what is cut off from input or output does not count as left"
    if row.forward_passes is not None:
        yield "forward passes a step", f"{row.forward_passes:g}"


def _runs(row: Row, shown: Collection[str]) -> Iterable[tuple[str, str]]:
    """Yield (link or nothing, text) of each finished run; the last folder of a record's path ends in those 8 digits."""
    for (seed, top1), run in list(zip(row.by_seed.items(), row.hashes, strict=True))[:100]:
        yield (f"run-{run}" if run in shown else ""), f"seed {seed}: {percent(top1)} % ({run[:8]})"


def facts(board: Board) -> list[tuple[str, str]]:
    """Return what a reader wants to know first of how a board's rows were trained."""
    return [(name.replace("_", " "), value) for name, value in flat(board.fields) if name in _SHOWN]


_SHOWN = {
    "steps",
    "recipe.name",
    "recipe.epochs",
    "global_batch",
    "norm_batch",
    "precision",
    "init",
    "stem",
    "torch",
    "rules",
}


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return dotted path and text of every leaf."""
    return [
        (plain(path, 100), plain(value if isinstance(value, str) else json.dumps(value), 200))
        for path, value in leaves(values)
    ]
