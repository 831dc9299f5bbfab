"""The content of a board's main table on the page: texts and sort keys, ready for the template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.leaderboard import Board, Row
from pruneboard.records.schema import format_sparsity, leaves
from pruneboard.report.escaping import printable
from pruneboard.report.styles import Style
from pruneboard.report.tables import (
    WRITES_WEIGHTS,
    copy_notes,
    interval_text,
    number,
    percent,
    rank_text,
    top1_text,
    tuning_text,
)

VERDICTS = ("disputed", "unverified", "claimed", "record-only", "spot-checked", "certified")
"""The verdicts of `pruneboard verify`, worst first; `unverified` for runs that were not verified, and `claimed` for
verdicts that somebody else wrote."""


@dataclass(frozen=True)
class TableCell:
    """One cell: its text, its sort key (None is last), and its CSS classes."""

    text: str
    sort: float | None = None
    css: str = ""

    @property
    def key(self) -> str:
        """The sort key as text, with six significant digits; empty if there is none."""
        return "" if self.sort is None else f"{self.sort:.6g}"


@dataclass(frozen=True)
class Column:
    """One column of the main table: title, tooltip, and how to get the cell of a row."""

    title: str
    explain: str
    cell: Callable[[Row], TableCell]


@dataclass(frozen=True)
class RowView:
    """One row of the main table, with the details that open below its name."""

    name: str
    style: Style
    css: str
    label: str
    sparsity: str
    cells: tuple[TableCell, ...]
    badge: str
    badge_note: str
    facts: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]


def _sparsity(row: Row) -> TableCell:
    if row.off_target and row.measured is not None:
        return TableCell(f"{row.measured:.5g} off target", row.measured, "warn")
    return TableCell(format_sparsity(row.target), -1.0 if row.target is None else row.target)


def _top1(row: Row) -> TableCell:
    if row.top1 is None:
        return TableCell(", ".join(dict.fromkeys(failure.status for failure in row.failures)), None, "bad")
    return TableCell(top1_text(row.top1), row.top1.mean, "lead" if row.leads else "")


def _drop(row: Row) -> TableCell:
    if row.drop is None:
        return TableCell("-")
    pairs = "" if row.drop.n == row.n else f" ({row.drop.n} paired)"
    interval = "" if row.drop.low is None else f" {interval_text(row.drop)}"
    return TableCell(f"{percent(row.drop.mean)}{interval}{pairs}", row.drop.mean)


def _above(row: Row) -> TableCell:
    above = row.above_baseline
    if above is None:
        return TableCell("-")
    interval = "" if above.low is None else f" [{above.low:.2f}, {above.high:.2f}]"
    return TableCell(f"{above.value:.2f}{interval}", above.value)


def _number(value: float | None, digits: int = 2, factor: float = 1) -> TableCell:
    scaled = None if value is None else factor * value
    return TableCell(number(scaled, digits), scaled)


def _seeds(row: Row) -> TableCell:
    return TableCell(f"{row.n} {row.label}", row.n, row.label)


def _rank(row: Row) -> TableCell:
    unranked = (10**9, "warn") if row.at_chance else (None, "")  # the number sorts the text behind the ranks
    return TableCell(rank_text(row), *((row.rank, "") if row.rank is not None else unranked))


def _failed(row: Row) -> TableCell:
    failed = len(row.failures)
    return TableCell(str(failed), failed, "bad") if failed else TableCell("-")


COLUMNS = (
    Column(
        "Sparsity",
        "fraction of zeros among the prunable weights: the target, or the measured one if off target",
        _sparsity,
    ),
    Column("Top-1, %", "test split, last step's model: mean ± sample standard deviation; ○ is a single seed", _top1),
    Column(
        "95 % interval",
        "Student-t interval of the mean",
        lambda row: TableCell(interval_text(row.top1), row.top1.low if row.top1 else None),
    ),
    Column("Seeds", "finished seeds: 1 single, 2 to 5 provisional, 6 or more official", _seeds),
    Column(
        "Rank",
        "by mean top-1 at this sparsity, and its bootstrap interval; none for rows at chance or at the majority class",
        _rank,
    ),
    Column("Drop, points", "dense minus row, paired by seed: mean and Student-t 95 % interval", _drop),
    Column("P(> baseline)", "fraction of seeds for which it is above the baseline, and its bootstrap interval", _above),
    Column("Failed", "runs that did not finish", _failed),
    Column("Compression", "1 / (1 - measured sparsity)", lambda row: _number(row.compression)),
    Column(
        "Remaining MACs, %",
        "multiply-adds of the pruned network, in percent of the dense network's",
        lambda row: _number(row.macs_remaining, 1, 100),
    ),
    Column(
        "Training",
        "multiply-adds of the whole training, dense = 1",
        lambda row: _number(row.relative_train_macs),
    ),
)
"""The columns of the main table. The template adds the name in front and the verdict after `BEFORE_VERDICT` columns."""

BEFORE_VERDICT = 7


def row_view(row: Row, name: str, style: Style, verdicts: Mapping[str, str], shown_runs: Collection[str]) -> RowView:
    """Return the content of one row.

    Args:
        row: the row.
        name: its name on the board.
        style: style of its curve.
        verdicts: content hash -> verdict.
        shown_runs: hashes of the runs whose details are on the page.
    """
    badge, note = verdict(row, verdicts)
    css = [f"control {row.control}" if row.control else "", "leads" if row.leads else ""]
    return RowView(
        name=name,
        style=style,
        css=" ".join(filter(None, css)),
        label=row.label,
        sparsity=format_sparsity(row.target),
        cells=tuple(column.cell(row) for column in COLUMNS),
        badge=badge,
        badge_note=note,
        facts=tuple(_facts(row)),
        runs=tuple(_runs(row, shown_runs)),
        failures=tuple(
            printable(f"seed {f.seed} {f.status}: {f.message or 'no message'}", 300) for f in row.failures[:20]
        ),
    )


def verdict(row: Row, verdicts: Mapping[str, str]) -> tuple[str, str]:
    """Return the worst verdict of a row's runs, and the number of runs with each verdict."""
    if not row.hashes:
        return "", ""
    found = [verdicts.get(run, "unverified") for run in row.hashes]
    known = Counter(item if item in VERDICTS else "unverified" for item in found)
    worst = next(item for item in VERDICTS if item in known)
    return worst, ", ".join(f"{count} {item}" for item, count in sorted(known.items()))


