"""Warm processes: one serves many tasks, a failure or a death costs that task alone, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruneboard import errors
from pruneboard.sweeps.executors.workers import Outcome, Workers, _death, _one
from worker_tasks import work

PATIENCE = 120
"""Seconds after which something that takes a few is taken for stuck."""


@pytest.fixture(scope="module")
def pool():
    """One warm process, started with the first task; whatever ends it, the next task gets another."""
    workers = Workers(work, 1, 2)
    yield workers
    workers.stop()


def outcome(pool):
    """The one outcome of the one task that runs."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if ended := pool.wait(1.0):
            (only,) = ended
            return only
    raise AssertionError("no outcome")


def carry_out(pool, key=0, **task):
    """Submit a task and wait for its end."""
    pool.submit(key, task)
    return outcome(pool)


def under_way(pool, key=0, **task):
    """Submit a task and wait for its first step."""
    pool.submit(key, task)
    deadline = time.monotonic() + PATIENCE
    while key not in pool.steps:
        assert not pool.wait(1.0)
        assert time.monotonic() < deadline


def test_one_process_serves_many_tasks(pool):
    """With the threads it was given, for those that it starts too."""
    first, second, third = (carry_out(pool, key).value for key in range(3))
    assert first == second == third
    assert (first["threads"], first["for its own"]) == (2, "2")
    assert first["pid"] != os.getpid()


def test_a_failed_task_is_an_outcome_and_its_process_is_replaced(pool):
    """What it left behind is nobody's start."""
    before = carry_out(pool, 1).value["pid"]
    assert carry_out(pool, 2, do="raise", error=errors.DivergedError) == Outcome(2, "diverged", message="why")
    assert carry_out(pool, 3).value["pid"] != before


def test_a_killed_process_is_a_lost_task(pool):
    """The message names the signal, and what mostly sends it; the next task goes to another process."""
    lost = carry_out(pool, 4, do="die")
    assert (lost.key, lost.status) == (4, "lost")
    assert "SIGKILL" in lost.message
    assert "memory" in lost.message
    assert pool.steps == {}


def test_stopping_lets_a_run_save(pool, tmp_path):
    """The run under way finishes its step and saves it, as after SIGTERM; then no process is left."""
    under_way(pool, 5, do="train", saved=str(tmp_path / "saved"))
    pool.stop()
    assert int((tmp_path / "saved").read_text()) >= 0
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_stopping_ends_a_process_whose_run_was_in_its_last_step(pool):
    """A request that comes too late for the run is none to wait for another: the process ends by itself."""
    under_way(pool, 6, do="end")
    process = pool._workers[0].process
    pool.stop()
    assert process.exitcode == 0


def test_processes_die_with_their_parent():
    """Kill -9 of it leaves none behind, not even one in the middle of a task that reports nothing."""
    code = """
import time
from worker_tasks import work
from pruneboard.sweeps.executors.workers import Workers
workers = Workers(work, 1, 1)
workers.submit(0, {"do": "hang"})
while not workers.steps:
    workers.wait(1.0)
print(workers.steps[0][0], flush=True)
time.sleep(1000)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
    deadline = time.monotonic() + 30
    while (alive := _alive(child)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive:
        os.kill(child, signal.SIGKILL)
    assert not alive


def _alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# What a process reports


@pytest.mark.parametrize(
    ("error", "report"),
    [
        (errors.RunError, ("failed", "why")),
        (errors.DivergedError, ("diverged", "why")),
        (errors.AuditError, ("invalid", "why")),
        (errors.OutOfMemoryError, ("oom", "why")),
        (errors.InterruptedRunError, ("interrupted", "why")),
        (errors.UsageError, ("refused", "why")),
        (errors.StoreError, ("refused", "why")),
        (ZeroDivisionError, ("failed", "ZeroDivisionError: why")),
    ],
)
def test_each_error_has_its_status(error, report):
    """A run's own, `refused` where nothing ran, and `failed` for what nobody thought of; the process then ends."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    assert not _one(work, {"do": "raise", "error": error}, theirs)
    assert ours.recv() == report


def test_a_run_is_not_at_fault_when_nobody_listens():
    """Its parent was killed: the process ends by its lifeline, and a report that fails is no failure of the run."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()
    reached = []

    def report(task, on_step):
        on_step(1, 2)
        reached.append(task)
        return {}

    with pytest.raises(BrokenPipeError):  # of the last word, which ends the process
        _one(report, "task", theirs)
    assert reached == ["task"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGSEGV, "ended by SIGSEGV"),
        (-signal.SIGKILL, "memory runs out"),
        (-99, "ended by 99"),
        (1, "exit code 1"),
        (None, "exit code None"),
    ],
)
def test_how_a_process_died_is_said(code, said):
    """By the name of the signal where it was one."""
    assert said in _death(code)
