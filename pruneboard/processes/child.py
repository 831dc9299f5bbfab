"""A process started by this one: how it starts, how the two communicate, and how it ends.

Used for the processes of `--procs` (`launch`), the workers of a sweep (`pruneboard.sweeps.executors.workers`) and the
contract suite's pair (`pruneboard.testing.pair`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from pruneboard.errors import InterruptedRunError
from pruneboard.processes import interrupts, memory, output
from pruneboard.processes.process_exit import exit_process


class Child:
    """A spawned process and a pipe to it.

    The child ends when this process ends, even after `kill -9`. It ignores SIGINT: Ctrl-C reaches every process of a
    terminal, and the parent decides what follows. SIGTERM raises `InterruptedRunError` in the child's main thread.

    Attributes:
        process: the process.
        pipe: this end of the pipe. Once the child has ended, `recv` raises EOFError or an OSError.
    """

    def __init__(self, serve: Callable[..., Any], *arguments: Any, daemon: bool = True) -> None:
        """Start a process that calls `serve(pipe, *arguments)` and sends what it returns as the last message.

        Args:
            serve: a module-level function; it may send and receive other messages before.
            arguments: picklable.
            daemon: whether the child may not have children; False if it starts processes too.
        """
        context = multiprocessing.get_context("spawn")  # torch's threads and CUDA do not work after a fork
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_main, args=(serve, end, arguments), daemon=daemon)
        self.process.start()
        end.close()  # now only the child has this end open, so the pipe closes when the child ends

    def exit_code(self) -> int | None:
        """Return the exit code of a child whose pipe has closed, negative for a signal; None if it is still running."""
        self.process.join(5)
        return self.process.exitcode


def stop(children: Collection[Child], seconds: float) -> None:
    """Send SIGTERM to all, close their pipes, and after `seconds` kill those that are still running."""
    for child in children:
        child.process.terminate()
        child.pipe.close()
    deadline = time.monotonic() + seconds
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join()


def _main(serve: Callable[..., Any], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupts.stop_now)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    output.protect()
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # set by a torchrun that started the parent
    memory.keep_freed_memory()
    with suppress(InterruptedRunError, EOFError, ConnectionError):  # stopped, or the parent closed the pipe
        last = serve(pipe, *arguments)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `stop` may interrupt neither the message nor the exit
        pipe.send(last)
    exit_process(0)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns when the kernel closes the parent's end of a pipe, which `kill -9` cannot prevent
    os._exit(InterruptedRunError.exit_code)  # `sys.exit` would end only this thread
