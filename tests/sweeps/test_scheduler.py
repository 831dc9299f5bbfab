"""The scheduler of a sweep: every run ends once, lost runs are started again, and any exception stops the executor."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.errors import InterruptedRunError
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.scheduler import MAX_ATTEMPTS, interruption_message, run_sweep
from scheduler_cases import RecordingListener, planned_runs

LOST = ("lost", "interrupted")
STATUSES = ("done", "diverged", "failed", "oom", "invalid", "refused", *LOST)


@dataclass
class FakeExecutor:
    """An executor that executes nothing: runs end in random order, each attempt with the next of its statuses."""

    random: object
    statuses: dict
    widths: list
    """Numbers of slots, which alternate during the sweep."""
    running: list = field(default_factory=list)
    started: list = field(default_factory=list)
    log: list = field(default_factory=list)
    stopped: int = 0

    @property
    def slots(self):
        return self.widths[len(self.log) % len(self.widths)]

    @property
    def steps(self):
        return {key: (key, 100) for key in self.running[::2]}

    def submit(self, key, spec):
        assert spec.seed == key
        assert key not in self.running
        assert len(self.running) < self.slots
        self.running.append(key)
        self.started.append(key)
        self.log.append(("start", key))

    def wait(self, seconds):
        assert self.running
        ending = self.random.sample(self.running, self.random.randint(0, len(self.running)))
        outcomes = []
        for key in ending:
            self.running.remove(key)
            attempt = self.started.count(key) - 1
            status = self.statuses[key][min(attempt, len(self.statuses[key]) - 1)]
            outcomes.append(Outcome(key, status, message="why"))
            self.log.append((status, key))
        return outcomes

    def stop(self):
        self.stopped += 1


class NotRandom:
    """A replacement for a random generator with which all running runs end at once."""

    def sample(self, items, count):
        return list(items)[:count]

    def randint(self, low, high):
        return high


ATTEMPTS = st.lists(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3), max_size=8)
"""For each run the statuses of its attempts; the last one repeats."""

WIDTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(ATTEMPTS, WIDTHS, st.randoms(use_true_random=False))
def test_every_run_ends_once_in_any_order(attempts, widths, random):
    """Runs start in the order of the plan, never exceed the slots, and start again if their process was lost."""
    executor, listener = FakeExecutor(random, dict(enumerate(attempts)), widths), RecordingListener()
    runs = planned_runs(len(attempts))
    progress = run_sweep(runs, executor, listener, record_lost_run=listener.record_lost_run)
    assert sorted(seed for seed, _ in listener.ended) == list(range(len(attempts)))
    assert executor.stopped == 1
    assert not progress.active
    assert list(dict.fromkeys(executor.started)) == list(range(len(attempts)))
    for seed, status in listener.ended:
        statuses = [*attempts[seed], attempts[seed][-1], attempts[seed][-1]]
        last = next(index for index, item in enumerate(statuses) if item not in LOST or index + 1 == MAX_ATTEMPTS)
        assert status == statuses[last]
        assert executor.started.count(seed) == last + 1
        assert (seed in listener.recorded_as_lost) == (status in LOST)
    assert len(listener.recorded_as_lost) == len(set(listener.recorded_as_lost))
    assert progress.total == progress.finished == len(attempts)
    assert progress.failed == sum(status != "done" for _, status in listener.ended)


@settings(deadline=None, max_examples=50)
@given(ATTEMPTS, WIDTHS, st.randoms(use_true_random=False))
def test_fail_fast_starts_nothing_after_a_failure(attempts, widths, random):
    """After the first failure active runs end, but no run starts, not even one whose process was lost."""
    executor, listener = FakeExecutor(random, dict(enumerate(attempts)), widths), RecordingListener()
    runs = planned_runs(len(attempts))
    progress = run_sweep(runs, executor, listener, fail_fast=True, record_lost_run=listener.record_lost_run)
    assert executor.stopped == 1
    assert not executor.running
    first = next((seed for seed, status in listener.ended if status != "done"), None)
    if first is None:
        assert progress.finished == len(attempts)
        return
    after = executor.log[executor.log.index((dict(listener.ended)[first], first)) :]
    if dict(listener.ended)[first] not in LOST:
        assert "start" not in [what for what, _ in after]
    assert set(listener.recorded_as_lost) <= {seed for seed, _ in listener.ended}


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedRunError, RuntimeError])
@pytest.mark.parametrize("where", ["wait", "submit", "on_end", "on_poll", "record_lost_run"])
def test_every_exception_stops_the_executor(error, where):
    """Ctrl-C, SIGTERM and programming errors stop the executor, which saves its runs, and reach the caller."""

    def fail(*_):
        raise error

    listener = RecordingListener()
    executor = FakeExecutor(NotRandom(), {0: ["lost"], 1: ["done"]}, [1])
    setattr(executor if hasattr(executor, where) else listener, where, fail)
    with pytest.raises(error):
        run_sweep(planned_runs(2), executor, listener, record_lost_run=listener.record_lost_run)
    assert executor.stopped == 1


def test_a_listener_sees_the_steps_of_active_runs():
    """The progress contains the steps of every active run for which the executor knows them."""

    class StepListener(RecordingListener):
        def on_poll(self, progress):
            steps.append({key: known for key, (_, known) in progress.active.items()})

    class SlowExecutor(FakeExecutor):
        def wait(self, seconds):
            return [] if len(steps) < 1 else super().wait(seconds)

    steps: list = []
    executor = SlowExecutor(NotRandom(), {key: ["done"] for key in range(3)}, [3])
    run_sweep(planned_runs(3), executor, StepListener(), record_lost_run=None)
    assert steps[0] == {0: (0, 100), 1: None, 2: (2, 100)}


@pytest.mark.parametrize("saved", [True, False])
def test_the_interruption_message_names_the_cause_and_the_remedy(saved):
    """The message says what stopped the sweep, whether the active runs are saved, and what to do."""
    for error, cause in ((KeyboardInterrupt(), "Ctrl-C"), (InterruptedRunError(""), "SIGTERM")):
        message = interruption_message(error, saved=saved)
        assert message.startswith(f"stopped by {cause}, ")
        assert ("saved" in message) == saved
        assert message.endswith("run the same command again")
