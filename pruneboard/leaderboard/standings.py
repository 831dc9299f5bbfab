"""Methods over all boards of a track: mean ranks, and which differ."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pruneboard.leaderboard import stats
from pruneboard.leaderboard.model import Board, Curve
from pruneboard.leaderboard.names import names


def standings(boards: Iterable[Board]) -> dict[str, stats.Across]:
    """Return track -> its methods over its boards; only tracks with two boards or more that share methods.

    A method is compared if it covers all operating points of at least half the boards: each further one may cost
    boards, since only those that have all of them count. Its score on a board, whose operating points share seeds
    and count as one, is its area with the sign changed, or its mean accuracy against 1 where there is no area.
    """
    tracks: dict[str, list[dict[str, float]]] = defaultdict(list)
    for board in boards:
        tracks[board.track].append(_scores(board))
    found = {track: stats.across_boards(dict(enumerate(own)), _common(own)) for track, own in sorted(tracks.items())}
    return {track: across for track, across in found.items() if across.boards > 1 and len(across.mean_rank) > 1}


def _common(boards: Sequence[dict[str, float]]) -> list[str]:
    counts = Counter(name for scores in boards for name in scores)
    return [name for name, count in counts.items() if count >= max(2, math.ceil(len(boards) / 2))]


def _scores(board: Board) -> dict[str, float]:
    called = names(board.rows)
    return {called[curve.rows[0].identity]: _score(curve) for curve in board.curves if _counts(curve)}


def _counts(curve: Curve) -> bool:
    first = curve.rows[0]
    return (
        curve.coverage == 1 and first.ablation is None and all(row.n > 1 and not row.off_target for row in curve.rows)
    )


def _score(curve: Curve) -> float:
    if curve.area is not None:
        return -curve.area.value
    return statistics.fmean(row.top1.mean for row in curve.rows if row.top1) - 1
