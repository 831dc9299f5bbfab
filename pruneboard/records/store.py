"""The results folder: the only module that reads and writes records on disk.

    results/<dataset>/<model>/<track>/<method>-s<sparsity>-seed<n>-<hash8>/
        run.json            the record; written once, by rename
        metrics.jsonl       one line per epoch
        model.safetensors   the folded weights
        mask.npz            the kept positions, one bit each (`pruneboard.records.mask_file`)
        checkpoints/        the checkpoints a run is resumed from (`pruneboard.records.runfolder`)
        failures/NN.json    records of earlier attempts that failed
        superseded/NN.json  finished records that a later run replaced with --force

Files are written atomically. Records are never overwritten or deleted: `failures/` and `superseded/`, the archive
folders of a run, keep the earlier ones. Reading tolerates any file: `scan` reports a file that is not a record and
continues. No text from a record is used as a path without being sanitized.

A folder from somebody else may contain symbolic links. The folder that the user names may be reached through links; a
link below it that leads out of it is neither read nor written through (`leads_out`, `inside`).
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneboard.errors import NotFoundError, PruneboardError, StoreError, why
from pruneboard.records import schema as records
from pruneboard.records.schema import Record

RUN = "run.json"
WEIGHTS = "model.safetensors"
MASK = "mask.npz"
FAILURES = "failures"
SUPERSEDED = "superseded"
LARGEST_FILE = 4 * 2**20
"""Maximum size of a `run.json` in bytes; larger files are rejected."""
LEADS_OUT = "leads out of its folder through a symbolic link, which is not followed"
"""The reason why a file is not read, without its path."""

_CHUNK = 2**20  # bytes that are read at once, so that no limit, however large, reserves memory in advance
_MAX_MARKS = 2 * records.MAX_VALUES  # a comma or an opening bracket precedes every value, and both an empty object
_BYTES_PER_VALUE = 16  # in long files that this program writes; an empty object of 3 bytes takes 72 in memory


@dataclass
class Scan:
    """The records found below some folders.

    Attributes:
        records: (file, record) of every readable record, sorted by path.
        problems: (file, reason) of every file that is not a record; the reason is one line.
        failures: run folder -> number of earlier attempts that failed.
        superseded: run folder -> number of finished records that were replaced.
    """

    records: list[tuple[Path, Record]] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    failures: dict[Path, int] = field(default_factory=dict)
    superseded: dict[Path, int] = field(default_factory=dict)


def run_folder(
    results: str | Path,
    *,
    dataset: str,
    model: str,
    track: str,
    method: str,
    sparsity: float | None,
    seed: int,
    hash: str,  # noqa: A002 - the record's own name for it
) -> Path:
    """Return the folder of one run, which always lies inside `results`; nothing is created.

    Args:
        results: the results folder.
        dataset: name of the data set.
        model: any timm name, including `hf-hub:org/name`.
        track: `prune` or `supermask`.
        method: name of the pruner.
        sparsity: target sparsity; None for a control that prunes nothing.
        seed: the seed of the run.
        hash: the run's content hash, whose first eight digits are part of the name.

    Raises:
        StoreError: a symbolic link in `results` leads this path to another place.
    """
    point = "" if sparsity is None else f"-s{records.format_sparsity(sparsity)}"
    leaf = f"{method[:100]}{point}-seed{seed}-{hash[:8]}"
    return inside(Path(results, *(_component(name) for name in (dataset, model, track, leaf))), results)


def folder_of(results: str | Path, record: Record) -> Path:
    """Return the folder below `results` that a record belongs to, from the record's fields alone."""
    return run_folder(
        results,
        dataset=record["data"]["name"],
        model=record["model"]["name"],
        track=record["track"],
        method=record["method"]["name"],
        sparsity=record["sparsity"]["target"],
        seed=record["seed"],
        hash=record["hash"],
    )


def leads_out(path: Path, folder: str | Path) -> bool:
    """Return whether a symbolic link below `folder` leads `path` out of it; `folder` itself may be a link."""
    real = _real(Path(folder))
    return not _real(path).is_relative_to(real)


def inside(path: Path, folder: str | Path) -> Path:
    """Return `path`, a file or folder below `folder` that need not exist.

    Raises:
        StoreError: a symbolic link leads it out of `folder`.
    """
    if leads_out(path, folder):
        raise StoreError(
            f"{path} leads out of {folder} through a symbolic link, which is not followed: "
            "remove the link, or name the folder to which it leads"
        )
    return path


def check_links(folder: Path) -> None:
    """Check that no symbolic link in a run's folder leads out of it: a run writes and deletes files there.

    Raises:
        StoreError: there is such a link.
    """
    for parent, below, names in os.walk(folder):
        for name in (*below, *names):
            inside(Path(parent, name), folder)


