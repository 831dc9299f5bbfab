"""Two processes in which the contract suite runs the checks that need more than one process.

They import torch and DeepSpeed once and serve the checks of any number of pruners (`shared_pair`).
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from pruneboard.processes.child import Child, stop
from pruneboard.processes.process_exit import exit_raises
from pruneboard.processes.world import local_environments
from pruneboard.training import engine, harness_guard, process_state

SIZE = 2
TIMEOUT_SECONDS = 120.0
"""How long a task may take; after that its processes are killed."""

_READY = "ready"
_NOT_STARTED = (
    "the processes could not start: they import the program that started them, which must be a file, "
    "with what it does under `if __name__ == '__main__':`"
)


class Reply(NamedTuple):
    """The result of a task: its value, or the error as text."""

    value: Any
    error: str | None


class Pair:
    """Two processes on this machine. A task is a module-level function with picklable arguments."""

    def __init__(self) -> None:
        """Start both processes, which import what every task needs."""
        self._children = [Child(_serve) for _ in range(SIZE)]
        self._started = False

    def run_on_both(self, task: Callable[..., Any], *arguments: Any) -> list[Reply]:
        """Run `task` on both at the same time, as the two processes of one run; return their replies by rank."""
        return self._run(task, arguments, dict(zip(self._children, local_environments(SIZE), strict=True)))

    def run_alone(self, rank: int, task: Callable[..., Any], *arguments: Any) -> Reply:
        """Run `task` on one of them, as a run of one process."""
        return self._run(task, arguments, {self._children[rank]: {}})[0]

    def _run(
        self, task: Callable[..., Any], arguments: tuple[Any, ...], environments: dict[Child, dict[str, str]]
    ) -> list[Reply]:
        try:  # pickled before anything is sent, because half a message would corrupt the next one
            packed = pickle.dumps((task, arguments))
        except Exception as error:  # noqa: BLE001 - pickling a third-party object may raise anything
            return [Reply(None, f"it cannot be sent to another process: {_one_line(error)}")] * len(environments)
        if not self._has_started():
            self.close()
            return [Reply(None, _NOT_STARTED)] * len(environments)
        for child, variables in environments.items():
            child.pipe.send((sys.path, variables, packed))  # the child must find a pruner's module as this process does
        return self._replies([child.pipe for child in environments])

    def _has_started(self) -> bool:
        """Wait until both have sent that they are ready, which they do once."""
        try:
            self._started = self._started or all(child.pipe.recv() == _READY for child in self._children)
        except (EOFError, OSError):
            return False
        return self._started

    def _replies(self, pipes: list[Connection]) -> list[Reply]:
        waiting, found = list(pipes), dict[int, Reply]()
        while waiting:
            ready = connection.wait(waiting, timeout=TIMEOUT_SECONDS)
            lost = [pipe for pipe in ready if not self._receive(pipe, found)]  # type: ignore[arg-type]
            if lost or not ready:
                self.close()
                reason = "a process ended" if lost else f"no answer within {TIMEOUT_SECONDS:g} s"
                message = f"{reason}: does one wait for the other, or do they differ in what they exchange?"
                return [found.get(id(pipe), Reply(None, message)) for pipe in pipes]
            waiting = [pipe for pipe in waiting if pipe not in ready]
        return [found[id(pipe)] for pipe in pipes]

    def _receive(self, pipe: Connection, found: dict[int, Reply]) -> bool:
        """Add the reply in `pipe` to `found`; return False if there is none because the process ended."""
        try:
            found[id(pipe)] = Reply(*pipe.recv())
        except (EOFError, OSError):
            return False
        return True

    @property
    def alive(self) -> bool:
        """Whether both processes can take another task."""
        return all(child.process.is_alive() for child in self._children)

    def close(self) -> None:
        """End both processes."""
        stop(self._children, 0.0)
        if self in _current:
            _current.remove(self)


_current: list[Pair] = []


def shared_pair() -> Pair:
    """Return this process's pair: started on first use, replaced if it died, and closed when this process ends."""
    if _current and not _current[0].alive:
        _current[0].close()
    if not _current:
        _current.append(Pair())
        atexit.register(_current[0].close)
    return _current[0]


def _serve(pipe: Connection) -> None:
    engine.start_deepspeed(torch.device("cpu"))
    engine.shutdown()  # its process group holds one process, and the first task may need one of both
    pipe.send(_READY)
    while True:
        sys.path[:], variables, packed = pipe.recv()
        pipe.send(_run_packed(variables, packed))


def _run_packed(variables: dict[str, str], packed: bytes) -> tuple[Any, str | None]:
    torch.set_num_threads(1)  # the same order of summation in both, and no more threads than cores
    os.environ.update(variables, OMP_NUM_THREADS="1")
    try:
        task, arguments = pickle.loads(packed)  # noqa: S301 - made by this module
        # The next pruner must find the settings unchanged.
        with process_state.settings_restored(), harness_guard.harness_restored(), exit_raises():
            return task(*arguments), None
    except BaseException as error:  # noqa: BLE001 - whatever third-party code raises is a finding
        return None, _one_line(error)
    finally:
        engine.shutdown()
        for name in variables:
            os.environ.pop(name, None)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
