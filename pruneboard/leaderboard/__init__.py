"""Turns records into leaderboards: one table per board, one row per method and operating point.

Everything here except `folders` is a pure function of validated records. Records with different fingerprints never
share a table, because runs with another recipe, batch size or split are not comparable. Nothing is dropped silently:
failed runs are counted in their row, seeds that cannot be paired are named, and missing operating points are shown.
"""

from __future__ import annotations

from pruneboard.leaderboard.build import build_boards
from pruneboard.leaderboard.model import Board, Curve, Failure, Leaderboard, Published, Row, RunEntry, Tuning
from pruneboard.leaderboard.standings import build_standings

__all__ = [
    "Board",
    "Curve",
    "Failure",
    "Leaderboard",
    "Published",
    "Row",
    "RunEntry",
    "Tuning",
    "build_boards",
    "build_standings",
]
