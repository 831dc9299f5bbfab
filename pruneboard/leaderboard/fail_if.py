"""`--fail-if "drop > 0.005 at 0.9"`: a bound on a leaderboard's rows, for a lab that gates its CI on it. Pure."""

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
"""What may be bounded: the mean paired drop against dense, and the mean test top-1; both are fractions."""

_COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_FORM = re.compile(
    r"\s*(?P<quantity>[\w-]+)\s*(?P<sign>[<>]=?)\s*(?P<bound>[^\s%]+)\s*(?P<percent>%?)"
    r"\s+at\s+(?P<point>\S+)(?:\s+for\s+(?P<method>\S+))?\s*"
)
_EXAMPLE = '"drop > 0.005 at 0.9", "drop > 0.5% at 0.9" or "top1 < 0.9 at 0.95 for METHOD"'


@dataclass(frozen=True)
class Threshold:
    """A bound that rows must not breach.

    Attributes:
        quantity: one of `QUANTITIES`.
        sign: `>`, `>=`, `<` or `<=`; a row for which it holds is in breach.
        bound: a fraction.
        point: the target sparsity of the rows it looks at.
        method: the one method it looks at; None for all but the controls.
    """

    quantity: str
    sign: str
    bound: float
    point: float
    method: str | None = None

    def looks_at(self, row: Row) -> bool:
        """Whether the bound is meant for this row: of the method, or no control and no ablation; at the sparsity."""
        meant = row.method == self.method if self.method else row.control is None
        return meant and row.ablation is None and row.target == self.point

    def breach(self, row: Row) -> str | None:
        """Say how a row breaches the bound; off its target, or of unknown value, it does. None where it holds."""
        if row.off_target and row.measured is not None:
            return f"it is off its target and measures {row.measured:.6g}"
        value = QUANTITIES[self.quantity](row)
        if value is None:
            return f"{self.quantity} is not known: {_why_unknown(self.quantity, row)}"
        if not _COMPARISONS[self.sign](value, self.bound):
            return None
        return f"{self.quantity} {value:.6g} {self.sign} {self.bound:.6g} (n = {row.n})"


def parse(text: str) -> Threshold:
    """Return what `QUANTITY SIGN VALUE at SPARSITY [for METHOD]` says.

    Raises:
        UsageError: it has another form, or a bare number of 1 or more: 0.5 percent is `0.5%` or `0.005`.
    """
    form = _FORM.fullmatch(text)
    if form is None or form["quantity"] not in QUANTITIES:
        raise UsageError(f"--fail-if is {_EXAMPLE}, with {' or '.join(QUANTITIES)}; found {text!r}")
    bound, point = (_number(form[name], text) for name in ("bound", "point"))
    if form["percent"]:
        bound /= 100
    elif not -1 < bound < 1:
        percent = f"{form['bound']}%"
        raise UsageError(f"--fail-if {text!r}: a bound is a fraction below 1; for percent write {percent}")
    if not 0 <= point < 1:
        raise UsageError(f"--fail-if {text!r}: a sparsity is a fraction of zeros in [0, 1); found {form['point']}")
    return Threshold(form["quantity"], form["sign"], bound, point, form["method"])


def breaches(threshold: Threshold, boards: Iterable[Board]) -> Iterator[tuple[Board, Row, str]]:
    """Yield every row that breaches the bound, with how.

    Raises:
        UsageError: the bound looks at no row at all, so that it could never fail.
    """
    looked_at = [(board, row) for board in boards for row in board.rows if threshold.looks_at(row)]
    if not looked_at:
        whose = f" of {threshold.method}" if threshold.method else " but controls"
        where = f"at sparsity {format_sparsity(threshold.point)}"
        raise UsageError(f"--fail-if looks at no row, and could never fail: there is none{whose} {where}")
    for board, row in looked_at:
        how = threshold.breach(row)
        if how is not None:
            yield board, row, how


def _why_unknown(quantity: str, row: Row) -> str:
    if not row.n:
        return "no run finished"
    return "no dense control shares a seed" if quantity == "drop" else "no run finished"


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        raise UsageError(f"--fail-if {whole!r}: {text} is no number")
    return float(text)
