"""How each method is drawn: one colour, dash and shape, the same on every board as far as they reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pruneboard.leaderboard import Board, Row
from pruneboard.leaderboard.model import Identity

PALETTE = (
    ("#0072b2", "#5ab4e8"),
    ("#d55e00", "#ff9a57"),
    ("#009e73", "#3fcba0"),
    ("#a3478a", "#e292c6"),
    ("#b07d00", "#eec04f"),
    ("#4b4bb8", "#a3a3f5"),
)
"""(on white, on black), after Okabe and Ito, told apart by readers with any one kind of cone missing."""

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
    """How one method's marks look.

    Attributes:
        name: the method, as the board's tables call it.
        light: colour on a light page.
        dark: colour on a dark page.
        dash: lengths of line and gap in pixels.
        shape: Vega's name of a symbol.
        control: `dense`, `floor`, `baseline` or empty.
    """

    name: str
    light: str
    dark: str
    dash: tuple[int, ...]
    shape: str
    control: str


def preferred(boards: Iterable[Board]) -> dict[str, int]:
    """Return method -> its place in the palette, by name over all boards."""
    names = {row.method for board in boards for row in board.rows if row.control is None}
    return {name: place for place, name in enumerate(sorted(names))}


def of(rows: Sequence[Row], names: Mapping[Identity, str], places: Mapping[str, int]) -> dict[str, Style]:
    """Return name -> style of all rows of a board, the dense control first, other controls last.

    A method's place in the palette gives its colour; its variants, and methods beyond the palette's end, that share
    a colour differ in dash and shape. No two of the first 30 of one colour look alike, nor do neighbours in grey.
    """
    firsts = {names[row.identity]: row for row in reversed(rows)}
    order = sorted(firsts, key=lambda name: (_KINDS.get(firsts[name].control or "", 1), name))
    used: Counter[str] = Counter()
    return {name: _style(name, firsts[name], places.get(firsts[name].method, 0), used) for name in order}


def _style(name: str, row: Row, place: int, used: Counter[str]) -> Style:
    control = row.control or ""
    light, dark = PALETTE[place % len(PALETTE)]
    dash: tuple[int, ...] = DASHES[place % len(DASHES)]
    shape = SHAPES[place % len(SHAPES)]
    if control:
        light, dark, dash, shape = _CONTROLS[control]
    if again := used[light]:
        start = SHAPES.index(shape) if shape in SHAPES else 0
        dash, shape = DASHES[(place + again) % len(DASHES)], SHAPES[(start + again) % len(SHAPES)]
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
"""Vega's symbols as paths in a box of 32 by 12, for the legend in HTML."""
