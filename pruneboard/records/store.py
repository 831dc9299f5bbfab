"""`results/` on disk: the one door to it. Atomic writes, nothing overwritten, tolerant reading.

    results/<dataset>/<model>/<track>/<method>-s<sparsity>-seed<n>-<hash8>/
        run.json            the record; written once, by rename
        metrics.jsonl       one line per epoch
        model.safetensors   the folded weights
        mask.npz            the kept positions, one bit each
        mask.npz            the kept positions, one bit each (`pruneboard.records.mask_file`)
        checkpoints/        what an unfinished run goes on from (`pruneboard.records.runfolder`)
        failures/NN.json    records of earlier attempts that failed
        superseded/NN.json  finished records that a later run replaced with --force

Records are never deleted, and nothing inside a record is ever used as a path.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pruneboard.errors import NotFoundError, PruneboardError, StoreError, why
from pruneboard.records import schema as records
from pruneboard.records.schema import Record

RUN = "run.json"
WEIGHTS = "model.safetensors"
MASK = "mask.npz"
FAILURES = "failures"
SUPERSEDED = "superseded"
LARGEST_FILE = 16 * 2**20
"""Bytes; a longer `run.json` is not read."""


@dataclass
class Scan:
    """What lies below some folders.

    Attributes:
        records: every readable record with its file, sorted by path.
        problems: every file that is no record, with the reason in one line.
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
    """Return the folder of one run; nothing is created, and no name can lead out of `results`.

    Args:
        results: the folder of all runs.
        dataset: name of the data set.
        model: any timm name, `hf-hub:org/name` included.
        track: `prune` or `supermask`.
        method: name of the pruner.
        sparsity: target sparsity; None for a control that prunes nothing.
        seed: the run's integer.
        hash: the run's content hash, of which eight digits are shown.
    """
    point = "" if sparsity is None else f"-s{records.format_sparsity(sparsity)}"
    leaf = f"{method[:100]}{point}-seed{seed}-{hash[:8]}"
    return Path(results, *(_component(name) for name in (dataset, model, track, leaf)))


def folder_of(results: str | Path, record: Record) -> Path:
    """Return the folder below `results` that a record belongs to, by its own fields and never by where it was found."""
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


def check_writable(results: str | Path) -> None:
    """Try to write where `results` is or would be made, and leave nothing behind.

    Trying is the only honest test: permission bits say nothing to root or of a read-only mount.

    Raises:
        StoreError: a folder that cannot be written, or a file in the way.
    """
    place = Path(results)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is not a folder")
        with tempfile.TemporaryDirectory(prefix=".pruneboard-", dir=place):
            pass
    except OSError as error:
        raise StoreError(f"cannot write results to {results}: {why(error)}; choose another --results") from None


def finished(folder: Path, hash: str) -> Record | None:  # noqa: A002 - the record's own name for it
    """Return the finished record in `folder` if it is of this very run: all 64 digits of the hash agree."""
    try:
        found = read(folder / RUN)
    except (StoreError, NotFoundError):
        return None
    return found if found["status"] == "done" and found["hash"] == hash else None


def put(folder: Path, record: Record) -> Path:
    """Write `record` as `folder/run.json`, whole or not at all, and return that path.

    Only the record of an interruption is replaced: by what came of the same run once it went on.

    Raises:
        StoreError: the record breaks the schema, another record is already there, or the disk refuses.
    """
    text = records.dumps(records.validate(record))
    path = folder / RUN
    if os.path.lexists(path) and status(path) != "interrupted":
        raise StoreError(f"{path} is already there: a record is never overwritten")
    return write_atomic(path, text.encode())


def write_atomic(path: Path, data: bytes) -> Path:
    """Write `data` to `path`; see `replace`."""
    return replace(path, lambda part: part.write_bytes(data))


def replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make the file at `path`, so that a reader, or a crash, sees the old one or the new, never a part.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes the whole content to the path it is given.

    Raises:
        StoreError: the disk refuses; the temporary file is gone.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(part)
            _sync(part)
            os.replace(part, path)  # noqa: PTH105 - the one call that must be atomic, by its own name
        finally:
            part.unlink(missing_ok=True)
        _sync(path.parent)  # the rename itself is durable only once the folder is
    except OSError as error:
        raise StoreError(f"cannot write {path}: {why(error)}") from None
    return path


def status(path: Path) -> str | None:
    """Return the status of the record at `path`; None where there is no readable one."""
    try:
        return str(read(path)["status"])
    except PruneboardError:
        return None


