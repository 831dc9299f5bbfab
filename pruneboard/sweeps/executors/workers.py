"""Warm processes that carry out one run after another on this machine.

Importing torch and starting the engine cost as much as a small run, and reading the images as much again: a worker
does each once. A run still starts from nothing that an earlier one left, and a worker in which one failed is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from pruneboard.errors import InterruptedRunError, PruneboardError, RunError
from pruneboard.processes import interrupts, memory
from pruneboard.processes.launch import die_with_parent
from pruneboard.processes.process_exit import exit_process

SAVING_SECONDS = 120.0
"""How long a worker that was told to stop may take to save its run."""

REPORT_SECONDS = 0.5
"""Between two reports of a run's step."""

T = TypeVar("T")

Work = Callable[[T, Callable[[int, int], None]], dict[str, Any]]
"""What a worker does with a task (a spec); it is told where to report steps done and steps in all."""


@dataclass(frozen=True)
class Outcome:
    """How one task ended.

    Attributes:
        key: the task's.
        status: a record's status; `lost` where the process that worked on it is gone; `refused` where nothing ran.
        value: what the work returned; empty unless `done`.
        message: why it is not done.
    """

    key: int
    status: str
    value: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


@dataclass
class _Worker:
    process: Any
    tasks: Connection
    reports: Connection
    lifeline: Connection
    key: int | None = None


class Workers(Generic[T]):
    """A pool of warm processes.

    Args:
        work: a module-level function.
        jobs: how many processes at most; each is started when there is something for it.
        threads: of each, and of those that a run of several processes starts.
    """

    def __init__(self, work: Work[T], jobs: int, threads: int) -> None:
        """Start without a process."""
        self.slots = jobs
        self._work = work
        self._threads = threads
        self._workers: list[_Worker] = []
        self.steps: dict[int, tuple[int, int]] = {}
        """Task -> steps done, steps in all."""

    def submit(self, key: int, task: T) -> None:
        """Give a task to an idle worker, or to a new one; the caller keeps to `slots`."""
        idle = next((worker for worker in self._workers if worker.key is None), None) or self._start()
        idle.key = key
        with suppress(OSError):  # it is gone: `wait` will say so
            idle.tasks.send(task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the tasks that ended; empty after `seconds` without one."""
        busy = {worker.reports: worker for worker in self._workers if worker.key is not None}
        ready = connection.wait(list(busy), timeout=seconds)
        return [outcome for report in ready if (outcome := self._take(busy[report]))]  # type: ignore[index]

    def stop(self) -> None:
        """Let every worker save what it works on, and end."""
        for worker in self._workers:
            worker.process.terminate()
            worker.tasks.close()  # a run that was in its last step is done, and there is no other
        deadline = time.monotonic() + SAVING_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
        self._workers.clear()

    def _take(self, worker: _Worker) -> Outcome | None:
        key = worker.key
        assert key is not None
        try:
            kind, value = worker.reports.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            self._workers.remove(worker)
            return self._ended(Outcome(key, "lost", message=_death(worker.process.exitcode)))
        if kind == "step":
            self.steps[key] = value
            return None
        if kind == "done":
            worker.key = None
            return self._ended(Outcome(key, "done", value))
        self._workers.remove(worker)  # it ends by itself: what a failed run leaves behind is nobody's start
        return self._ended(Outcome(key, kind, message=value))

    def _ended(self, outcome: Outcome) -> Outcome:
        self.steps.pop(outcome.key, None)
        return outcome

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        theirs, tasks = context.Pipe(duplex=False)
        reports, told = context.Pipe(duplex=False)
        held, lifeline = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(self._work, theirs, told, held, self._threads))
        process.start()
        for end in (theirs, told, held):
            end.close()  # ours: the end of the process is then the end of the pipe
        worker = _Worker(process, tasks, reports, lifeline)
        self._workers.append(worker)
        return worker


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return f"the process that worked on it was ended by {name}{hint}"
    return f"the process that worked on it ended without a word (exit code {code})"


def _serve(work: Work[Any], tasks: Connection, reports: Connection, lifeline: Connection, threads: int) -> None:
    """Carry out tasks until there are no more: what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent passes it on
    signal.signal(signal.SIGTERM, interrupts.stop_now)
    threading.Thread(target=die_with_parent, args=(lifeline,), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that a run of several starts
    with suppress(InterruptedRunError, EOFError, OSError):
        import torch

        from pruneboard.data import kept_open

        memory.keep_freed_memory()
        torch.set_num_threads(threads)
        with kept_open():
            while _one(work, tasks.recv(), reports):
                pass
    exit_process(0)


def _one(work: Work[Any], task: Any, reports: Connection) -> bool:
    """Carry out one task and report it; return whether this process may take another."""
    last = 0.0

    def on_step(step: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            with suppress(OSError):  # our parent is gone: this process ends, and the run is not at fault
                reports.send(("step", (step, total)))

    try:
        value = work(task, on_step)
    except InterruptedRunError as error:
        reports.send(("interrupted", str(error)))
    except RunError as error:
        reports.send((error.status, str(error)))
    except PruneboardError as error:
        reports.send(("refused", str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the sweep goes on
        reports.send(("failed", f"{type(error).__name__}: {error}"))
    else:
        reports.send(("done", value))
        return True
    return False
