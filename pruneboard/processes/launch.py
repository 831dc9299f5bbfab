"""One process, or several: the same run either way.

One process runs in place, without any launcher. `--procs N` starts N on this machine. Under torchrun, the `deepspeed`
launcher or srun, every process reads its rank from the environment (`pruneboard.processes.world`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from pruneboard.errors import InterruptedRunError, LostPeerError, PruneboardError, rebuilt
from pruneboard.processes import interrupts, memory
from pruneboard.processes.process_exit import exit_process
from pruneboard.processes.world import World, free_port

R = TypeVar("R")

LOOK_SECONDS = 0.2
"""How often to look for a signal while processes work."""

GRACE_SECONDS = 1.0
"""How long to listen for the cause once the first sign of a failure is seen: peers of a lost process fail too."""

NOTICED_SECONDS = 10.0
"""The same while all have only noticed that another one is lost: on a busy machine it takes a while to be seen gone."""


def launch(target: Callable[..., R], arguments: tuple[Any, ...], procs: int, world: World, local: Any) -> R:
    """Run `target(*arguments, local)` here, or `target(*arguments)` in `procs` processes; return rank 0's result.

    Args:
        target: a module-level function.
        arguments: picklable.
        procs: how many processes to start; 1 runs in place.
        world: where this process stands already; one of several never starts more.
        local: what only a run in place can use (an opened data set).
    """
    if procs == 1 or world.size > 1:
        return target(*arguments, local)
    return cast("R", LocalProcesses(target, arguments, procs).result())


class LocalProcesses:
    """Processes on this machine that end together: with their work, with the first failure, or with us."""

    def __init__(self, target: Callable[..., Any], arguments: tuple[Any, ...], procs: int) -> None:
        """Start them."""
        context = multiprocessing.get_context("spawn")
        port = free_port()
        self._reports: list[Connection] = []
        self._lifelines: list[Connection] = []
        self._processes = []
        for rank in range(procs):
            report, child_report = context.Pipe(duplex=False)
            child_lifeline, lifeline = context.Pipe(duplex=False)
            process = context.Process(
                target=_child, args=(target, arguments, rank, procs, port, child_report, child_lifeline), daemon=True
            )
            process.start()
            child_report.close()
            child_lifeline.close()
            self._reports.append(report)
            self._lifelines.append(lifeline)
            self._processes.append(process)

    def result(self) -> Any:
        """Wait for all; return rank 0's result.

        Raises:
            PruneboardError: the first failure a process reported.
            InterruptedRunError: a process was lost without a word, or SIGTERM came and was passed on.
            KeyboardInterrupt: SIGINT came and was passed on.
        """
        try:
            with interrupts.listen_for_stop() as request:
                return self._collect(request)
        finally:
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.join(5)
                if process.is_alive():
                    process.kill()

    def _collect(self, request: interrupts.StopRequest) -> Any:
        results: dict[int, Any] = {}
        passed_on = False
        while len(results) < len(self._processes):
            if request.number and not passed_on:
                for process in self._processes:
                    process.terminate()  # SIGTERM: each finishes its step, and all save
                passed_on = True
            waiting = [r for rank, r in enumerate(self._reports) if rank not in results]
            for report in connection.wait(waiting, timeout=LOOK_SECONDS):
                rank = self._reports.index(cast("Connection", report))
                results[rank] = self._receive(rank)
            if any(isinstance(outcome, BaseException) for outcome in results.values()):
                cause = self._cause(results)
                if request.number == signal.SIGINT and isinstance(cause, InterruptedRunError):
                    raise KeyboardInterrupt(str(cause).replace("SIGTERM", "Ctrl-C"))  # SIGTERM is how we passed it on
                raise cause
        return results[0]

    def _receive(self, rank: int) -> Any:
        """Return what a process reports; a lost one reports the end of its pipe."""
        try:
            kind, value = self._reports[rank].recv()
        except EOFError:
            self._processes[rank].join(5)
            code = self._processes[rank].exitcode
            return InterruptedRunError(f"process {rank} was lost (exit code {code}): run the same command again")
        return value if kind == "" else rebuilt(kind, value)

    def _cause(self, results: dict[int, Any]) -> BaseException:
        """Return the failure that explains the others.

        A process lost without a word comes first, then one that says why, then its peers, which say that one is lost.
        """
        began = time.monotonic()
        found = [outcome for outcome in results.values() if isinstance(outcome, BaseException)]
        while len(results) < len(self._processes):
            noticed = all(isinstance(failure, LostPeerError) for failure in found)
            left = began + (NOTICED_SECONDS if noticed else GRACE_SECONDS) - time.monotonic()
            if left <= 0:
                break
            waiting = [r for rank, r in enumerate(self._reports) if rank not in results]
            for report in connection.wait(waiting, timeout=left):
                rank = self._reports.index(cast("Connection", report))
                results[rank] = self._receive(rank)
                if isinstance(results[rank], BaseException):
                    found.append(results[rank])
        return min(found, key=_rank_of_cause)


def _rank_of_cause(error: BaseException) -> int:
    if isinstance(error, LostPeerError):
        return 2
    return 0 if isinstance(error, InterruptedRunError) else 1


def _child(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    rank: int,
    procs: int,
    port: int,
    report: Connection,
    lifeline: Connection,
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": procs, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a torchrun that started our parent: not our store
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent passes it on
    signal.signal(signal.SIGTERM, interrupts.stop_now)
    threading.Thread(target=die_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(PruneboardError):  # ended by the parent while it reports: another one's report was first
        try:
            from pruneboard.processes import rendezvous

            memory.keep_freed_memory()
            rendezvous.limit_threads(procs)
            report.send(("", target(*arguments)))
        except PruneboardError as error:
            report.send((type(error).__name__, str(error)))
    exit_process(0)


def die_with_parent(lifeline: Connection) -> None:
    """End this process when the other end of `lifeline` closes, which even kill -9 of the parent does."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(InterruptedRunError.exit_code)  # `sys.exit` would end this thread and let the run go on
