"""A row of the table in docs/speed.md: what was timed, beside what, and how the ratio comes about."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        section: of the page: `a` to `f` as in its headings.
        what: ours, and the reference's name follows in `against`.
        against: the reference.
        kind: `cost` is our time over the reference's, at most `bound`; `gain` the reference's over ours, at least
            `bound`; `seconds` our own time, at most `bound`.
        bound: None where there is none.
        note: about the inputs, for the page.
        unit: what is counted, where the page shows how much of it a second handles; else empty.
        ours_units: of these, how many one round of ours handles.
        reference_units: the same of the reference.
        states: rounds come in this many equal groups, each of another state of a run; times add up over groups.
    """

    section: str
    what: str
    against: str
    kind: Literal["cost", "gain", "seconds"] = "cost"
    bound: float | None = None
    note: str = ""
    unit: str = ""
    ours_units: int = 1
    reference_units: int = 1
    states: int = 1

    def value(self, ours: Sequence[float], reference: Sequence[float]) -> float:
        """Return the number that is held to the bound, from the seconds of each round.

        The median over rounds of the ratio within a round; over several states, the ratio of the sums of the
        medians.
        """
        if self.kind == "seconds":
            return statistics.median(ours)
        scale = self.reference_units / self.ours_units
        if self.states == 1:
            found = statistics.median(scale * mine / other for mine, other in zip(ours, reference, strict=True))
        else:
            totals = [sum(map(statistics.median, grouped(times, self.states))) for times in (ours, reference)]
            found = scale * totals[0] / totals[1]
        return 1 / found if self.kind == "gain" else found

    def interval(self, ours: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of `value`: rounds are resampled within their state."""
        draw = random.Random(0)
        groups = grouped(list(zip(ours, reference, strict=True)), self.states)
        found = []
        for _ in range(RESAMPLES):
            rounds = [pair for group in groups for pair in draw.choices(group, k=len(group))]
            found.append(self.value([mine for mine, _ in rounds], [other for _, other in rounds]))
        found.sort()
        return found[round(0.025 * RESAMPLES)], found[round(0.975 * RESAMPLES) - 1]


def grouped(items: Sequence, count: int) -> list[Sequence]:
    """Cut `items` into `count` runs of equal length."""
    size = len(items) // count
    return [items[start : start + size] for start in range(0, size * count, size)]
