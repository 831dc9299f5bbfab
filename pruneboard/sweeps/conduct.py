"""Carrying out what is missing of a plan, on whatever executes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pruneboard.errors import InterruptedRunError
from pruneboard.spec import RunSpec
from pruneboard.sweeps.plan import Cell
from pruneboard.sweeps.workers import Outcome

ATTEMPTS = 2
"""How often a run is started whose process is lost; each goes on from the last checkpoint."""

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
    bury: Callable[[RunSpec, str], Any],
) -> Progress:
    """Carry out `cells` in their order, as many at once as the executor has slots; go on after failures.

    Args:
        cells: what to run.
        executor: where; it is stopped at the end, however it comes.
        watcher: who is told.
        fail_fast: start nothing more after the first failure.
        bury: writes the record of a run whose process was lost `ATTEMPTS` times.

    Raises:
        KeyboardInterrupt: Ctrl-C; all that was under way is saved.
        InterruptedRunError: SIGTERM, likewise.
    """
    waiting = deque(enumerate(cells))
    progress = Progress(len(waiting))
    lost: dict[int, int] = {}
    try:
        while waiting or progress.running:
            while waiting and len(progress.running) < executor.slots:
                key, cell = waiting.popleft()
                progress.running[key] = (cell, None)
                executor.submit(key, cell.spec)
            for outcome in executor.wait(LOOK_SECONDS):
                cell, _ = progress.running.pop(outcome.key)
                again = _is_lost(outcome)
                if again:
                    lost[outcome.key] = lost.get(outcome.key, 0) + 1
                if again and lost[outcome.key] < ATTEMPTS:
                    waiting.appendleft((outcome.key, cell))
                    continue
                if again:
                    bury(cell.spec, outcome.message)
                progress.ended[outcome.status] = progress.ended.get(outcome.status, 0) + 1
                watcher.on_end(cell, outcome, progress)
            if fail_fast and progress.failed:
                waiting.clear()
            for key, (cell, _) in progress.running.items():
                progress.running[key] = (cell, executor.steps.get(key))
            watcher.on_look(progress)
    finally:
        executor.stop()
    return progress


def _is_lost(outcome: Outcome) -> bool:
    # A worker that somebody else told to stop saved its run: it goes on like one that was lost.
    return outcome.status in ("lost", "interrupted")


def interrupted(error: BaseException, *, saved: bool = True) -> str:
    """Return what to say when a sweep was stopped; `saved` says whether runs under way go on where they were."""
    by = "SIGTERM" if isinstance(error, InterruptedRunError) else "Ctrl-C"
    kept = "every run under way is saved" if saved else "runs under way will start anew"
    return f"stopped by {by}, {kept}: run the same command again"
