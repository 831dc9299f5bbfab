"""Functions that the child processes of tests carry out; a child imports them from this module by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pruneboard.errors import AuditError, DataError, LostPeerError
from pruneboard.processes import interrupts
from pruneboard.processes.launch import GRACE_SECONDS
from pruneboard.processes.world import World


def work(task: dict[str, Any], on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Do what `task["do"]` says: `raise`, `die`, `train` until a signal, `end` with it; without it, describe itself."""
    do = task.get("do")
    if do == "raise":
        raise task["error"]("why")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "train":
        _train(Path(task["saved"]), on_step)
    if do == "end":
        with interrupts.listen_for_stop() as request:
            on_step(1, 1)
            while not request.number:
                time.sleep(0.05)
    import torch

    children = os.environ["OMP_NUM_THREADS"]
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "threads of its children": children}


def _train(saved: Path, on_step: Callable[[int, int], None]) -> None:
    """Take steps until a signal arrives, then save as a run does: after the current step."""
    with interrupts.listen_for_stop() as request:
        for step in range(10**6):
            on_step(step, 10**6)
            time.sleep(0.05)
            if request.number:
                saved.write_text(str(step))
                raise interrupts.stop_error(request.number, "; the run is saved")


def echo(pipe: Connection) -> str:
    """Send back each message until one is `end`, then return a last one."""
    while (message := pipe.recv()) != "end":
        pipe.send(message)
    return "last"


def hang(pipe: Connection, ignore: bool = False) -> None:
    """Send the process number and never return; with `ignore`, not even after SIGTERM."""
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(os.getpid())
    while True:
        time.sleep(0.1)


def describe(pipe: Connection) -> dict[str, Any]:
    """Return how this process handles SIGINT, and whether torchrun's variable reached it."""
    del pipe
    return {
        "ignores SIGINT": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "agent store": os.environ.get("TORCHELASTIC_USE_AGENT_STORE"),
    }


def rank_of(name: str, local: str | None = None) -> tuple[World, int, str, str | None]:
    """Return this process's world, its parent's number, and the arguments."""
    return World.current(), os.getppid(), name, local


def stop_when_asked(folder: Path) -> None:
    """Wait for SIGTERM and end as an interrupted run does."""
    with interrupts.listen_for_stop() as request:
        (folder / os.environ["RANK"]).touch()
        while not request.number:
            time.sleep(0.01)
        raise interrupts.stop_error(request.number, ", saved")


def fail_on_rank_1(how: str) -> None:
    """End the second process; the first one sleeps."""
    if os.environ["RANK"] == "1":
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise AuditError("this one")
    time.sleep(60)


def notice_before_the_reason(how: str, started: Path) -> None:
    """The first process reports that a peer is lost before the peer reports why."""
    if os.environ["RANK"] == "0":
        while not started.exists():
            time.sleep(0.01)
        raise LostPeerError("a process was lost")
    started.touch()
    time.sleep(1.5 * GRACE_SECONDS)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise DataError("corrupt.png does not decode")
