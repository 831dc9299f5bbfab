"""Colour, dash and shape of each method in charts; the same on every board where possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pruneboard.leaderboard import Board, Row
from pruneboard.leaderboard.names import RowNames

PALETTE = (
    ("#0072b2", "#5ab4e8"),
    ("#d55e00", "#ff9a57"),
    ("#009e73", "#3fcba0"),
    ("#a3478a", "#e292c6"),
    ("#b07d00", "#eec04f"),
    ("#4b4bb8", "#a3a3f5"),
)
"""Colours (for a light page, for a dark page), after Okabe and Ito: distinguishable with any type of dichromacy."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 2))

_CONTROLS = {
    "dense": ("#444444", "#d0d0d0", (1, 0), "stroke"),
    "floor": ("#9a9a9a", "#8a8f98", (2, 3), "triangle-right"),
    "baseline": ("#5f6368", "#bcc0c6", (6, 3), "square"),
}

_KINDS = {"dense": 0, "": 1, "baseline": 2, "floor": 3}


@dataclass(frozen=True)
class Style:
    """How the marks of one method look.

    Attributes:
        name: name of the method in the tables of the board.
        light: colour on a light page.
        dark: colour on a dark page.
        dash: lengths of dashes and gaps, in pixels.
        shape: name of a Vega symbol.
        control: `dense`, `floor`, `baseline` or empty.
    """

    name: str
    light: str
    dark: str
    dash: tuple[int, ...]
    shape: str
    control: str


def palette_positions(boards: Iterable[Board]) -> dict[str, int]:
    """Return method -> position in the palette, by alphabetical order of the methods of all boards."""
    names = {row.method for board in boards for row in board.rows if row.control is None}
    return {name: position for position, name in enumerate(sorted(names))}


def assign_styles(rows: Sequence[Row], names: RowNames, positions: Mapping[str, int]) -> dict[str, Style]:
    """Return name -> style of all rows of a board, starting with the dense control and ending with other controls.

    The colour of a method follows from its position in the palette. Rows that share a colour (variants of one method,
    and methods beyond the end of the palette) differ in dash and shape: each of the first 30 rows of one colour has
    its own combination of both.

    Args:
        rows: rows of the board.
        names: name of each row.
        positions: see `palette_positions`.
    """
    firsts = {names[row.identity]: row for row in reversed(rows)}
    order = sorted(firsts, key=lambda name: (_KINDS.get(firsts[name].control or "", 1), name))
    used: Counter[str] = Counter()
    return {name: _style(name, firsts[name], positions.get(firsts[name].method, 0), used) for name in order}


def _style(name: str, row: Row, position: int, used: Counter[str]) -> Style:
    control = row.control or ""
    light, dark = PALETTE[position % len(PALETTE)]
    dash: tuple[int, ...] = DASHES[position % len(DASHES)]
    shape = SHAPES[position % len(SHAPES)]
    if control:
        light, dark, dash, shape = _CONTROLS[control]
    if again := used[light]:
        start = SHAPES.index(shape) if shape in SHAPES else 0
        dash, shape = DASHES[(position + again) % len(DASHES)], SHAPES[(start + again) % len(SHAPES)]
    used[light] += 1
    return Style(name, light, dark, dash, shape, control)


SYMBOLS = {
    "circle": "M12,6a4,4 0 1 0 8,0a4,4 0 1 0 -8,0",
    "square": "M12.5,2.5h7v7h-7z",
    "triangle-up": "M16,1.5L20.5,9.5L11.5,9.5z",
    "triangle-down": "M16,10.5L20.5,2.5L11.5,2.5z",
    "triangle-right": "M20.5,6L12.5,10.5L12.5,1.5z",
    "diamond": "M16,1L20,6L16,11L12,6z",
    "cross": "M14.5,1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "stroke": "M4,6h24",
}
"""SVG paths of the Vega symbols in a box of 32 x 12, for the legend in HTML."""
