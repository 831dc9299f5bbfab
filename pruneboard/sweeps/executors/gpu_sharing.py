"""How many small runs share one GPU: as many as raise what it gets done, found by measuring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors.workers import Outcome, Work, Workers

WINDOW_SECONDS = 20.0
"""How long each number of runs is measured, counting only the time in which all of them train."""

WORTH = 1.1
"""A further run must raise the throughput by this factor, else it only makes the others wait."""

MOST = 16


def on_gpu(device: str) -> bool:
    """Return whether runs on `device` go to a GPU."""
    import torch

    return device != "cpu" and torch.cuda.is_available()


@dataclass
class Search:
    """Finds the number of runs at which throughput stops growing: one more at a time, one back at the first loss.

    Attributes:
        slots: runs at once, now.
        settled: whether the search is over.
    """

    slots: int = 1
    settled: bool = False
    _best: float = field(default=0.0)

    def measured(self, throughput: float, *, room: bool) -> None:
        """Take in what `slots` runs did together, and decide.

        Args:
            throughput: work per second of all runs together.
            room: whether the device's memory has room for one more.
        """
        if self.settled:
            return
        if self._best and throughput < WORTH * self._best:
            self.slots, self.settled = max(1, self.slots - 1), True
        elif not room or self.slots == MOST:
            self.settled = True
        else:
            self._best = throughput
            self.slots += 1


MARGIN = 0.1
"""Share of the device's memory that stays free: a run may need more later than now."""


def _room(runs: int) -> bool:
    """Return whether the GPU has room for one more run of the mean size of the `runs` that are on it."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return free > (total - free) / runs + MARGIN * total


class Sharing:
    """Warm processes on one GPU, more of them while that makes all together faster.

    Args:
        work: as of `Workers`.
        threads: of each.
        room: told how many runs there are, whether the device's memory has room for one more.
        clock: seconds.
    """

    def __init__(
        self,
        work: Work[RunSpec],
        threads: int,
        room: Callable[[int], bool] = _room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with one run at a time."""
        self._workers = Workers(work, MOST, threads)
        self._search = Search()
        self._room = room
        self._clock = clock
        self._seen: float | None = None
        self._before: dict[int, int] = {}
        self._gained = 0
        self._taken = 0.0

    @property
    def slots(self) -> int:
        """Runs at once, now."""
        return self._search.slots

    @property
    def steps(self) -> dict[int, tuple[int, int]]:
        """Task -> steps done, steps in all."""
        return self._workers.steps

    def submit(self, key: int, spec: RunSpec) -> None:
        """Start a run."""
        self._workers.submit(key, spec)
        self._seen = None  # it has to be seen training before the measurement goes on

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the runs that ended, and measure meanwhile."""
        ended = self._workers.wait(seconds)
        if not self._search.settled:
            self._measure()
        return ended

    def stop(self) -> None:
        """Let every run save, and end."""
        self._workers.stop()

    def _measure(self) -> None:
        """Count steps and seconds while all runs train; judge once there is a window of it.

        Runs may be shorter than a window: what is counted goes on with those that follow.
        """
        steps = {key: done for key, (done, _) in self.steps.items()}
        if len(steps) < self.slots:
            self._seen = None
            return
        now = self._clock()
        if self._seen is not None:
            self._taken += now - self._seen
            self._gained += sum(max(0, done - self._before.get(key, done)) for key, done in steps.items())
        self._seen, self._before = now, steps
        if self._taken >= WINDOW_SECONDS:
            self._search.measured(self._gained / self._taken, room=self._room(self.slots))
            self._seen, self._gained, self._taken = None, 0, 0.0