def read(path: Path) -> Record:
    """Read one record from a file that anybody may have written.

    Raises:
        NotFoundError: there is no such file.
        StoreError: it is too large, not JSON, or not a record; the message does not repeat `path`.
    """
    try:
        text = read_bytes(path, LARGEST_FILE).decode()
        return records.validate(json.loads(text, parse_constant=_refuse, parse_float=_finite))
    except FileNotFoundError:
        raise NotFoundError(f"no record at {path}: name a run folder or its {RUN}") from None
    except OSError as error:
        raise StoreError(f"cannot be read: {why(error)}") from None
    except RecursionError:
        raise StoreError("is not a record: it nests too deep") from None
    except ValueError as error:  # bad UTF-8 and bad JSON are both of this kind
        raise StoreError(f"is not JSON: {error}") from None


def read_bytes(path: Path, largest: int) -> bytes:
    """Return the content of a regular file of at most `largest` bytes.

    Raises:
        OSError: there is no such file, it is something else, it is larger, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")  # a pipe would block for ever
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError(f"it is larger than {_size(largest)}")
    return data


def scan(paths: Iterable[str | Path], *, without: Path | None = None) -> Scan:
    """Find every record below `paths`, as `scan_all`, and at least one.

    Raises:
        NotFoundError: a path that does not exist, or below which there is no record.
    """
    found = scan_all(paths, without=without)
    if not found.records:
        raise NotFoundError(f"no usable record: {len(found.problems)} skipped, the first because {_first(found)}")
    return found


def scan_all(paths: Iterable[str | Path], *, without: Path | None = None) -> Scan:
    """Find every record below `paths`, each file once; links to folders are not followed.

    Args:
        paths: results folders, run folders, or `run.json` files.
        without: a folder that is passed over.

    Raises:
        NotFoundError: a path that does not exist, or below which there is no file of a record, good or bad.
    """
    found = Scan()
    seen: set[Path] = set()
    avoided = _real(without) if without else None
    for path in map(Path, paths):
        before = len(seen) + len(found.problems)
        for file in _run_files(path, found, avoided):
            if (real := _real(file)) not in seen:
                seen.add(real)
                _take(file, found)
        if len(seen) + len(found.problems) == before and not _overlaps(path, seen):
            raise NotFoundError(f"no record below {path}: no {RUN} there; make one with `pruneboard run`")
    found.records.sort(key=lambda item: item[0])
    return found


def _component(name: str) -> str:
    # One path component: no separator, not hidden, not `..`, never the name of a folder with a meaning.
    clean = re.sub(r"[^A-Za-z0-9._+=-]+", "-", name).lstrip(".-")[:160]
    return f"_{clean}" if clean in ("", FAILURES, SUPERSEDED) else clean


def numbered_records(shelf: Path) -> list[Path]:
    """Return the records on a shelf, `NN.json`."""
    return [file for file in shelf.glob("*.json") if re.fullmatch(r"[0-9]{1,9}", file.stem)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count} bytes"


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large for a number")
    return number


def _run_files(path: Path, found: Scan, avoided: Path | None) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise NotFoundError(f"no such folder: {path}; name a results folder or a run folder")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None

    def skip(error: OSError) -> None:
        found.problems.append((Path(error.filename), f"cannot be read: {why(error)}"))

    files = []
    for folder, below, names in os.walk(path, onerror=skip):
        _count_shelves(Path(folder), below, found)
        kept = sorted(set(below) - {FAILURES, SUPERSEDED})
        below[:] = [name for name in kept if avoided is None or _real(Path(folder, name)) != avoided]
        files += [Path(folder, RUN)] if RUN in names else []
    return files


def _count_shelves(folder: Path, below: list[str], found: Scan) -> None:
    for name, counts in ((FAILURES, found.failures), (SUPERSEDED, found.superseded)):
        if name in below:
            counts[folder] = len(numbered_records(folder / name))


def _take(file: Path, found: Scan) -> None:
    try:
        found.records.append((file, read(file)))
    except PruneboardError as error:
        found.problems.append((file, str(error)))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on a loop of links; this does not


def _overlaps(path: Path, seen: set[Path]) -> bool:
    real = _real(path)
    return any(file == real or real in file.parents for file in seen)


def _first(found: Scan) -> str:
    path, reason = found.problems[0]
    return f"{path} {reason}"
