"""Time functions in interleaved rounds, and summarize their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 5, 500
"""Limits on the number of rounds within a time budget."""

SETTLING_CALLS, SETTLING_SECONDS = 7, 0.02
"""Most untimed calls at the start of a turn, and the time after which there are no more.

A weight is in the caches only after several passes over it. The second call of a turn took more than three times as
long as the sixth and later ones for a dense layer of 9 MB, but hardly longer for its CSR matrix at a sparsity of 0.9.
Without these calls, a measurement would favor the sparse form."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """Summary of the times of one function.

    Attributes:
        rounds: number of times.
        median: median, in seconds.
        p10: 10th percentile, in seconds.
        p90: 90th percentile, in seconds.
    """

    rounds: int
    median: float
    p10: float
    p90: float


def time_interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    seconds: float,
    rounds: int | None = None,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Times]:
    """Time functions in rounds, so that a change in the machine's speed affects all of them.

    In every round, each function has one turn: some untimed calls (`SETTLING_CALLS`), which load its own weights into
    the caches that other functions have filled, and one timed call. Each round starts with another function.

    Args:
        calls: key -> a function that returns when its work is done.
        seconds: time budget; no new round starts after it, but at least `MIN_ROUNDS` are taken.
        rounds: exact number of rounds, instead of a time budget.
        warmup: untimed calls of each function before the first round.
        clock: returns seconds: wall-clock time, or the process's own CPU time.

    Returns:
        key -> summary of the function's times.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[Key, list[float]] = {key: [] for key in calls}
    began, keys = time.perf_counter(), list(calls)
    for done in range(rounds or MAX_ROUNDS):
        if rounds is None and done >= MIN_ROUNDS and time.perf_counter() - began > seconds:
            break
        first = done % len(keys)
        for key in keys[first:] + keys[:first]:
            times[key].append(_turn(calls[key], clock))
    return {key: summarize(values) for key, values in times.items()}


def _turn(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(SETTLING_CALLS):
        call()
        if clock() - start > SETTLING_SECONDS:
            break
    began = clock()
    call()
    return clock() - began


def summarize(values: Sequence[float]) -> Times:
    """Return the median and the 10th and 90th percentiles of one or more times."""
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9))
    return Times(len(values), float(median), float(p10), float(p90))
