"""Worker processes on this machine that carry out one run after another.

Importing torch, starting the engine and reading the images can take as long as a small run, so a worker does each only
once. Every run still starts from its own spec and seeds, and a worker in which a run failed is replaced.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, cast

from pruneboard.errors import InterruptedRunError, PruneboardError, RunError
from pruneboard.processes import child
from pruneboard.processes.child import Child

SAVING_SECONDS = 120.0
"""How long a worker may take to save its run after it was asked to stop."""

REPORT_SECONDS = 0.5
"""Minimum time between two progress reports of a run."""

T = TypeVar("T")

Work = Callable[[T, Callable[[int, int], None]], dict[str, Any]]
"""Carries out a task, such as a spec; calls its second argument with the steps done and the steps in total."""


@dataclass(frozen=True)
class Outcome:
    """How one task ended.

    Attributes:
        key: the task's key.
        status: a record's status; `lost` if the worker process died; `refused` if nothing was run.
        value: what the work returned; empty unless `status` is `done`.
        message: the reason if it is not.
    """

    key: int
    status: str
    value: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


class Workers(Generic[T]):
    """A pool of worker processes.

    Args:
        work: a module-level function.
        jobs: the largest number of workers; each one is started when a task needs it.
        threads: threads of each worker, and of each process of a run that a worker starts.
        gpus: values of CUDA_VISIBLE_DEVICES; each new worker gets one that the fewest workers have. Empty to let all
            workers see every GPU.
    """

    def __init__(self, work: Work[T], jobs: int, threads: int, gpus: Sequence[str] = ()) -> None:
        """Create the pool; no process is started yet."""
        self.slots = jobs
        self._work = work
        self._threads = threads
        self._gpus = gpus
        self._gpu_of: dict[Child, str] = {}
        """Worker -> its element of `gpus`."""
        self._keys: dict[Child, int | None] = {}
        """Worker -> key of its task; None while it is idle."""
        self.steps: dict[int, tuple[int, int]] = {}
        """Key of a running task -> steps done, steps in total."""

    def submit(self, key: int, task: T) -> None:
        """Send a task to an idle worker, or to a new one; the caller submits at most `slots` at a time."""
        idle = next((worker for worker, running in self._keys.items() if running is None), None)
        worker = idle or self._new_worker()
        self._keys[worker] = key
        with suppress(OSError):  # the worker died: `wait` will report it
            worker.pipe.send(task)

    def _new_worker(self) -> Child:
        gpu = min(self._gpus, key=list(self._gpu_of.values()).count, default=None)  # the first one of several
        worker = Child(_serve, self._work, self._threads, gpu, daemon=False)  # a run may start processes of its own
        if gpu is not None:
            self._gpu_of[worker] = gpu
        return worker

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the tasks that ended; empty if none did within `seconds`."""
        busy = {worker.pipe: worker for worker, key in self._keys.items() if key is not None}
        ready = connection.wait(list(busy), timeout=seconds)
        return [outcome for pipe in ready if (outcome := self._receive(busy[cast("Connection", pipe)]))]

    def stop(self) -> None:
        """Let every worker save its run, and end.

        SIGTERM does not interrupt a run in its last step. Its worker ends when it finds that its pipe is closed.
        """
        child.stop(self._keys, SAVING_SECONDS)
        self._keys.clear()
        self._gpu_of.clear()

    def _receive(self, worker: Child) -> Outcome | None:
        """Read a worker's next message; return the outcome of its task if that has ended."""
        key = self._keys[worker]
        assert key is not None
        try:
            status, value = worker.pipe.recv()
        except (EOFError, OSError):
            status, value = "lost", _describe_exit(worker.exit_code())
        if status == "step":
            self.steps[key] = value
            return None
        self.steps.pop(key, None)
        if status == "done":
            self._keys[worker] = None
            return Outcome(key, status, value)
        del self._keys[worker]  # it ends by itself, so that state left by a failed run cannot affect a later one
        self._gpu_of.pop(worker, None)
        return Outcome(key, status, message=value)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = ", which the system sends if memory runs out" if -code == signal.SIGKILL else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended without a message (exit code {code})"


def _serve(pipe: Connection, work: Work[Any], threads: int, gpu: str | None) -> tuple[str, Any]:
    """Carry out tasks until one fails; return the report about that one."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited by the processes of a run that starts several
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is used first, which is in a run
    import torch

    from pruneboard.data import dataset_cache

    torch.set_num_threads(threads)
    with dataset_cache():
        while (report := _run_task(work, pipe.recv(), pipe))[0] == "done":
            pipe.send(report)
    return report


def _run_task(work: Work[Any], task: Any, pipe: Connection) -> tuple[str, Any]:
    """Carry out one task and return its status, with its value or the reason why it failed."""
    last = 0.0

    def on_step(step: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            with suppress(OSError):  # the parent has closed the pipe: not an error of the run
                pipe.send(("step", (step, total)))

    try:
        return "done", work(task, on_step)
    except InterruptedRunError as error:
        return "interrupted", str(error)
    except RunError as error:
        return error.status, str(error)
    except PruneboardError as error:
        return "refused", str(error)
    except Exception as error:  # noqa: BLE001 - whatever a run raises, the sweep continues
        return "failed", f"{type(error).__name__}: {error}"
