"""A pair of processes that stay, so that the checks of any number of pruners need not wait for new ones."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from pruneboard.processes.launch import free_port
from pruneboard.processes.process_exit import leave
from pruneboard.testing import harness_guard, process_state
from pruneboard.training import engine

SIZE = 2
PATIENCE = 120.0
"""Seconds after which a task that has not answered is given up, and the pair with it."""

_READY = "ready"
_NOT_STARTED = (
    "the processes could not start: they import the program that asked for them, which must be a file, "
    "with what it does under `if __name__ == '__main__':`"
)
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Answer(NamedTuple):
    """What a task came to: its value, or the error as text."""

    value: Any
    error: str | None


class Pair:
    """Two processes of this machine. A task is a module-level function with arguments that can be pickled."""

    def __init__(self) -> None:
        """Start them, and let them load what every task needs."""
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._started = False
        for _ in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def together(self, task: Callable[..., Any], *arguments: Any) -> list[Answer]:
        """Carry out `task` on both at once, as the two processes of one run; return their answers by rank."""
        port = free_port()
        values = [(str(rank), str(rank), str(SIZE), "127.0.0.1", str(port)) for rank in range(SIZE)]
        places = [dict(zip(_PLACE, place, strict=True)) for place in values]
        return self._carry_out(task, arguments, zip(self._pipes, places, strict=True))

    def alone(self, rank: int, task: Callable[..., Any], *arguments: Any) -> Answer:
        """Carry out `task` on one of them, as a run of one process."""
        return self._carry_out(task, arguments, [(self._pipes[rank], {})])[0]

    def _carry_out(
        self, task: Callable[..., Any], arguments: tuple[Any, ...], places: Iterable[tuple[Connection, dict[str, str]]]
    ) -> list[Answer]:
        by_pipe = dict(places)
        try:  # before anything is sent: half a message would be the beginning of the next one
            packed = pickle.dumps((task, arguments))
        except Exception as error:  # noqa: BLE001 - pickling a stranger's object may raise anything
            return [Answer(None, f"it cannot be sent to another process: {_line(error)}")] * len(by_pipe)
        if not self._has_started():
            self.close()
            return [Answer(None, _NOT_STARTED)] * len(by_pipe)
        for pipe, place in by_pipe.items():
            pipe.send((sys.path, place, packed))  # a pruner's module must be found there as it is here
        return self._answers(list(by_pipe))

    def _has_started(self) -> bool:
        """Wait for the word of both that they are ready; it comes once."""
        try:
            self._started = self._started or all(pipe.recv() == _READY for pipe in self._pipes)
        except (EOFError, OSError):
            return False
        return self._started

    def _answers(self, pipes: list[Connection]) -> list[Answer]:
        waiting, found = list(pipes), dict[int, Answer]()
        while waiting:
            ready = connection.wait(waiting, timeout=PATIENCE)
            lost = [pipe for pipe in ready if not self._receive(pipe, found)]  # type: ignore[arg-type]
            if lost or not ready:
                self.close()
                reason = "a process ended" if lost else f"no answer within {PATIENCE:g} s"
                why = f"{reason}: does one wait for the other, or do they differ in what they exchange?"
                return [found.get(id(pipe), Answer(None, why)) for pipe in pipes]
            waiting = [pipe for pipe in waiting if pipe not in ready]
        return [found[id(pipe)] for pipe in pipes]

    def _receive(self, pipe: Connection, found: dict[int, Answer]) -> bool:
        """Add the answer that is there to `found`; return False where there is none, the process having ended."""
        try:
            found[id(pipe)] = Answer(*pipe.recv())
        except (EOFError, OSError):
            return False
        return True

    @property
    def alive(self) -> bool:
        """Whether both are there for another task."""
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """End both processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        _forget(self)


def apart(task: Callable[..., Any], *arguments: Any) -> Answer:
    """Carry out `task` in a process of its own: DeepSpeed keeps to the kind of device that a process used first."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_once, args=(theirs, pickle.dumps((task, arguments))), daemon=True)
    process.start()
    theirs.close()
    try:
        return Answer(*ours.recv())
    except (EOFError, OSError):
        return Answer(None, _NOT_STARTED)
    finally:
        process.join()


_current: list[Pair] = []


def current() -> Pair:
    """Return this process's pair, started when it is first asked for and closed when the process ends."""
    if _current and not _current[0].alive:
        _current[0].close()
    if not _current:
        _current.append(Pair())
        atexit.register(_current[0].close)
    return _current[0]


def _forget(pair: Pair) -> None:
    if pair in _current:
        _current.remove(pair)


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the pipe
    engine.boot(torch.device("cpu"))
    engine.shutdown()  # of one process alone; the first task may be for both together
    with suppress(EOFError, OSError):
        pipe.send(_READY)
        while True:
            sys.path[:], place, packed = pipe.recv()
            pipe.send(_carried_out(place, packed))
    leave(0)


def _serve_once(pipe: Connection, packed: bytes) -> None:
    os.environ.pop("DS_ACCELERATOR", None)  # our own `engine.boot` may have set it in the process that asks
    pipe.send(_carried_out({}, packed))
    leave(0)


def _carried_out(place: dict[str, str], packed: bytes) -> tuple[Any, str | None]:
    torch.set_num_threads(1)  # equal sums in both, and no more threads than cores
    os.environ.update(place, OMP_NUM_THREADS="1")
    try:
        task, arguments = pickle.loads(packed)  # noqa: S301 - of our own making
        with (
            process_state.settings_restored(),
            harness_guard.harness_restored(),
        ):
            return task(*arguments), None
    except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is an answer
        return None, _line(error)
    finally:
        engine.shutdown()
        for name in place:
            os.environ.pop(name, None)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
