r"""Boards as LaTeX: one booktabs table per board, with methods as rows and operating points as columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from pruneboard.leaderboard import Board, Leaderboard, Row
from pruneboard.leaderboard.names import RowNames
from pruneboard.records.schema import format_sparsity
from pruneboard.report.escaping import printable
from pruneboard.report.tables import MAX_POINTS, percent, row_names

MOST_POINTS = 10
"""Operating points per table; boards with more of them continue in a further table."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # at the start of a row, a bracket would be an argument of the preceding \\\\
    "]": "{]}",
    "*": "{*}",
    "±": r"\(\pm\)",
    "…": r"\ldots{}",
}
_HEAD = "% Written by pruneboard. Load fontenc with the option T1, textcomp and booktabs.\n"


def latex(leaderboard: Leaderboard) -> str:
    """Return one table per board, for `\\input`, with mean and sample standard deviation over seeds in percent."""
    return _HEAD + "".join(f"\n{table}" for board in leaderboard.boards for table in _tables(board))


def escape(text: str) -> str:
    """Return text that LaTeX prints literally. Characters outside ASCII lose their accents or become `?`."""
    escaped = "".join(_SPECIAL.get(char) or _ascii(char) for char in text)
    return re.sub("-(?=-)", "-{}", escaped)  # LaTeX sets two hyphens as a dash


def _ascii(char: str) -> str:
    if " " <= char <= "~":
        return char
    spelled = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return "".join(_SPECIAL.get(part, part) for part in spelled if part.isprintable()) or "?"


def _tables(board: Board) -> Iterable[str]:
    points = board.points[:MAX_POINTS]
    if len(points) < len(board.points):
        yield f"% The tables have the first {MAX_POINTS} of {len(board.points)} operating points.\n"
    for start in range(0, len(points), MOST_POINTS):
        yield _table(board, points[start : start + MOST_POINTS])


def _table(board: Board, points: tuple[float, ...]) -> str:
    names = row_names(board.rows)
    head = " & ".join(["Method", *(escape(format_sparsity(point)) for point in points)])
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_caption(board)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(points)}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *_lines(board, names, points),
            *_chance_lines(board, points),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\medskip\footnotesize {_footnote(board, names, points)}",
            r"\end{table}",
            "",
        ]
    )


def _caption(board: Board) -> str:
    name = escape(printable(f"{board.dataset}, {board.model}, {board.track}, board {board.fingerprint}", 200))
    return rf"{name}: test top-1 in \%, mean \(\pm\) sample standard deviation over seeds, by sparsity."


def _lines(board: Board, names: RowNames, points: tuple[float, ...]) -> Iterable[str]:
    cells = {(row.identity, row.target): row for row in board.rows if not row.off_target}
    for curve in board.curves:
        identity = curve.rows[0].identity
        texts = [_cell(cells.get((identity, point))) for point in points]
        yield " & ".join([escape(names[identity]), *texts]) + r" \\"


def _chance_lines(board: Board, points: tuple[float, ...]) -> Iterable[str]:
    if board.chance_levels:
        yield r"\midrule"
    for name, level in board.chance_levels.items():
        yield " & ".join([name.capitalize(), *(percent(level) for _ in points)]) + r" \\"


def _cell(row: Row | None) -> str:
    if row is None or row.top1 is None:
        return "failed" if row else "--"
    mean = percent(row.top1.mean)
    if row.top1.sd is None:
        return rf"\(\circ\)~{mean}"
    text = rf"{mean} \(\pm\) {percent(row.top1.sd)}"
    return rf"\textbf{{{text}}}" if row.leads else text


def _footnote(board: Board, names: RowNames, points: tuple[float, ...]) -> str:
    parts = []
    if board.dense and board.dense.top1:
        parts.append(f"Dense control: {_cell(board.dense)} ({board.dense.n} seeds).")
    parts.append(f"Seeds: {_seeds(board, names, points)}.")
    parts.append(
        r"\(\circ\) marks a single seed, which is never ranked; 2 to 5 seeds are provisional, 6 or more official."
    )
    parts.append("Bold: the 95~\\% interval of the paired difference to the runner-up is above 0.")
    parts += [f"Off target, not in the table: {', '.join(off)}."] if (off := _off_target(board, names, points)) else []
    if low := _at_chance(board, names, points):
        parts.append(f"Not above chance or the majority class, and therefore not ranked: {', '.join(low)}.")
    parts += [f"No finished run of the controls {', '.join(board.missing_controls)}."] if board.missing_controls else []
    return " ".join(parts)


def _seeds(board: Board, names: RowNames, points: tuple[float, ...]) -> str:
    """Return `6 each`, or the number of finished seeds of each method if they differ."""
    spans: dict[str, str] = {}
    for curve in board.curves:
        counts = [row.n for row in curve.rows if row.target in points]
        if counts:
            low, high = min(counts), max(counts)
            spans[escape(names[curve.rows[0].identity])] = str(low) if low == high else f"{low} to {high}"
    if len(set(spans.values())) == 1:
        return f"{next(iter(spans.values()))} each"
    return "; ".join(f"{name} {span}" for name, span in spans.items())


def _off_target(board: Board, names: RowNames, points: tuple[float, ...]) -> list[str]:
    rows = [row for row in board.rows if row.off_target and row.target in points]
    return [f"{escape(names[row.identity])} at {row.measured:.4g} ({_cell(row)})" for row in rows]


def _at_chance(board: Board, names: RowNames, points: tuple[float, ...]) -> list[str]:
    rows = [row for row in board.rows if row.at_chance and not row.off_target and row.target in points]
    return [f"{escape(names[row.identity])} at {escape(format_sparsity(row.target))}" for row in rows]
