"""A row of the tables in docs/speed.md: what was timed, the reference, and how their ratio is computed."""

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
        section: letter of the section of the page, `a` to `f`.
        what: name of our operation.
        against: name of the reference.
        kind: `cost` is our time divided by the reference's, at most `bound`; `gain` is the reference's time divided
            by ours, at least `bound`; `seconds` is our own time, at most `bound`.
        bound: None if the row has no bound.
        note: remark on the inputs, for the page.
        unit: if not empty, the page shows throughput in this unit instead of times.
        ours_units: units that one round of ours processes.
        reference_units: units that one round of the reference processes.
        states: number of equal groups of rounds, each for another state of a run; times are summed over the groups.
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
        """Return the number that is compared with the bound.

        For one state, it is the median over rounds of the ratio within each round. For several states, it is the
        ratio of the sums of the states' medians.

        Args:
            ours: seconds of each round of ours.
            reference: seconds of each round of the reference, in the same order.
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
        """Return the 95 % percentile bootstrap interval of `value`; rounds are resampled within their state."""
        draw = random.Random(0)
        groups = grouped(list(zip(ours, reference, strict=True)), self.states)
        found = []
        for _ in range(RESAMPLES):
            rounds = [pair for group in groups for pair in draw.choices(group, k=len(group))]
            found.append(self.value([mine for mine, _ in rounds], [other for _, other in rounds]))
        found.sort()
        return found[round(0.025 * RESAMPLES)], found[round(0.975 * RESAMPLES) - 1]


def grouped(items: Sequence, count: int) -> list[Sequence]:
    """Split `items` into `count` consecutive groups of equal length."""
    size = len(items) // count
    return [items[start : start + size] for start in range(0, size * count, size)]
