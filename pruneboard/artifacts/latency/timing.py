"""Functions timed in turn, and what their times come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

FEWEST, MOST = 5, 500
"""Rounds within a budget of seconds."""

SETTLING, SETTLED = 7, 0.02
"""Untimed calls at the start of a turn, and seconds after which there are no more of them. Caches take several passes
over a weight to keep it: in the second call of a turn a dense layer of 9 MB took more than three times as long as from
the sixth on, its CSR matrix at a sparsity of 0.9 hardly longer."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """Times of one function.

    Attributes:
        rounds: how many there are.
        median: in seconds, as the next two.
        p10: one in ten is shorter.
        p90: one in ten is longer.
    """

    rounds: int
    median: float
    p10: float
    p90: float


def interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    seconds: float,
    rounds: int | None = None,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Times]:
    """Time functions in rounds, so that a machine that becomes slower does so for all of them.

    In every round each has a turn: some untimed calls (`SETTLING`), which bring its own weights back into the caches
    that others have filled, and a timed one. The next round starts with another function.

    Args:
        calls: functions that return when their work is done.
        seconds: after which no new round is begun, once there are `FEWEST`.
        rounds: exactly so many instead.
        warmup: untimed calls of each before the first round.
        clock: seconds; that of the wall, or that of the process's own work.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[Key, list[float]] = {key: [] for key in calls}
    began, keys = time.perf_counter(), list(calls)
    for done in range(rounds or MOST):
        if rounds is None and done >= FEWEST and time.perf_counter() - began > seconds:
            break
        first = done % len(keys)
        for key in keys[first:] + keys[:first]:
            times[key].append(_turn(calls[key], clock))
    return {key: summary(values) for key, values in times.items()}


def _turn(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(SETTLING):
        call()
        if clock() - start > SETTLED:
            break
    began = clock()
    call()
    return clock() - began


def summary(values: Sequence[float]) -> Times:
    """Return the median and the ends of the middle four fifths of one value or more."""
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9))
    return Times(len(values), float(median), float(p10), float(p90))
