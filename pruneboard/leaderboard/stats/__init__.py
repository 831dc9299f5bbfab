"""Statistics over seeds and boards, as pure functions of numbers (explained in `docs/statistics.md`).

    means            mean, standard deviation, Student-t interval; paired differences; status of a number of seeds
    bootstrap        intervals by resampling seeds, and their actual coverage
    probabilities    P(A > B) over paired seeds
    ranks            ranks with bootstrap intervals
    curves           mean drop over a trade-off curve
    multiple_boards  mean ranks over several boards, Wilcoxon's signed-rank test, Holm's correction

Higher scores are better throughout. For quantities where less is better (area, drop), pass the negative value. Results
are reproducible: they depend neither on a global random state nor on the order of a mapping.
"""

from __future__ import annotations

from pruneboard.leaderboard.stats.bootstrap import COVERAGE, EXACT_UP_TO, RESAMPLES, Interval
from pruneboard.leaderboard.stats.curves import Area, area
from pruneboard.leaderboard.stats.means import OFFICIAL, MeanEstimate, estimate, label, paired
from pruneboard.leaderboard.stats.multiple_boards import LEVEL, MethodComparison, boards_needed, compare_methods, holm
from pruneboard.leaderboard.stats.probabilities import PROBABILITY_COVERAGE, probability_above
from pruneboard.leaderboard.stats.ranks import RankInterval, rank_intervals

__all__ = [
    "COVERAGE",
    "EXACT_UP_TO",
    "LEVEL",
    "OFFICIAL",
    "PROBABILITY_COVERAGE",
    "RESAMPLES",
    "Area",
    "Interval",
    "MeanEstimate",
    "MethodComparison",
    "RankInterval",
    "area",
    "boards_needed",
    "compare_methods",
    "estimate",
    "holm",
    "label",
    "paired",
    "probability_above",
    "rank_intervals",
]
