"""Ours and a reference, one round each in turn on the same inputs: a ratio holds where the machine's speed drifts."""

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
"""Of torch, in this process and, through OMP_NUM_THREADS in tox.ini, in those it starts."""


def pytest_addoption(parser):
    """Add `--quick` and `--processor-time`."""
    parser.addoption("--quick", action="store_true", help="few rounds: that everything works, and first ratios")
    parser.addoption("--processor-time", action="store_true", help="for a machine that others use: not wall time")


def processor_time() -> float:
    """Return the seconds that processors have spent on this process and on those that it waited for."""
    uses = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def pytest_collection_modifyitems(config, items):
    """Let every test that does not say how it is timed be timed as the command line says."""
    if config.getoption("--processor-time"):
        for item in items:
            if item.get_closest_marker("benchmark") is None:
                item.add_marker(pytest.mark.benchmark(timer=processor_time))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Time on one thread, stated on the page: cores of a shared machine come and go."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    memory.keep_freed_memory()  # as the process of a run does: both sides have it
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rounds(request):
    """How many rounds a test takes: as many as it says, or the fewest with `--quick`."""
    quick = request.config.getoption("--quick")
    return lambda full, quickly=2: quickly if quick else full


@pytest.fixture
def versus(benchmark):
    """Time `ours` by pytest-benchmark, and before each of its rounds the reference; leave a row for the page.

    Both in wall time, or in processor time where `--processor-time` asks for it.
    """
    clock = benchmark._timer

    def run(row: Row, ours: Callable, reference: Callable, *, rounds: int, before: Callable = lambda: None) -> None:
        reference_times: list[float] = []
        # Once unrecorded: first calls allocate, build optimizer state and choose kernels.
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