def check_writable(results: str | Path) -> None:
    """Check that `results` can be written or created, by creating and removing a temporary folder.

    Permission bits are not checked, because they do not apply to root and say nothing about read-only mounts.

    Raises:
        StoreError: the folder cannot be written, or the path exists but is not a folder.
    """
    existing = Path(results)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is not a folder")
        with tempfile.TemporaryDirectory(prefix=".pruneboard-", dir=existing):
            pass
    except OSError as error:
        raise StoreError(f"cannot write results to {results}: {why(error)}; choose another --results") from None


def finished(folder: Path, hash: str) -> Record | None:  # noqa: A002 - the record's own name for it
    """Return the finished record of a run from its folder, or None.

    Args:
        folder: the run's folder; its name contains only eight digits of the hash.
        hash: the run's content hash, compared with all 64 digits of the record's.
    """
    try:
        found = read(inside(folder / RUN, folder))
    except (StoreError, NotFoundError):
        return None
    return found if found["status"] == "done" and found["hash"] == hash else None


def put(folder: Path, record: Record) -> Path:
    """Write `record` atomically as `folder/run.json`, and return that path.

    Only the record of an interrupted run is replaced, by that of the same run after it was resumed.

    Raises:
        StoreError: the record violates the schema or is too large, there is another record already, or the file cannot
            be written.
    """
    text = records.dumps(records.validate(record))
    path = folder / RUN
    if len(text) > LARGEST_FILE:
        raise StoreError(f"cannot write {path}: a record must not be larger than {_size(LARGEST_FILE)}")
    if os.path.lexists(path) and status(path) != "interrupted":
        raise StoreError(f"{path} exists already: a record is never overwritten")
    return write_atomic(path, text.encode())


def write_atomic(path: Path, data: bytes) -> Path:
    """Write `data` to `path` atomically, and return the path; see `replace`."""
    return replace(path, lambda part: part.write_bytes(data))


def replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Create or replace the file at `path` atomically, and return the path.

    A reader sees the complete old file or the complete new one, even after a crash: the content is written to a
    hidden temporary file in the same folder, synchronized, and renamed. If the process is killed before, this file
    remains until the same path is written again.

    Args:
        path: the file; its folder is created if it is missing.
        write: writes the complete content to the path it is called with.

    Raises:
        StoreError: the file cannot be written; the temporary file is removed.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(path)
        try:
            with _locked_part(part):
                write(part)
                _sync(part)
                os.replace(part, path)  # noqa: PTH105 - tests replace this function by name
        finally:
            part.unlink(missing_ok=True)
        _sync(path.parent)  # without this, a power failure could undo the rename
    except OSError as error:
        raise StoreError(f"cannot write {path}: {why(error)}") from None
    return path


def remove_stale_parts(path: Path) -> None:
    """Remove the temporary files of killed processes that were writing `path`, and no other file.

    A process holds a lock on its temporary file. The operating system releases it when the process ends, even if the
    process is killed, so files of processes that are still writing are left alone.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.part")
    for part in [Path(entry) for entry in os.scandir(path.parent) if name.fullmatch(entry.name)]:
        # O_NONBLOCK: opening a pipe would wait. A file that cannot be opened or locked may be in use, so it stays.
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


@contextmanager
def _locked_part(part: Path) -> Iterator[None]:
    """Create a temporary file and lock it during the block; see `remove_stale_parts`."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: no process could lock this file, so it is never stale
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def status(path: Path) -> str | None:
    """Return the status of the record at `path`, or None if there is no readable record."""
    try:
        return str(read(path)["status"])
    except PruneboardError:
        return None


def read(path: Path) -> Record:
    """Read and validate one record from an untrusted file.

    Raises:
        NotFoundError: there is no such file.
        StoreError: it cannot be read, is too large, or is not a record. The message does not contain `path`.
    """
    try:
        data = read_bytes(path, LARGEST_FILE)
        if _count_marks(data) > _MAX_MARKS:
            raise StoreError(f"is not a record: it has more than {records.MAX_VALUES:,} values")
        return records.validate(json.loads(data.decode(), parse_constant=_refuse, parse_float=_finite))
    except FileNotFoundError:
        raise NotFoundError(f"no record at {path}: give a run folder or its {RUN}") from None
    except OSError as error:
        raise StoreError(f"cannot be read: {why(error)}") from None
    except RecursionError:
        raise StoreError("is not a record: it is nested too deeply") from None
    except ValueError as error:  # the base class of errors about UTF-8 and about JSON
        raise StoreError(f"is not JSON: {error}") from None


