"""A run's folder while the run is worked on: its lock, its metrics, its checkpoints, and the attempts before.

`run.json` appears when an attempt has ended, and `metrics.jsonl` grows by a line an epoch. The last two
checkpoints lie in `checkpoints/` (`pruneboard.training.checkpoint` says what is in them) until the run is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruneboard.errors import StoreError, why
from pruneboard.records import store

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
KEPT = 2
"""Checkpoints: should the newest be damaged, the one before is there."""

_HALF_MADE = (store.WEIGHTS, store.MASK, ".*.part", f"{CHECKPOINTS}/.*.part")
_OF_ONE_ATTEMPT = (METRICS, "log.txt", "log.rank*.txt", "events.out.tfevents.*")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and keep every other process from working on it; the lock ends with this process, however it ends.

    Raises:
        StoreError: another process holds it, named with its host; or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take_lock(folder / LOCK)
    except OSError as error:
        raise StoreError(f"cannot make {folder} ready for a run: {why(error)}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _take_lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise StoreError(f"{holder} is working on {path.parent}: wait for it to end, or stop it first") from None
        except OSError as error:
            warnings.warn(f"no lock in {path.parent}: {why(error)}; start this run only once", stacklevel=4)
            return descriptor
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # its last holder removed it in between


def is_locked(folder: Path) -> bool:
    """Return whether a living process of this machine holds the lock of `folder`.

    The system is asked, not the lock: trying to take it would stop a run that starts at that moment.
    """
    try:
        inode = (folder / LOCK).stat().st_ino
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return any(" FLOCK " in line and f":{inode} " in line for line in held.splitlines())


def begin(folder: Path, *, force: bool = False) -> None:
    """Make `folder` ready for an attempt, which goes on from its newest checkpoint; every record it holds is kept.

    A failed or unreadable `run.json` moves to `failures/NN.json`, a finished one, only with `force`, to
    `superseded/NN.json`; that of an interruption stays until the run has ended. Where there is no checkpoint, or
    with `force`, all that only means something to the attempt before (metrics, log, events) is removed.

    Raises:
        StoreError: a finished record without `force`, or a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder / store.RUN):
            _set_aside(folder, force=force)
        if force:
            drop_checkpoints(folder)
        goes_on = bool(checkpoints(folder))
        for pattern in _HALF_MADE if goes_on else _HALF_MADE + _OF_ONE_ATTEMPT:
            for leftover in folder.glob(pattern):
                leftover.unlink()
    except OSError as error:
        raise StoreError(f"cannot make {folder} ready for a run: {why(error)}") from None


def _set_aside(folder: Path, *, force: bool) -> None:
    path = folder / store.RUN
    status = store.status(path)
    if status == "interrupted":
        return
    if status == "done" and not force:
        raise StoreError(f"{path} is a finished record; --force runs again and keeps it in {store.SUPERSEDED}/")
    shelf = folder / (store.SUPERSEDED if status == "done" else store.FAILURES)
    shelf.mkdir(exist_ok=True)
    number = 1 + max((int(file.stem) for file in store.numbered_records(shelf)), default=0)
    path.rename(shelf / f"{number:02d}.json")


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Append one line to `metrics.jsonl`; a loss that is no longer finite is written as null.

    Raises:
        StoreError: the disk refuses.
    """
    try:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_without_nan(row), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint that counts on this line may follow at once
    except OSError as error:
        raise StoreError(f"cannot write {folder / METRICS}: {why(error)}") from None


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop every line of `metrics.jsonl` after `step`, and a last one that was never finished."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    store.write_atomic(path, "".join(line for line in lines if _step(line) <= step).encode())


def _step(line: str) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    found = {int(m[1]): path for path in (folder / CHECKPOINTS).glob("*") if (m := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def add_checkpoint(folder: Path, step: int, write: Callable[[Path], object]) -> None:
    """Let `write` make the checkpoint of `step`, whole or not at all, then drop all but the last two.

    Raises:
        StoreError: the disk refuses; the checkpoints before are still there.
    """
    store.replace(folder / CHECKPOINTS / f"step-{step:09d}.safetensors", write)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints: the run is done, or starts again."""
    for path in checkpoints(folder):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or something of somebody else's is in it
        (folder / CHECKPOINTS).rmdir()


_NAME = re.compile(r"step-([0-9]{1,18})\.safetensors")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
