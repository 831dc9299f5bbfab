"""Carrying out what is missing of a plan, on whatever executes it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pruneboard.errors import InterruptedRunError
from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.plan import Cell

ATTEMPTS = 2
"""How often a run is started whose process is lost; each goes on from the last checkpoint."""

LOST = ("lost", "interrupted")
"""How a run ends that is started again: a worker that somebody else told to stop saved its run."""

LOOK_SECONDS = 0.5


class Executor(Protocol):
    """Where runs are carried out."""

    @property
    def slots(self) -> int:
        """Runs at once; it may change while runs go on."""

    @property
    def steps(self) -> Mapping[int, tuple[int, int]]:
        """Task -> steps done, steps in all, as far as they are known."""

    def submit(self, key: int, spec: RunSpec) -> None:
        """Start a run."""

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Return the runs that ended, empty after `seconds` without one."""

    def stop(self) -> None:
        """Let every run save, and end."""


class Watcher(Protocol):
    """Who watches a sweep."""

    def on_look(self, progress: Progress) -> None:
        """Some time has passed."""

    def on_end(self, cell: Cell, outcome: Outcome, progress: Progress) -> None:
        """A run ended."""


@dataclass
class Progress:
    """How far a sweep is.

    Attributes:
        total: runs that were missing.
        ended: status -> runs.
        running: runs under way, each with steps done and steps in all where they are known.
    """

    total: int
    ended: dict[str, int] = field(default_factory=dict)
    running: dict[int, tuple[Cell, tuple[int, int] | None]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Runs that ended, well or not."""
        return sum(self.ended.values())

    @property
    def failed(self) -> int:
        """Runs that ended without a result."""
        return self.done - self.ended.get("done", 0)


def conduct(
    cells: Sequence[Cell],
    executor: Executor,
    watcher: Watcher,
    *,
    fail_fast: bool = False,
    record_lost_run: Callable[[RunSpec, str], Any],
) -> Progress:
    """Carry out `cells` in their order, as many at once as the executor has slots; go on after failures.

    Args:
        cells: what to run.
        executor: where; it is stopped at the end, however it comes.
        watcher: who is told.
        fail_fast: start nothing more after the first failure.
        record_lost_run: writes the record of a run whose process was lost `ATTEMPTS` times.

    Raises:
        KeyboardInterrupt: Ctrl-C; all that was under way is saved.
        InterruptedRunError: SIGTERM, likewise.
    """
    conducting = _Conducting(deque(enumerate(cells)), Progress(len(cells)), executor, record_lost_run)
    progress = conducting.progress
    try:
        while conducting.waiting or progress.running:
            conducting.start()
            for outcome in executor.wait(LOOK_SECONDS):
                ended = conducting.end(outcome)
                if ended is not None:
                    watcher.on_end(ended, outcome, progress)
            if fail_fast and progress.failed:
                conducting.waiting.clear()
            conducting.poll()
            watcher.on_look(progress)
    finally:
        executor.stop()
    return progress


@dataclass
class _Conducting:
    """What waits, what runs, and how often which run was lost."""

    waiting: deque[tuple[int, Cell]]
    progress: Progress
    executor: Executor
    record_lost_run: Callable[[RunSpec, str], Any]
    lost: Counter[int] = field(default_factory=Counter)

    def start(self) -> None:
        """Fill the executor's slots."""
        while self.waiting and len(self.progress.running) < self.executor.slots:
            key, cell = self.waiting.popleft()
            self.progress.running[key] = (cell, None)
            self.executor.submit(key, cell.spec)

    def end(self, outcome: Outcome) -> Cell | None:
        """Count a run that ended and return it; one that was lost waits again, and is buried the last time."""
        cell, _ = self.progress.running.pop(outcome.key)
        if outcome.status in LOST:
            self.lost[outcome.key] += 1
            if self.lost[outcome.key] < ATTEMPTS:
                self.waiting.appendleft((outcome.key, cell))
                return None
            self.record_lost_run(cell.spec, outcome.message)
        self.progress.ended[outcome.status] = self.progress.ended.get(outcome.status, 0) + 1
        return cell

    def poll(self) -> None:
        """Note how far each run is."""
        for key, (cell, _) in self.progress.running.items():
            self.progress.running[key] = (cell, self.executor.steps.get(key))


def interrupted(error: BaseException, *, saved: bool = True) -> str:
    """Return what to say when a sweep was stopped; `saved` says whether runs under way go on where they were."""
    by = "SIGTERM" if isinstance(error, InterruptedRunError) else "Ctrl-C"
    kept = "every run under way is saved" if saved else "runs under way will start anew"
    return f"stopped by {by}, {kept}: run the same command again"
