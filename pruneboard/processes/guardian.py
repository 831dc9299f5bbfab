"""Run a command in a process of its own, watched by one that executes no code of a method.

A method can end its process in ways that no exception handler sees: `os._exit`, a crash in C code, `exec`, SIGKILL. A
dead process writes no record, and may even exit with 0. So the command line forks before it imports torch: the child
carries out the command, and the parent, which keeps the process id that the shell knows, waits. The child notes what it
is doing (`note`); a child that ends without reporting its exit code is lost, and the parent acts on the notes.

Signals: the parent passes SIGINT and SIGTERM on, unless they come from the terminal, which sends them to both. The
child ends when the parent ends, even after `kill -9`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pruneboard.processes.process_exit import exit_process

_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_WAITED = (*_FORWARDED, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1  # from sys/prctl.h
_END = "end"

Note = dict[str, Any]

_notes_file: int | None = None
"""In the child, the file that it shares with the parent."""


@dataclass(frozen=True)
class Loss:
    """A child that ended without reporting an exit code.

    Attributes:
        notes: what it noted, in order; every note has a `kind`.
        reason: how it ended, in words.
    """

    notes: list[Note]
    reason: str


def watch(command: Callable[[], int], on_loss: Callable[[Loss], int]) -> int:
    """Carry out `command` in a forked process, and return its exit code; a lost process gives that of `on_loss`.

    Only the parent returns. Call it before torch is imported: torch's threads do not survive a fork.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    shared, parent = os.memfd_create("pruneboard-notes"), os.getpid()
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    child = os.fork()
    if not child:
        _serve(command, shared, parent, masked)
    received, status = _wait(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    notes = _read(shared)
    if notes and notes[-1]["kind"] == _END:
        return int(notes[-1]["code"])
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in received:  # it was stopped before it could handle the signal
        _end_by(number)
    return on_loss(Loss(notes, _reason(status)))


def is_watched() -> bool:
    """Return whether another process watches this one, and reads its notes."""
    return _notes_file is not None


def note(kind: str, **content: Any) -> None:
    """Tell the watching process, if there is one, what this process is doing; `content` must be JSON."""
    if _notes_file is not None:
        os.write(_notes_file, json.dumps({"kind": kind, **content}).encode() + b"\n")


def _serve(command: Callable[[], int], shared: int, parent: int, masked: set[int]) -> NoReturn:
    global _notes_file  # noqa: PLW0603
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    _notes_file = shared
    code = command()
    note(_END, code=code)
    exit_process(code)


def _wait(child: int) -> tuple[set[int], int]:
    """Wait until the child ends; return the signals that arrived meanwhile and its wait status."""
    received: set[int] = set()
    while True:
        info = signal.sigwaitinfo(_WAITED)
        if info.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return received, status
            continue
        received.add(info.si_signo)
        if info.si_code <= 0:  # sent by a process; the terminal's signals have a positive code
            os.kill(child, info.si_signo)


def _read(shared: int) -> list[Note]:
    lines = os.pread(shared, os.fstat(shared).st_size, 0).splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _end_by(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError("unreachable: the signal ends the process")


def _reason(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended by itself with exit code {os.WEXITSTATUS(status)}"