def _facts(row: Row) -> Iterable[tuple[str, str]]:
    yield "package", printable(f"{row.distribution} {row.version}", 120)
    if row.options:
        yield (
            "options",
            printable(", ".join(f"{key} = {json.dumps(value)}" for key, value in sorted(row.options.items())), 600),
        )
    if row.ablation:
        yield "ablation", printable(row.ablation)
    if row.writes_weights:
        yield "hardening", WRITES_WEIGHTS
    for tuning in row.tunings:
        yield "tuning", tuning_text(tuning)
    yield from _numbers(row)
    if row.unpaired:
        seeds = ", ".join(map(str, row.unpaired[:50]))
        yield "not paired", f"seed {seeds}: initial weights, split or order differ from the dense run"
    if len(row.codes) > 1:
        yield "code", f"runs with the same version have {len(row.codes)} different code digests"
    if row.superseded:
        yield "superseded", f"{row.superseded} finished records were replaced with --force"
    yield from copy_notes(row)


def _numbers(row: Row) -> Iterable[tuple[str, str]]:
    if row.measured is not None:
        yield "measured sparsity", f"{row.measured:.6g}"
    if row.effective is not None:
        yield "effective sparsity", f"{row.effective:.6g}, counting disconnected weights as removed"
    if row.forward_passes is not None:
        yield "forward passes per step", f"{row.forward_passes:g}"
    if row.validations:
        yield "validations", f"{row.validations:g} while it hardened, charged as training"


def _runs(row: Row, shown_runs: Collection[str]) -> Iterable[tuple[str, str]]:
    """Yield (link or empty, text) of each finished run. The 8 digits in the text are the end of its folder's name."""
    for (seed, top1), run in list(zip(row.by_seed.items(), row.hashes, strict=True))[:100]:
        yield (f"run-{run}" if run in shown_runs else ""), f"seed {seed}: {percent(top1)} % ({run[:8]})"


def facts(board: Board) -> list[tuple[str, str]]:
    """Return the most important settings of a board as (name, value)."""
    return [(name.replace("_", " "), value) for name, value in flat(board.fields) if name in _SHOWN]


_SHOWN = {"steps", "recipe.name", "recipe.epochs", "global_batch", "norm_batch", "precision", "init", "stem"}
_SHOWN |= {"torch", "rules"}


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (dotted path, text) of every leaf."""
    return [
        (printable(path, 100), printable(value if isinstance(value, str) else json.dumps(value), 200))
        for path, value in leaves(values)
    ]
