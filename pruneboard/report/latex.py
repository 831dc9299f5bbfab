r"""Boards as LaTeX: one booktabs table each, methods over operating points. Compiles with `\usepackage{booktabs}`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from pruneboard.leaderboard import Board, Leaderboard, Row
from pruneboard.leaderboard.model import Identity
from pruneboard.records.schema import format_sparsity
from pruneboard.report.clean import plain
from pruneboard.report.tables import percent, row_names

MOST_POINTS = 10
"""Operating points in one table; a board with more continues in the next."""

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
    "[": "{[}",  # at the start of a line these two would belong to the line end before
    "]": "{]}",
    "*": "{*}",
    "±": r"\(\pm\)",
    "…": r"\ldots{}",
}
_HEAD = "% Written by pruneboard. Load fontenc with the option T1, textcomp and booktabs.\n"


def latex(board: Leaderboard) -> str:
    """Return one table per board, for `\\input` in a document; mean and sample deviation over seeds, in percent."""
    return _HEAD + "".join(f"\n{table}" for one in board.boards for table in _tables(one))


def escape(text: str) -> str:
    """Return text that LaTeX prints as it stands; what its fonts lack is spelled without accents or left out."""
    escaped = "".join(_SPECIAL.get(char) or _ascii(char) for char in text)
    return re.sub("-(?=-)", "-{}", escaped)  # two in a row would become a dash


def _ascii(char: str) -> str:
    if " " <= char <= "~":
        return char
    spelled = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return "".join(_SPECIAL.get(part, part) for part in spelled if part.isprintable()) or "?"


def _tables(board: Board) -> Iterable[str]:
    for start in range(0, len(board.points), MOST_POINTS):
        yield _table(board, board.points[start : start + MOST_POINTS])


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
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\medskip\footnotesize {_footnote(board, names, points)}",
            r"\end{table}",
            "",
        ]
    )


def _caption(board: Board) -> str:
    name = escape(plain(f"{board.dataset}, {board.model}, {board.track}, board {board.fingerprint}", 200))
    return rf"{name}: test top-1 in \%, mean \(\pm\) sample standard deviation over seeds, by sparsity."


def _lines(board: Board, names: Mapping[Identity, str], points: tuple[float, ...]) -> Iterable[str]:
    cells = {(row.identity, row.target): row for row in board.rows if not row.off_target}
    for curve in board.curves:
        identity = curve.rows[0].identity
        texts = [_cell(cells.get((identity, point))) for point in points]
        yield " & ".join([escape(names[identity]), *texts]) + r" \\"


def _cell(row: Row | None) -> str:
    if row is None or row.top1 is None:
        return "failed" if row else "--"
    mean = percent(row.top1.mean)
    if row.top1.sd is None:
        return rf"\(\circ\)~{mean}"
    text = rf"{mean} \(\pm\) {percent(row.top1.sd)}"
    return rf"\textbf{{{text}}}" if row.leads else text


def _footnote(board: Board, names: Mapping[Identity, str], points: tuple[float, ...]) -> str:
    parts = []
    if board.dense and board.dense.top1:
        parts.append(f"Dense control: {_cell(board.dense)} ({board.dense.n} seeds).")
    parts.append(f"Seeds: {_seeds(board, names, points)}.")
    parts.append(r"\(\circ\) is a single seed, never ranked; 2 to 5 seeds are provisional, 6 or more official.")
    parts.append("Bold is ahead of the runner-up by more than the 95~\\% interval of their paired difference.")
    parts += [f"Off target, not shown: {', '.join(off)}."] if (off := _off(board, names, points)) else []
    parts += [f"No finished run of the controls {', '.join(board.missing_controls)}."] if board.missing_controls else []
    return " ".join(parts)


def _seeds(board: Board, names: Mapping[Identity, str], points: tuple[float, ...]) -> str:
    """Return `6 each`, or each method's number of finished seeds where they differ."""
    spans: dict[str, str] = {}
    for curve in board.curves:
        counts = [row.n for row in curve.rows if row.target in points]
        if counts:
            low, high = min(counts), max(counts)
            spans[escape(names[curve.rows[0].identity])] = str(low) if low == high else f"{low} to {high}"
    if len(set(spans.values())) == 1:
        return f"{next(iter(spans.values()))} each"
    return "; ".join(f"{name} {span}" for name, span in spans.items())


def _off(board: Board, names: Mapping[Identity, str], points: tuple[float, ...]) -> list[str]:
    rows = [row for row in board.rows if row.off_target and row.target in points]
    return [f"{escape(names[row.identity])} at {row.measured:.4g} ({_cell(row)})" for row in rows]
