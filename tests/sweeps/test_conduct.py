"""Carrying out the runs of a board: each ends once, lost ones are started again, and a GPU is shared while it pays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.errors import InterruptedRunError
from pruneboard.spec import RunSpec
from pruneboard.sweeps.conduct import ATTEMPTS, conduct, interrupted
from pruneboard.sweeps.executors.gpu_sharing import MOST, WORTH, Search, Sharing
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.plan import Cell

LOST = ("lost", "interrupted")
STATUSES = ("done", "diverged", "failed", "oom", "invalid", "refused", *LOST)


def cells(count):
    """So many runs that differ in their seeds."""
    specs = [RunSpec(method="a", model="b", seed=seed) for seed in range(count)]
    return [Cell(spec, f"{spec.seed:064x}", Path("nowhere"), "missing") for spec in specs]


@dataclass
class Memory:
    """An executor that carries nothing out: runs end in any order, each attempt with the next of its statuses."""

    random: object
    statuses: dict
    width: list
    running: list = field(default_factory=list)
    started: list = field(default_factory=list)
    log: list = field(default_factory=list)
    stopped: int = 0

    @property
    def slots(self):
        return self.width[len(self.log) % len(self.width)]

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
            outcomes.append(Outcome(key, self.statuses[key][min(attempt, len(self.statuses[key]) - 1)], message="why"))
            self.log.append((outcomes[-1].status, key))
        return outcomes

    def stop(self):
        self.stopped += 1


@dataclass
class Seen:
    """Who watches, and who buries."""

    ended: list = field(default_factory=list)
    buried: list = field(default_factory=list)
    looks: int = 0

    def on_look(self, progress):
        self.looks += 1
        assert progress.done == len(self.ended)

    def on_end(self, cell, outcome, progress):
        assert outcome.key not in progress.running
        self.ended.append((cell.spec.seed, outcome.status))

    def record_lost_run(self, spec, message):
        assert message == "why"
        self.buried.append(spec.seed)


FATES = st.lists(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3), max_size=8)
WIDTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(FATES, WIDTHS, st.randoms(use_true_random=False))
def test_every_run_ends_once_in_whatever_order(fates, width, random):
    """Started in the order of the plan, never more than there are slots, and again where its process was lost."""
    executor, seen = Memory(random, dict(enumerate(fates)), width), Seen()
    progress = conduct(cells(len(fates)), executor, seen, record_lost_run=seen.record_lost_run)
    assert sorted(seed for seed, _ in seen.ended) == list(range(len(fates)))
    assert executor.stopped == 1
    assert not progress.running
    assert list(dict.fromkeys(executor.started)) == list(range(len(fates)))
    for seed, status in seen.ended:
        lives = [*fates[seed], fates[seed][-1], fates[seed][-1]]
        lost = next(index for index, fate in enumerate(lives) if fate not in LOST or index + 1 == ATTEMPTS)
        assert status == lives[lost]
        assert executor.started.count(seed) == lost + 1
        assert (seed in seen.buried) == (status in LOST)
    assert len(seen.buried) == len(set(seen.buried))
    assert progress.total == progress.done == len(fates)
    assert progress.failed == sum(status != "done" for _, status in seen.ended)


@settings(deadline=None, max_examples=50)
@given(FATES, WIDTHS, st.randoms(use_true_random=False))
def test_fail_fast_starts_nothing_after_a_failure(fates, width, random):
    """What is under way ends; a run whose process is lost then stays for the next time."""
    executor, seen = Memory(random, dict(enumerate(fates)), width), Seen()
    progress = conduct(cells(len(fates)), executor, seen, fail_fast=True, record_lost_run=seen.record_lost_run)
    assert executor.stopped == 1
    assert not executor.running
    first = next((seed for seed, status in seen.ended if status != "done"), None)
    if first is None:
        assert progress.done == len(fates)
        return
    after = executor.log[executor.log.index((dict(seen.ended)[first], first)) :]
    if dict(seen.ended)[first] not in LOST:
        assert "start" not in [what for what, _ in after]
    assert set(seen.buried) <= {seed for seed, _ in seen.ended}


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedRunError, RuntimeError])
@pytest.mark.parametrize("where", ["wait", "submit", "on_end", "on_look", "record_lost_run"])
def test_whatever_ends_a_sweep_lets_its_runs_save(error, where):
    """Ctrl-C, SIGTERM and our own mistakes stop the executor, and go on to whoever called."""

    def broken(*_):
        raise error

    seen = Seen()
    executor = Memory(_First(), {0: ["lost"], 1: ["done"]}, [1])
    setattr(executor if hasattr(executor, where) else seen, where, broken)
    with pytest.raises(error):
        conduct(cells(2), executor, seen, record_lost_run=seen.record_lost_run)
    assert executor.stopped == 1


class _First:
    """No chance: all that runs ends."""

    def sample(self, items, count):
        return list(items)[:count]

    def randint(self, low, high):
        return high


def test_a_watcher_knows_the_steps_of_what_runs():
    """As far as the executor does: the runs that it has heard of."""

    class Looking(Seen):
        def on_look(self, progress):
            steps.append({key: known for key, (_, known) in progress.running.items()})

    class Slow(Memory):
        def wait(self, seconds):
            return [] if len(steps) < 1 else super().wait(seconds)

    steps: list = []
    conduct(cells(3), Slow(_First(), {key: ["done"] for key in range(3)}, [3]), Looking(), record_lost_run=None)
    assert steps[0] == {0: (0, 100), 1: None, 2: (2, 100)}


def test_the_last_word_says_who_stopped_it_and_what_to_do():
    """The two ways of stopping have exit codes of their own."""
    assert interrupted(KeyboardInterrupt()).startswith("stopped by Ctrl-C, ")
    assert interrupted(InterruptedRunError("")).startswith("stopped by SIGTERM, ")


# Sharing a GPU


@settings(deadline=None, max_examples=50)
@given(
    best=st.integers(1, MOST),
    room=st.integers(1, 2 * MOST),
    first=st.floats(0.1, 1000),
    growth=st.lists(st.floats(WORTH * 1.001, 3), min_size=MOST, max_size=MOST),
    loss=st.floats(0.1, WORTH * 0.999),
)
def test_the_search_stops_where_throughput_stops_growing(best, room, first, growth, loss):
    """At the number of runs up to which each further one was worth it, or earlier where memory ends."""
    throughput = [first]
    for runs in range(2, MOST + 2):
        throughput.append(throughput[-1] * (growth[runs - 2] if runs <= best else loss))
    search = Search()
    for _ in range(MOST + 1):
        search.measured(throughput[search.slots - 1], room=search.slots < room)
    assert search.settled
    assert search.slots == min(best, room)


def test_a_settled_search_stays():
    """Later measurements, of other runs, change nothing."""
    search = Search(slots=3, settled=True)
    search.measured(1e9, room=True)
    assert search.slots == 3


class Device:
    """A GPU that gets `full` runs' worth of work done at most, `rate` steps a second of each, and a clock."""

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


def shared(device, runs, room=lambda runs: True):
    """Carry out so many runs on a device, and return how many it then takes at once."""
    sharing = Sharing(lambda spec, on_step: {}, 1, room, lambda: device.now)
    sharing._workers = device
    assert sharing.slots == 1
    seen = Seen()
    conduct(cells(runs), sharing, seen, record_lost_run=seen.record_lost_run)
    return sharing.slots


@pytest.mark.parametrize("full", [1, 2, 5])
@pytest.mark.parametrize("length", [700, 10_000])
def test_runs_share_a_gpu_until_it_gets_no_more_done(full, length):
    """Whether a run lasts minutes or, as here the shorter, seven seconds: less than a measurement takes."""
    device = Device(full, length)
    assert shared(device, 400 if length == 700 else 20) == full
    assert device.most == full + 1


def test_runs_share_a_gpu_while_it_has_room():
    """However much faster more of them would be."""
    device = Device(8, 5000)
    assert shared(device, 20, room=lambda runs: runs < 3) == device.most == 3
