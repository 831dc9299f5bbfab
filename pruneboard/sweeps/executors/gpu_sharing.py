"""Divide the GPUs among runs; let small runs share one, and find by measurement how many at once are fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors.workers import Outcome, Work, Workers

WINDOW_SECONDS = 20.0
"""Measuring time for each number of runs; only time in which all of them train counts."""

MIN_SPEEDUP = 1.1
"""A further run must raise the throughput by this factor, otherwise it only slows down the others."""

MAX_RUNS = 16

FREE_MEMORY_SHARE = 0.1
"""Share of the GPU memory that must stay free, because a run may need more memory later."""


def on_gpu(device: str) -> bool:
    """Return whether runs on `device` use a GPU."""
    import torch

    return device != "cpu" and torch.cuda.is_available()


def gpu_shares(procs: int) -> list[str]:
    """Return the values of CUDA_VISIBLE_DEVICES that divide the visible GPUs among runs of `procs` processes.

    Each value has `procs` GPUs. Without as many GPUs there is none.
    """
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = named[:count] if len(named) >= count else [str(index) for index in range(count)]
    return [",".join(gpus[start : start + procs]) for start in range(0, count - procs + 1, procs)]


@dataclass
class ConcurrencySearch:
    """Finds the number of runs at which throughput stops growing: adds one at a time, and steps back after a bad step.

    Attributes:
        slots: current number of parallel runs per GPU.
        settled: whether the search is over.
    """

    slots: int = 1
    settled: bool = False
    _best: float = field(default=0.0)

    def update(self, throughput: float, *, has_memory: bool) -> None:
        """Choose the next number of runs from a measurement.

        Args:
            throughput: steps per second of all runs together.
            has_memory: whether a GPU has memory for one more run.
        """
        if self.settled:
            return
        if self._best and throughput < MIN_SPEEDUP * self._best:
            self.slots, self.settled = max(1, self.slots - 1), True
        elif not has_memory or self.slots == MAX_RUNS:
            self.settled = True
        else:
            self._best = throughput
            self.slots += 1


def _has_memory(runs: int) -> bool:
    """Return whether the GPU has memory for one more run, if it needs as much as the mean of the `runs` active ones."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return free > (total - free) / runs + FREE_MEMORY_SHARE * total


class GpuSharing:
    """An executor with worker processes on GPUs. It adds runs while each addition raises the total throughput.

    Every GPU gets the same number of runs.

    Args:
        work: as in `Workers`.
        threads: threads of each process.
        has_memory: returns for a number of active runs whether the GPU has memory for one more.
        clock: returns the time in seconds.
        gpus: as in `Workers`.
    """

    def __init__(
        self,
        work: Work[RunSpec],
        threads: int,
        has_memory: Callable[[int], bool] = _has_memory,
        clock: Callable[[], float] = time.monotonic,
        gpus: Sequence[str] = (),
    ) -> None:
        """Start with one run per GPU."""
        self._gpus = max(1, len(gpus))
        self._workers = Workers(work, MAX_RUNS * self._gpus, threads, gpus)
        self._search = ConcurrencySearch()
        self._has_memory = has_memory
        self._clock = clock
        self._last_time: float | None = None
        """Time of the last measurement; None unless all slots were training then."""
        self._last_steps: dict[int, int] = {}
        self._window_steps = 0
        self._window_seconds = 0.0

    @property
    def slots(self) -> int:
        """Current number of parallel runs, on all GPUs."""
        return self._search.slots * self._gpus

    @property
    def steps(self) -> dict[int, tuple[int, int]]:
        """Key of a run -> (finished steps, total steps)."""
        return self._workers.steps

    def submit(self, key: int, spec: RunSpec) -> None:
        """Start a run."""
        self._workers.submit(key, spec)
        self._last_time = None  # no measurement until the new run trains

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the runs that ended, and measure the throughput."""
        ended = self._workers.wait(seconds)
        if not self._search.settled:
            self._measure()
        return ended

    def stop(self) -> None:
        """Let every run save its state, then end all processes."""
        self._workers.stop()

    def _measure(self) -> None:
        """Add up steps and seconds while all slots train; update the search after `WINDOW_SECONDS`.

        A run may be shorter than the window. Then the window continues with the run that takes its place.
        """
        steps = {key: done for key, (done, _) in self.steps.items()}
        if len(steps) < self.slots:
            self._last_time = None
            return
        now = self._clock()
        if self._last_time is not None:
            self._window_seconds += now - self._last_time
            self._window_steps += sum(max(0, done - self._last_steps.get(key, done)) for key, done in steps.items())
        self._last_time, self._last_steps = now, steps
        if self._window_seconds >= WINDOW_SECONDS:
            throughput = self._window_steps / self._window_seconds
            self._search.update(throughput, has_memory=self._has_memory(self._search.slots))
            self._last_time, self._window_steps, self._window_seconds = None, 0, 0.0
