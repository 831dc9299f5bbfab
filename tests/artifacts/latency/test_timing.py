"""Functions are timed in interleaved rounds, and their times are summarized by percentiles."""

from __future__ import annotations

import functools
import itertools

from hypothesis import given
from hypothesis import strategies as st

from pruneboard.artifacts.latency import timing


def test_functions_take_turns_and_the_last_call_of_a_turn_is_timed():
    """Each round starts with another function, and the clock times only the last call of a turn."""
    calls, now = [], itertools.count()
    functions = {name: functools.partial(calls.append, name) for name in "abc"}
    times = timing.time_interleaved(functions, seconds=0, rounds=4, warmup=1, clock=lambda: float(next(now)))
    assert "".join(calls) == "abc" + "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert times == dict.fromkeys("abc", timing.Times(4, 1.0, 1.0, 1.0))


def test_a_turn_has_a_fixed_number_of_short_untimed_calls():
    """If calls take no time, each turn has `SETTLING_CALLS` untimed ones."""
    calls = []
    timing.time_interleaved({"a": lambda: calls.append(1)}, seconds=0, rounds=2, warmup=0, clock=lambda: 0.0)
    assert len(calls) == 2 * (timing.SETTLING_CALLS + 1)


def test_the_shortest_budget_has_enough_rounds():
    """However short the time budget, the minimum number of rounds is taken."""
    assert timing.time_interleaved({"a": int}, seconds=1e-9)["a"].rounds == timing.MIN_ROUNDS


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=30))
def test_a_summary_is_ordered(values):
    """Minimum, 10th percentile, median, 90th percentile and maximum are in this order."""
    found = timing.summarize(values)
    ends = [min(values), found.p10, found.median, found.p90, max(values)]
    assert all(low <= high * (1 + 1e-9) for low, high in itertools.pairwise(ends))
    assert found.rounds == len(values)
