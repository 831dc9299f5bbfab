"""A pair of processes that stay, so that the checks of any number of pruners need not wait for new ones."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from pruneboard import engine
from pruneboard.launch import free_port
from pruneboard.leaving import leave

SIZE = 2
PATIENCE = 120.0
"""Seconds after which a task that has not answered is given up, and the pair with it."""

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
        for rank, pipe in enumerate(self._pipes):
            place = (str(rank), str(rank), str(SIZE), "127.0.0.1", str(port))
            self._send(pipe, (dict(zip(_PLACE, place, strict=True)), task, arguments))
        return self._answers(self._pipes)

    def alone(self, rank: int, task: Callable[..., Any], *arguments: Any) -> Answer:
        """Carry out `task` on one of them, as a run of one process."""
        self._send(self._pipes[rank], ({}, task, arguments))
        return self._answers([self._pipes[rank]])[0]

    def _send(self, pipe: Connection, message: Any) -> None:
        pipe.send(sys.path)  # a pruner's module must be found there as it is here
        pipe.send(message)

    def _answers(self, pipes: list[Connection]) -> list[Answer]:
        waiting, found = list(pipes), dict[int, Answer]()
        while waiting:
            ready = connection.wait(waiting, timeout=PATIENCE)
            if not ready:
                self.close()
                return [Answer(None, f"no answer within {PATIENCE:g} s: does one wait for the other?")] * len(pipes)
            for pipe in ready:
                waiting.remove(pipe)  # type: ignore[arg-type]
                found[id(pipe)] = self._receive(pipe)  # type: ignore[arg-type]
        return [found[id(pipe)] for pipe in pipes]

    def _receive(self, pipe: Connection) -> Answer:
        try:
            return Answer(*pipe.recv())
        except EOFError:
            self.close()
            return Answer(None, "the process ended without an answer")

    def close(self) -> None:
        """End both processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        _forget(self)


_current: list[Pair] = []


def current() -> Pair:
    """Return this process's pair, started when it is first asked for and closed when the process ends."""
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
    with suppress(EOFError, OSError):
        while True:
            sys.path[:] = pipe.recv()
            place, task, arguments = pipe.recv()
            pipe.send(_carried_out(place, task, arguments))
    leave(0)


def _carried_out(place: dict[str, str], task: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    torch.set_num_threads(1)  # equal sums in both, and no more threads than cores
    os.environ.update(place, OMP_NUM_THREADS="1")
    try:
        return task(*arguments), None
    except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is an answer
        return None, " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        engine.shutdown()
        for name in place:
            os.environ.pop(name, None)
