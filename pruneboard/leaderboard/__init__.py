"""Records to leaderboards: one table per board, one row per method and operating point. Pure functions.

Rows of different fingerprints never share a table: another recipe, batch size or split is another question.
Nothing is ever dropped in silence: a failed run is counted in its row, a seed that cannot be paired is named,
an operating point that a method lacks is a gap that is shown.
"""

from __future__ import annotations

from pruneboard.leaderboard.build import build
from pruneboard.leaderboard.model import Board, Curve, Failure, LayerShare, Leaderboard, Published, Row, Run, Tuning
from pruneboard.leaderboard.standings import standings

__all__ = [
    "Board",
    "Curve",
    "Failure",
    "LayerShare",
    "Leaderboard",
    "Published",
    "Row",
    "Run",
    "Tuning",
    "build",
    "standings",
]
