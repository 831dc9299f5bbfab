"""Fixtures that time our operations and a reference alternately: ratios then hold if the machine's speed drifts."""

from __future__ import annotations

import dataclasses
import gc
import resource
import statistics
from collections.abc import Callable

import pytest
import torch
from rows import Row

from pruneboard.processes import memory

THREADS = 1
"""Threads of torch in this process. OMP_NUM_THREADS in tox.ini sets them for the processes that it starts."""


def pytest_addoption(parser):
    """Add `--quick` and `--processor-time`."""
    parser.addoption("--quick", action="store_true", help="take few rounds: a check with rough ratios")
    parser.addoption("--processor-time", action="store_true", help="measure processor time, not wall time")


def processor_time() -> float:
    """Return the processor time, in seconds, of this process and of the child processes that it waited for."""
    uses = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def pytest_collection_modifyitems(config, items):
    """With `--processor-time`, use processor time in every test that does not set its own timer."""
    if config.getoption("--processor-time"):
        for item in items:
            if item.get_closest_marker("benchmark") is None:
                item.add_marker(pytest.mark.benchmark(timer=processor_time))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Run everything on one thread, because the number of free cores of a shared machine varies."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    memory.keep_freed_memory()  # as in the process of a run; applies to both sides
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rounds(request):
    """Return a function that selects the number of rounds: the first argument, or with `--quick` the second."""
    quick = request.config.getoption("--quick")
    return lambda full, quickly=2: quickly if quick else full


@pytest.fixture
def versus(benchmark):
    """Return a function that times `ours` with pytest-benchmark and the reference before each round.

    It stores a row for the page. Both are timed in wall time, or with `--processor-time` in processor time.
    """
    clock = benchmark._timer

    def run(row: Row, ours: Callable, reference: Callable, *, rounds: int, before: Callable = lambda: None) -> None:
        reference_times: list[float] = []
        # One round is not recorded: first calls allocate memory, build optimizer state and select kernels.
        before()
        reference()
        before()
        ours()

        def setup():
            before()
            gc.collect()
            start = clock()
            reference()
            reference_times.append(clock() - start)
            before()
            gc.collect()

        benchmark.pedantic(ours, setup=setup, rounds=rounds, iterations=1)
        if benchmark.stats is None:  # --benchmark-disable
            return
        times = benchmark.stats.stats.data
        low, high = row.interval(times, reference_times)
        benchmark.extra_info |= dataclasses.asdict(row) | {
            "ours": statistics.median(times),
            "reference": statistics.median(reference_times),
            "value": row.value(times, reference_times),
            "low": low,
            "high": high,
            "rounds": rounds,
            "threads": THREADS,
            "clock": "processor" if clock is processor_time else "wall",
        }

    return run
