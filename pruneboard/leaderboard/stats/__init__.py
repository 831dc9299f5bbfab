"""Uncertainty over seeds and boards: pure functions on numbers (`docs/statistics.md` says what each one means).

    means          mean, deviation, Student-t intervals; paired differences; what a number of seeds is worth
    bootstrap      intervals by resampling seeds, and how often they really hold the truth
    probabilities  P(A > B) over paired seeds
    ranks          ranks with intervals
    curves         one number per trade-off curve: the area between it and the dense line
    boards         several boards together: mean ranks, Wilcoxon's test, Holm's correction

Higher scores are better throughout: hand in an area or a drop, of which less is better, with its sign changed.
Nothing here draws from a stream that is carried along, and no result depends on the order of a mapping.
"""

from __future__ import annotations

from pruneboard.leaderboard.stats.boards import LEVEL, Across, Pair, across_boards, boards_needed, holm
from pruneboard.leaderboard.stats.bootstrap import COVERAGE, EXACT_UP_TO, RESAMPLES, Interval
from pruneboard.leaderboard.stats.curves import Area, area
from pruneboard.leaderboard.stats.means import OFFICIAL, Estimate, estimate, label, paired
from pruneboard.leaderboard.stats.probabilities import PROBABILITY_COVERAGE, probability_above
from pruneboard.leaderboard.stats.ranks import RankInterval, rank_intervals

__all__ = [
    "COVERAGE",
    "EXACT_UP_TO",
    "LEVEL",
    "OFFICIAL",
    "PROBABILITY_COVERAGE",
    "RESAMPLES",
    "Across",
    "Area",
    "Estimate",
    "Interval",
    "Pair",
    "RankInterval",
    "across_boards",
    "area",
    "boards_needed",
    "estimate",
    "holm",
    "label",
    "paired",
    "probability_above",
    "rank_intervals",
]
