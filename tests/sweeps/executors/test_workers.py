"""Worker processes of a sweep: one serves many tasks, and a failed task or a dead worker costs that task alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from pruneboard import errors
from pruneboard.sweeps.executors.workers import Outcome, Workers, _describe_exit, _run_task
from worker_tasks import work

HANG = 120
"""Seconds after which something that takes a few is considered stuck."""


@pytest.fixture(scope="module")
def pool():
    """One worker, started with the first task and replaced whenever it has ended."""
    workers = Workers(work, 1, 2)
    yield workers
    workers.stop()


def outcome(pool):
    """Wait for the outcome of the one running task."""
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        if ended := pool.wait(1.0):
            (only,) = ended
            return only
    raise AssertionError("no outcome")


def carry_out(pool, key=0, **task):
    """Submit a task and wait for its end."""
    pool.submit(key, task)
    return outcome(pool)


def submit_and_wait_for_a_step(pool, key=0, **task):
    """Submit a task and wait until it reports its first step."""
    pool.submit(key, task)
    deadline = time.monotonic() + HANG
    while key not in pool.steps:
        assert not pool.wait(1.0)
        assert time.monotonic() < deadline


def test_one_process_serves_many_tasks(pool):
    """Tasks that succeed run one after another in one process, with the given number of threads."""
    first, second, third = (carry_out(pool, key).value for key in range(3))
    assert first == second == third
    assert (first["threads"], first["threads of its children"]) == (2, "2")
    assert first["pid"] != os.getpid()


def test_a_failed_task_is_an_outcome_and_its_process_is_replaced(pool):
    """A failed task is reported with its status, and the next task runs in a new process."""
    before = carry_out(pool, 1).value["pid"]
    assert carry_out(pool, 2, do="raise", error=errors.DivergedError) == Outcome(2, "diverged", message="why")
    assert carry_out(pool, 3).value["pid"] != before


def test_a_killed_process_is_a_lost_task(pool):
    """The task of a killed worker is `lost`, and its message names the signal and the usual cause of that signal."""
    lost = carry_out(pool, 4, do="die")
    assert (lost.key, lost.status) == (4, "lost")
    assert "SIGKILL" in lost.message
    assert "memory" in lost.message
    assert pool.steps == {}


def test_stopping_lets_a_run_save(pool, tmp_path):
    """When the pool is stopped, the running task finishes its step and saves, and no process remains."""
    submit_and_wait_for_a_step(pool, 5, do="train", saved=str(tmp_path / "saved"))
    pool.stop()
    assert int((tmp_path / "saved").read_text()) >= 0
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_stopping_ends_a_process_whose_run_was_in_its_last_step(pool):
    """A worker whose run ended in spite of SIGTERM does not wait for another task: it ends with exit code 0."""
    submit_and_wait_for_a_step(pool, 6, do="end")
    process = next(iter(pool._keys)).process
    pool.stop()
    assert process.exitcode == 0


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
    """A run's error gives its own status, an invalid request `refused`, and an unexpected exception `failed`."""
    _, pipe = multiprocessing.Pipe()
    assert _run_task(work, {"do": "raise", "error": error}, pipe) == report


def test_a_closed_pipe_does_not_fail_the_run():
    """If the parent was killed, progress reports that cannot be sent are dropped, and the run continues."""
    other_end, pipe = multiprocessing.Pipe()
    other_end.close()
    reached = []

    def task(name, on_step):
        on_step(1, 2)
        reached.append(name)
        return {}

    assert _run_task(task, "task", pipe) == ("done", {})
    assert reached == ["task"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-signal.SIGSEGV, "ended by SIGSEGV"),
        (-signal.SIGKILL, "memory runs out"),
        (-99, "ended by 99"),
        (1, "exit code 1"),
        (None, "exit code None"),
    ],
)
def test_an_exit_code_is_described(code, text):
    """The message names the signal that ended the worker, or else its exit code."""
    assert text in _describe_exit(code)


class StartedWorker:
    """Stands for a worker process: remembers its GPU."""

    def __init__(self, serve, work, threads, gpu, daemon):
        self.gpu = gpu
        self.pipe = self

    def send(self, task):
        pass

    def recv(self):
        return "failed", "why"


def test_each_worker_gets_a_gpu_round_robin(monkeypatch):
    """A new worker gets a GPU that the fewest workers have; the replacement of an ended one gets that one's."""
    monkeypatch.setattr("pruneboard.sweeps.executors.workers.Child", StartedWorker)
    workers = Workers(work, 4, 1, ["0", "1"])
    for key in range(4):
        workers.submit(key, {})
    started = list(workers._keys)
    assert [worker.gpu for worker in started] == ["0", "1", "0", "1"]
    workers._receive(started[1])
    workers.submit(4, {})
    assert list(workers._keys)[-1].gpu == "1"
