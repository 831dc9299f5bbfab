"""Schedule the missing runs of a sweep on an executor, retry lost ones, and report progress to a listener."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pruneboard.errors import InterruptedRunError
from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.plan import PlannedRun

MAX_ATTEMPTS = 2
"""How often a run is started if its process is lost. A further attempt resumes from the last checkpoint."""

RETRIED = ("lost", "interrupted")
"""Outcomes after which a run is started again: its process died, or a signal from outside stopped it after saving."""

POLL_SECONDS = 0.5


class Executor(Protocol):
    """Executes runs: processes on this machine, or a cluster."""

    @property
    def slots(self) -> int:
        """Maximum number of parallel runs; may change during the sweep."""

    @property
    def steps(self) -> Mapping[int, tuple[int, int]]:
        """Key of a run -> (finished steps, total steps), for the runs whose progress is known."""

    def submit(self, key: int, spec: RunSpec) -> None:
        """Start a run."""

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Return the runs that ended; empty if none ended within `seconds`."""

    def stop(self) -> None:
        """Let every active run save its state, then end all processes."""


class SweepListener(Protocol):
    """Observes a sweep."""

    def on_poll(self, progress: SweepProgress) -> None:
        """Called after each wait, about every `POLL_SECONDS`."""

    def on_end(self, run: PlannedRun, outcome: Outcome, progress: SweepProgress) -> None:
        """Called when a run has ended."""


@dataclass
class SweepProgress:
    """Progress of a sweep.

    Attributes:
        total: number of runs that were missing at the start.
        ended: status -> number of ended runs.
        active: key -> active run, and its (finished steps, total steps) if known.
    """

    total: int
    ended: dict[str, int] = field(default_factory=dict)
    active: dict[int, tuple[PlannedRun, tuple[int, int] | None]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Number of runs that ended, with or without a result."""
        return sum(self.ended.values())

    @property
    def failed(self) -> int:
        """Number of runs that ended without a result."""
        return self.finished - self.ended.get("done", 0)


def run_sweep(
    runs: Sequence[PlannedRun],
    executor: Executor,
    listener: SweepListener,
    *,
    fail_fast: bool = False,
    record_lost_run: Callable[[RunSpec, str], Any],
) -> SweepProgress:
    """Execute `runs` in order, as many at once as the executor has slots. A failed run does not stop the others.

    Args:
        runs: the runs to execute.
        executor: where to execute them; stopped at the end, even after an exception.
        listener: notified of progress.
        fail_fast: start no further run after the first failure.
        record_lost_run: writes the record of a run whose process was lost `MAX_ATTEMPTS` times.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the active runs are saved.
        InterruptedRunError: SIGTERM arrived; the active runs are saved.
    """
    scheduler = _Scheduler(deque(enumerate(runs)), SweepProgress(len(runs)), executor, record_lost_run)
    progress = scheduler.progress
    try:
        while scheduler.waiting or progress.active:
            scheduler.fill_slots()
            for outcome in executor.wait(POLL_SECONDS):
                ended = scheduler.finish(outcome)
                if ended is not None:
                    listener.on_end(ended, outcome, progress)
            if fail_fast and progress.failed:
                scheduler.waiting.clear()
            scheduler.update_steps()
            listener.on_poll(progress)
    finally:
        executor.stop()
    return progress


@dataclass
class _Scheduler:
    """The waiting runs, the progress, and how often each run was lost."""

    waiting: deque[tuple[int, PlannedRun]]
    progress: SweepProgress
    executor: Executor
    record_lost_run: Callable[[RunSpec, str], Any]
    losses: Counter[int] = field(default_factory=Counter)

    def fill_slots(self) -> None:
        """Start waiting runs in all free slots of the executor."""
        while self.waiting and len(self.progress.active) < self.executor.slots:
            key, run = self.waiting.popleft()
            self.progress.active[key] = (run, None)
            self.executor.submit(key, run.spec)

    def finish(self, outcome: Outcome) -> PlannedRun | None:
        """Count and return a run that ended; return None if it was lost and is queued again.

        It goes to the front of the queue, so that runs keep the order of the plan.
        """
        run, _ = self.progress.active.pop(outcome.key)
        if outcome.status in RETRIED:
            self.losses[outcome.key] += 1
            if self.losses[outcome.key] < MAX_ATTEMPTS:
                self.waiting.appendleft((outcome.key, run))
                return None
            self.record_lost_run(run.spec, outcome.message)
        self.progress.ended[outcome.status] = self.progress.ended.get(outcome.status, 0) + 1
        return run

    def update_steps(self) -> None:
        """Copy the steps of the active runs from the executor."""
        for key, (run, _) in self.progress.active.items():
            self.progress.active[key] = (run, self.executor.steps.get(key))


def interruption_message(error: BaseException, *, saved: bool = True) -> str:
    """Return the message for a stopped sweep; `saved` says whether the active runs can resume."""
    by = "SIGTERM" if isinstance(error, InterruptedRunError) else "Ctrl-C"
    effect = "all active runs are saved" if saved else "active runs will start from the beginning"
    return f"stopped by {by}, {effect}: run the same command again"
