"""Conditions of `compare --fail-if`, such as "drop > 0.005 at 0.9", with which CI can be gated on a result."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pruneboard.errors import UsageError
from pruneboard.leaderboard import Board, Row
from pruneboard.records.schema import format_sparsity

QUANTITIES: dict[str, Callable[[Row], float | None]] = {
    "drop": lambda row: row.drop.mean if row.drop else None,
    "top1": lambda row: row.top1.mean if row.top1 else None,
}
"""The quantities of a condition, both fractions: mean paired drop against dense, and mean test top-1."""

_COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_FORM = re.compile(
    r"\s*(?P<quantity>[\w-]+)\s*(?P<sign>[<>]=?)\s*(?P<limit>[^\s%]+)\s*(?P<percent>%?)"
    r"\s+at\s+(?P<sparsity>\S+)(?:\s+for\s+(?P<method>\S+))?\s*"
)
_EXAMPLE = '"drop > 0.005 at 0.9", "drop > 0.5% at 0.9" or "top1 < 0.9 at 0.95 for METHOD"'


@dataclass(frozen=True)
class FailCondition:
    """A condition under which `compare` exits with 1.

    Attributes:
        quantity: one of `QUANTITIES`.
        sign: `>`, `>=`, `<` or `<=`.
        limit: a fraction.
        sparsity: target sparsity of the rows to which the condition applies.
        method: the only method to which it applies; None for all methods except controls.
    """

    quantity: str
    sign: str
    limit: float
    sparsity: float
    method: str | None = None

    def applies_to(self, row: Row) -> bool:
        """Return whether the row has the sparsity and the method of the condition and is not an ablation."""
        selected = row.method == self.method if self.method else row.control is None
        return selected and row.ablation is None and row.target == self.sparsity

    def reason(self, row: Row) -> str | None:
        """Return why the row fails, or None if it passes. A row off target or with an unknown value fails."""
        if row.off_target and row.measured is not None:
            return f"off target, with measured sparsity {row.measured:.6g}"
        value = QUANTITIES[self.quantity](row)
        if value is None:
            return f"{self.quantity} is unknown: {_why_unknown(self.quantity, row)}"
        if not _COMPARISONS[self.sign](value, self.limit):
            return None
        return f"{self.quantity} {value:.6g} {self.sign} {self.limit:.6g} (n = {row.n})"


def parse(text: str) -> FailCondition:
    """Parse `QUANTITY SIGN LIMIT at SPARSITY [for METHOD]`.

    Raises:
        UsageError: the text has another form, or the limit is a plain number of 1 or more, which might be meant as a
            percentage (0.5 percent is `0.5%` or `0.005`).
    """
    form = _FORM.fullmatch(text)
    if form is None or form["quantity"] not in QUANTITIES:
        raise UsageError(f"--fail-if must be {_EXAMPLE}, with {' or '.join(QUANTITIES)}; found {text!r}")
    limit, sparsity = (_number(form[name], text) for name in ("limit", "sparsity"))
    if form["percent"]:
        limit /= 100
    elif not -1 < limit < 1:
        raise UsageError(f"--fail-if {text!r}: a plain limit must be below 1; for percent write {form['limit']}%")
    if not 0 <= sparsity < 1:
        raise UsageError(f"--fail-if {text!r}: the sparsity must be a fraction in [0, 1); found {form['sparsity']}")
    return FailCondition(form["quantity"], form["sign"], limit, sparsity, form["method"])


def failing_rows(condition: FailCondition, boards: Iterable[Board]) -> Iterator[tuple[Board, Row, str]]:
    """Yield (board, row, reason) for every row that fails.

    Raises:
        UsageError: the condition applies to no row, so that it could never fail.
    """
    selected = [(board, row) for board in boards for row in board.rows if condition.applies_to(row)]
    if not selected:
        method = condition.method or "any method except controls"
        where = f"{method} at sparsity {format_sparsity(condition.sparsity)}"
        raise UsageError(f"--fail-if applies to no row and could never fail: there is no row of {where}")
    for board, row in selected:
        reason = condition.reason(row)
        if reason is not None:
            yield board, row, reason


def _why_unknown(quantity: str, row: Row) -> str:
    return "no dense control shares a seed" if row.n and quantity == "drop" else "no run finished"


def _number(text: str, condition: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        raise UsageError(f"--fail-if {condition!r}: {text} is not a number")
    return float(text)
