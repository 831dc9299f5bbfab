"""Run a function in this process, or in several processes on this machine.

One process needs no launcher. `--procs N` starts N processes here. Under torchrun, the `deepspeed` launcher or srun,
the processes exist already, and each reads its rank from the environment (`pruneboard.processes.world`).
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from pruneboard.errors import InterruptedRunError, PruneboardError, RunError
from pruneboard.processes import interrupts
from pruneboard.processes.child import Child, stop
from pruneboard.processes.failures import Failure, root_cause
from pruneboard.processes.world import World, local_environments

R = TypeVar("R")

POLL_SECONDS = 0.2
"""How often to check for a signal while the processes work."""

GRACE_SECONDS = 1.0
"""How long to wait for further reports after the first failure, because the peers of a lost process fail too."""

NOTICED_SECONDS = 10.0
"""The same while every report only notices a loss: on a busy machine the end of the lost process shows up late."""

END_SECONDS = 5.0
"""How long processes may take to end after SIGTERM."""


def launch(
    target: Callable[..., R],
    arguments: tuple[Any, ...],
    procs: int,
    world: World,
    local: Any,
    started: Callable[[], None],
) -> R:
    """Run `target(*arguments, local)` here, or `target(*arguments)` in `procs` processes; return rank 0's result.

    Args:
        target: a module-level function.
        arguments: picklable.
        procs: how many processes to start; with 1 the function runs in this process.
        world: this process's rank; a process that a launcher started never starts others.
        local: an argument that cannot be sent to another process, such as an open data set.
        started: called when rank 0's process starts to work, if it is another one.
    """
    if procs == 1 or world.size > 1:
        return target(*arguments, local)
    return cast("R", LocalProcesses(target, arguments, procs, started).result())


class LocalProcesses:
    """Processes of one run on this machine. All end when one fails or when this process ends."""

    def __init__(
        self,
        target: Callable[..., Any],
        arguments: tuple[Any, ...],
        procs: int,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Start `procs` processes that call `target(*arguments)`; call `started` when rank 0 does so."""
        self._started = started
        self._children = [Child(_serve, target, arguments, variables) for variables in local_environments(procs)]

    def result(self) -> Any:
        """Wait for all processes and return rank 0's result.

        Raises:
            PruneboardError: a process failed.
            InterruptedRunError: a process was killed, or this one received SIGTERM and passed it on.
            KeyboardInterrupt: this process received SIGINT and passed it on.
        """
        try:
            with interrupts.listen_for_stop() as request:
                results, failures = self._collect(request)
        finally:
            stop(self._children, END_SECONDS)
        if not failures:
            return results[0]
        error = root_cause(failures).error()
        if request.number == signal.SIGINT and isinstance(error, InterruptedRunError):
            raise KeyboardInterrupt(str(error).replace("SIGTERM", "Ctrl-C"))  # it was passed on as SIGTERM
        raise error

    def _collect(self, request: interrupts.StopRequest) -> tuple[dict[int, Any], list[Failure]]:
        """Return the results by rank, and the failures reported until a short time after the first one."""
        waiting = {child.pipe: rank for rank, child in enumerate(self._children)}
        results: dict[int, Any] = {}
        failures: list[Failure] = []
        first_failure, passed_on, patience = math.inf, False, 0.0
        while waiting and time.monotonic() <= first_failure + patience:
            if request.number and not passed_on:
                for child in self._children:
                    child.process.terminate()  # SIGTERM: each process finishes its step, and all save
                passed_on = True
            for pipe in connection.wait(list(waiting), timeout=POLL_SECONDS):
                rank = waiting[cast("Connection", pipe)]
                message = self._receive(rank)
                if message is None:
                    continue
                del waiting[cast("Connection", pipe)]
                results[rank], failure = message
                failures += [failure] if failure else []
            if failures:
                first_failure = min(first_failure, time.monotonic())
                patience = NOTICED_SECONDS if all(failure.only_noticed for failure in failures) else GRACE_SECONDS
        return results, failures

    def _receive(self, rank: int) -> tuple[Any, Failure | None] | None:
        """Return a process's result or its failure, or None if it has only just started to work.

        The pipe of a killed process is closed without a message.
        """
        child = self._children[rank]
        try:
            message = cast("tuple[Any, Failure | None] | None", child.pipe.recv())
        except (EOFError, OSError):
            code = child.exit_code()
            if code is not None and code >= 0:  # not by a signal: its own program ended it
                return None, Failure(rank, RunError.__name__, f"process {rank} ended by itself with exit code {code}")
            reason = f"process {rank} was lost (exit code {code}): run the same command again"
            return None, Failure(rank, InterruptedRunError.__name__, reason)
        if message is None and rank == 0:
            self._started()
        return message


def _serve(
    pipe: Connection, target: Callable[..., Any], arguments: tuple[Any, ...], variables: dict[str, str]
) -> tuple[Any, Failure | None]:
    with suppress(OSError):  # the process that started this one is ending it
        pipe.send(None)  # it has imported what it needs, and starts to work
    os.environ.update(variables)
    try:
        from pruneboard.processes import rendezvous

        rendezvous.limit_threads(int(variables["WORLD_SIZE"]))
        return target(*arguments), None
    except PruneboardError as error:
        return None, Failure.of(error, int(variables["RANK"]))
