"""Standings: compares the methods of a track over all its boards by mean rank and pairwise tests."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.model import Board, Curve
from pruneboard.leaderboard.names import short_names


def build_standings(boards: Iterable[Board]) -> dict[str, stats.MethodComparison]:
    """Return track -> comparison of its methods, for tracks on which two or more boards share methods.

    A method is included if it has a complete curve on at least half of the boards. Only boards that contain all
    included methods count, so every additional method can reduce their number. The operating points of one board
    share seeds; therefore they count as one score: minus the area, or if there is no area, the mean top-1 minus 1.
    """
    tracks: dict[str, list[dict[str, float]]] = defaultdict(list)
    for board in boards:
        tracks[board.track].append(_scores(board))
    found = {
        track: stats.compare_methods(dict(enumerate(scores)), _common_methods(scores))
        for track, scores in sorted(tracks.items())
    }
    return {track: result for track, result in found.items() if result.boards > 1 and len(result.mean_rank) > 1}


def _common_methods(boards: Sequence[dict[str, float]]) -> list[str]:
    counts = Counter(name for scores in boards for name in scores)
    return [name for name, count in counts.items() if count >= max(2, math.ceil(len(boards) / 2))]


def _scores(board: Board) -> dict[str, float]:
    names = short_names(board.rows)
    return {names[curve.rows[0].identity]: _score(curve) for curve in board.curves if _is_complete(curve)}


def _is_complete(curve: Curve) -> bool:
    not_ablated = curve.rows[0].ablation is None
    return curve.coverage == 1 and not_ablated and all(row.n > 1 and not row.off_target for row in curve.rows)


def _score(curve: Curve) -> float:
    """Return the score of a curve; higher is better."""
    if curve.area is not None:
        return -curve.area.value
    return statistics.fmean(row.top1.mean for row in curve.rows if row.top1) - 1