def parse_json(data: bytes) -> Any:
    """Return the value of untrusted JSON text, which takes a bounded multiple of the text's size in memory.

    Raises:
        ValueError: it is not JSON in UTF-8, or has more values than any file of its size that this program writes.
        RecursionError: it is nested too deeply.
    """
    if _count_marks(data) > _MAX_MARKS + len(data) // _BYTES_PER_VALUE:
        raise ValueError("it has too many values for its size")
    return json.loads(data.decode())


def _count_marks(data: bytes) -> int:
    """Return an upper bound for the number of values in a JSON text without parsing it, which would take the memory."""
    return sum(map(data.count, (b",", b"[", b"{")))


def read_bytes(path: Path, largest: int) -> bytes:
    """Return the content of a regular file of at most `largest` bytes.

    Raises:
        OSError: the file does not exist, is not a regular file, is larger, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")  # reading a pipe would block forever
    data = bytearray()
    with path.open("rb") as file:
        while chunk := file.read(min(_CHUNK, largest + 1 - len(data))):
            data += chunk
    if len(data) > largest:
        raise OSError(f"it is larger than {_size(largest)}")
    return bytes(data)


def scan(paths: Iterable[str | Path], *, without: Path | None = None) -> Scan:
    """Find every record below `paths`, like `scan_all`, and require at least one readable record.

    Raises:
        NotFoundError: a path does not exist, or there is no readable record below it.
    """
    found = scan_all(paths, without=without)
    if not found.records:
        raise NotFoundError(f"no readable record: {len(found.problems)} skipped, the first is {_first_problem(found)}")
    return found


def scan_all(paths: Iterable[str | Path], *, without: Path | None = None) -> Scan:
    """Find every record below `paths`, each file once; links to folders or out of a path are not followed.

    Args:
        paths: results folders, run folders, or `run.json` files.
        without: a folder to skip.

    Raises:
        NotFoundError: a path does not exist, or there is no `run.json` below it, readable or not.
    """
    found = Scan()
    seen: set[Path] = set()
    skipped = _real(without) if without else None
    for path in map(Path, paths):
        before = len(seen) + len(found.problems)
        for file in _run_files(path, found, skipped):
            if (real := _real(file)) not in seen:
                seen.add(real)
                _add_file(file, path, found)
        if len(seen) + len(found.problems) == before and not _overlaps(path, seen):
            raise NotFoundError(f"no record below {path}: it contains no {RUN}; create one with `pruneboard run`")
    found.records.sort(key=lambda item: item[0])
    return found


def _component(name: str) -> str:
    # One path component: without separators, not hidden, not `..`, and not the name of an archive folder.
    clean = re.sub(r"[^A-Za-z0-9._+=-]+", "-", name).lstrip(".-")[:160]
    return f"_{clean}" if clean in ("", FAILURES, SUPERSEDED) else clean


def numbered_records(folder: Path) -> list[Path]:
    """Return the files `NN.json` in an archive folder, `failures/` or `superseded/`, in no particular order."""
    return [file for file in folder.glob("*.json") if re.fullmatch(r"[0-9]{1,9}", file.stem)]


def free_paths(folder: Path) -> Iterator[Path]:
    """Yield paths for further records in an archive folder, numbered after those in it; none of them exists."""
    last = max((int(file.stem) for file in numbered_records(folder)), default=0)
    paths = (folder / f"{number:02d}.json" for number in itertools.count(last + 1))
    return (path for path in paths if not os.path.lexists(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count} bytes"


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text} is too large")
    return number


def _run_files(path: Path, found: Scan, skipped: Path | None) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise NotFoundError(f"no such folder: {path}; give a results folder or a run folder")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None

    def report(error: OSError) -> None:
        found.problems.append((Path(error.filename), f"cannot be read: {why(error)}"))

    files = []
    for folder, below, names in os.walk(path, onerror=report):
        _count_archives(Path(folder), below, found)
        searched = sorted(set(below) - {FAILURES, SUPERSEDED})
        below[:] = [name for name in searched if skipped is None or _real(Path(folder, name)) != skipped]
        files += [Path(folder, RUN)] if RUN in names else []
    return files


def _count_archives(folder: Path, below: list[str], found: Scan) -> None:
    for name, counts in ((FAILURES, found.failures), (SUPERSEDED, found.superseded)):
        if name in below and not (folder / name).is_symlink():
            counts[folder] = len(numbered_records(folder / name))


def _add_file(file: Path, given: Path, found: Scan) -> None:
    if file.is_symlink() and file != given and leads_out(file, given):
        found.problems.append((file, LEADS_OUT))
        return
    try:
        found.records.append((file, read(file)))
    except PruneboardError as error:
        found.problems.append((file, str(error)))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises an error for a loop of links


def _overlaps(path: Path, seen: set[Path]) -> bool:
    real = _real(path)
    return any(file == real or real in file.parents for file in seen)


def _first_problem(found: Scan) -> str:
    path, reason = found.problems[0]
    return f"{path}: {reason}"
