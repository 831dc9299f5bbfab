"""The folder of a run in progress: its lock, its metrics, its checkpoints, and the records of earlier attempts.

A process takes the lock with `locked`, prepares the folder with `begin`, and then appends one line per epoch to
`metrics.jsonl`. The last two checkpoints are kept in `checkpoints/` until the run is done
(`pruneboard.training.checkpoint` describes their content). `run.json` is written when the attempt has ended.
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
KEPT_CHECKPOINTS = 2
"""Number of checkpoints that are kept; if the newest is damaged, the run is resumed from the one before."""

_INCOMPLETE = (store.WEIGHTS, store.MASK, ".*.part", f"{CHECKPOINTS}/.*.part")
_ATTEMPT_FILES = (METRICS, "log.txt", "log.rank*.txt", "events.out.tfevents.*")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create `folder` and hold its lock, so that no other process works on it.

    The lock is an advisory one of the operating system (`flock`), which releases it when the process ends, even if
    the process is killed.

    Raises:
        StoreError: another process holds the lock (the message names it and its host), the folder cannot be created,
            or a symbolic link in it leads elsewhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.check_links(folder)
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
    """Return the descriptor of the locked file, into which the holder's process and host are written."""
    while True:
        # The file is truncated below: if it were a link to the record, that would be lost.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise StoreError(f"{holder} is working on {path.parent}: wait for it to end, or stop it first") from None
        except OSError as error:
            warnings.warn(f"cannot lock {path.parent}: {why(error)}; start this run only once", stacklevel=4)
            return descriptor
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # the previous holder removed the file after it was opened here: lock the new one


def is_locked(folder: Path) -> bool:
    """Return whether a process on this machine holds the lock of `folder`.

    The answer is read from `/proc/locks`. Trying to take the lock would make a run fail that starts at that moment.
    """
    try:
        inode = (folder / LOCK).stat().st_ino
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return any(" FLOCK " in line and f":{inode} " in line for line in held.splitlines())


def begin(folder: Path, *, force: bool = False) -> None:
    """Prepare `folder` for an attempt, which resumes from the newest checkpoint if there is one.

    No record is lost. A failed or unreadable `run.json` moves to `failures/NN.json`. A finished one moves to
    `superseded/NN.json`, but only with `force`. The record of an interrupted run stays until the run has ended.

    Incomplete files are removed. If the attempt does not resume, so are the metrics, logs and event files of the
    attempt before.

    Args:
        folder: the run's folder; created if it is missing.
        force: whether to repeat a finished run and to ignore (and remove) its checkpoints.

    Raises:
        StoreError: there is a finished record and `force` is false, the folder cannot be written, or a symbolic link
            in it leads elsewhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.check_links(folder)
        if os.path.lexists(folder / store.RUN):
            _archive_record(folder, force=force)
        if force:
            drop_checkpoints(folder)
        resumes = bool(checkpoints(folder))
        for pattern in _INCOMPLETE if resumes else _INCOMPLETE + _ATTEMPT_FILES:
            for leftover in folder.glob(pattern):
                leftover.unlink()
    except OSError as error:
        raise StoreError(f"cannot make {folder} ready for a run: {why(error)}") from None


def _archive_record(folder: Path, *, force: bool) -> None:
    path = folder / store.RUN
    status = store.status(path)
    if status == "interrupted":
        return
    if status == "done" and not force:
        raise StoreError(f"{path} is a finished record; --force repeats the run and keeps it in {store.SUPERSEDED}/")
    archive = folder / (store.SUPERSEDED if status == "done" else store.FAILURES)
    archive.mkdir(exist_ok=True)
    path.rename(next(store.free_paths(archive)))


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Append one line to `metrics.jsonl`; values that are not finite are written as null.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_without_nan(row), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the next checkpoint must not be durable before this line is
    except OSError as error:
        raise StoreError(f"cannot write {folder / METRICS}: {why(error)}") from None


def truncate_metrics(folder: Path, step: int) -> None:
    """Remove all lines of `metrics.jsonl` after `step`, and an incomplete last line."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    store.write_atomic(path, "".join(line for line in lines if _step(line) <= step).encode())


def _step(line: str) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def checkpoints(folder: Path) -> list[Path]:
    """Return the paths of a run's checkpoints, the newest first."""
    found = {int(m[1]): path for path in (folder / CHECKPOINTS).glob("*") if (m := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def add_checkpoint(folder: Path, step: int, write: Callable[[Path], object]) -> None:
    """Write the checkpoint of `step` atomically, then remove all but the last `KEPT_CHECKPOINTS`.

    Args:
        folder: the run's folder.
        step: number of optimizer steps taken.
        write: writes the complete content to the path it is called with.

    Raises:
        StoreError: the file cannot be written; earlier checkpoints are kept.
    """
    store.replace(folder / CHECKPOINTS / f"step-{step:09d}.safetensors", write)
    for old in checkpoints(folder)[KEPT_CHECKPOINTS:]:
        old.unlink(missing_ok=True)


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints, when the run is done or starts from its first step."""
    for path in checkpoints(folder):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder does not exist, or contains other files
        (folder / CHECKPOINTS).rmdir()


_NAME = re.compile(r"step-([0-9]{1,18})\.safetensors")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
