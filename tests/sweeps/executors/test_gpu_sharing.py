"""Sharing a GPU: the number of parallel runs grows while throughput and memory allow it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.sweeps.executors.gpu_sharing import (
    MAX_RUNS,
    MIN_SPEEDUP,
    ConcurrencySearch,
    GpuSharing,
    _has_memory,
    gpu_shares,
    on_gpu,
)
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.scheduler import run_sweep
from scheduler_cases import RecordingListener, planned_runs


@settings(deadline=None, max_examples=50)
@given(
    best=st.integers(1, MAX_RUNS),
    fit=st.integers(1, 2 * MAX_RUNS),
    first=st.floats(0.1, 1000),
    growth=st.lists(st.floats(MIN_SPEEDUP * 1.001, 3), min_size=MAX_RUNS, max_size=MAX_RUNS),
    loss=st.floats(0.1, MIN_SPEEDUP * 0.999),
)
def test_the_search_stops_where_throughput_stops_growing(best, fit, first, growth, loss):
    """The search settles at the last number of runs that raised the throughput enough, or at the most that fit."""
    throughput = [first]
    for runs in range(2, MAX_RUNS + 2):
        throughput.append(throughput[-1] * (growth[runs - 2] if runs <= best else loss))
    search = ConcurrencySearch()
    for _ in range(MAX_RUNS + 1):
        search.update(throughput[search.slots - 1], has_memory=search.slots < fit)
    assert search.settled
    assert search.slots == min(best, fit)


def test_a_settled_search_ignores_measurements():
    """After the search is over, further measurements do not change the number of runs."""
    search = ConcurrencySearch(slots=3, settled=True)
    search.update(1e9, has_memory=True)
    assert search.slots == 3


class FakeGpu:
    """A simulated GPU with a clock: up to `full` runs of `length` steps train at full rate, more runs share it."""

    def __init__(self, full, length, rate=100.0):
        self.full, self.length, self.rate = full, length, rate
        self.now = 0.0
        self.most = 0
        self.done: dict[int, float] = {}
        self.steps: dict[int, tuple[int, int]] = {}

    def submit(self, key, spec):
        self.done[key] = 0.0
        self.most = max(self.most, len(self.done))

    def wait(self, seconds):
        self.now += seconds
        each = self.rate * min(self.full, len(self.done)) / len(self.done)
        self.done = {key: done + each * seconds for key, done in self.done.items()}
        ended = [key for key, done in self.done.items() if done >= self.length]
        self.steps = {key: (int(done), self.length) for key, done in self.done.items() if key not in ended}
        for key in ended:
            del self.done[key]
        return [Outcome(key, "done") for key in ended]

    def stop(self):
        self.steps = {}


@pytest.mark.parametrize(
    ("named", "count", "procs", "expected"),
    [
        (None, 0, 1, []),
        (None, 3, 1, ["0", "1", "2"]),
        (None, 5, 2, ["0,1", "2,3"]),
        (None, 1, 2, []),
        ("6,2", 2, 1, ["6", "2"]),
        ("GPU-1f3a,GPU-77b0", 2, 2, ["GPU-1f3a,GPU-77b0"]),
    ],
)
def test_visible_gpus_are_divided_among_runs(monkeypatch, named, count, procs, expected):
    """Each run gets as many GPUs as it has processes, under the names that this process knows them by."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpu_shares(procs) == expected


def settled_slots(gpu, runs, has_memory=lambda runs: True, gpus=()):
    """Execute so many runs on a simulated GPU, and return how many run in parallel at the end."""
    sharing = GpuSharing(lambda spec, on_step: {}, 1, has_memory, lambda: gpu.now, gpus)
    sharing._workers = gpu
    assert sharing.slots == max(1, len(gpus))
    listener = RecordingListener()
    run_sweep(planned_runs(runs), sharing, listener, record_lost_run=listener.record_lost_run)
    return sharing.slots


@pytest.mark.parametrize("full", [1, 2, 5])
@pytest.mark.parametrize("length", [700, 10_000])
def test_runs_are_added_until_throughput_stops_growing(full, length):
    """The number of runs settles at the capacity of the GPU, even if a run is shorter than a measurement."""
    gpu = FakeGpu(full, length)
    assert settled_slots(gpu, 400 if length == 700 else 20) == full
    assert gpu.most == full + 1


def test_every_gpu_gets_as_many_runs():
    """With four GPUs that two runs fill each, runs are added to all four at once, up to eight."""
    gpu = FakeGpu(8, 10_000)
    assert settled_slots(gpu, 60, gpus=["0", "1", "2", "3"]) == 8
    assert gpu.most == 12


def test_runs_are_added_only_while_memory_allows():
    """Without memory for one more run none is added, even if it would raise the throughput."""
    gpu = FakeGpu(8, 5000)
    assert settled_slots(gpu, 20, has_memory=lambda runs: runs < 3) == gpu.most == 3


@pytest.mark.parametrize(
    ("free", "runs", "expected"),
    [(80, 1, True), (50, 1, False), (61, 1, True), (40, 2, False), (41, 2, True), (5, 16, False)],
)
def test_one_more_run_needs_its_mean_memory_and_a_tenth_in_reserve(monkeypatch, free, runs, expected):
    """One more run fits if the free memory exceeds the mean use of the active runs plus a tenth of the total."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free, 100))
    assert _has_memory(runs) is expected


def test_a_cpu_run_uses_no_gpu(monkeypatch):
    """With `--device cpu` runs do not share a GPU, even on a machine that has one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (on_gpu("cpu"), on_gpu("auto"), on_gpu("cuda")) == (False, True, True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not on_gpu("auto")
