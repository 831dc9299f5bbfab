"""The manifest of a sweep: the list of its runs in `results/sweeps/<board>.json`, which `pruneboard status` reads.

A manifest identifies each run by the parts of its folder's path, never by the path itself. The status of a run is read
from its folder. Therefore `status` needs no running process, works on any machine with the same disk, and imports no
torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneboard.coerce import build_dataclass
from pruneboard.errors import NotFoundError, PruneboardError, StoreError, UsageError, why
from pruneboard.records import runfolder, store
from pruneboard.records.schema import lookup
from pruneboard.sweeps.board_file import NAME_PATTERN

FOLDER = "sweeps"
SCHEMA = 1
_MAX_BYTES = 64 * 2**20
_MAX_JOBS = 10**6


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One run of a sweep, identified by the arguments of `store.run_folder`."""

    dataset: str
    model: str
    track: str
    method: str
    sparsity: float | None
    seed: int
    hash: str

    def __post_init__(self) -> None:
        """Refuse null: a damaged or foreign manifest may contain it in any field."""
        for name, value in vars(self).items():
            if value is None and name != "sparsity":
                raise UsageError(f"{name} of a run must not be null")


@dataclass(frozen=True)
class RunStatus:
    """Status of one run.

    Attributes:
        run: the run.
        status: status of its record; without a record `running`, `stopped` (a checkpoint exists) or `missing`;
            `unreadable` for a damaged record.
        epoch: finished epochs of a run without a record.
        top1: validation top-1 after that epoch, or test top-1 of a finished run, in [0, 1].
        seconds: wall time of a finished run.
        message: why a run failed.
    """

    run: ManifestEntry
    status: str
    epoch: int | None = None
    top1: float | None = None
    seconds: float | None = None
    message: str = ""


def manifest_path(results: str | Path, board: str) -> Path:
    """Return the path of a board's manifest.

    Raises:
        StoreError: a symbolic link leads it out of `results`.
    """
    return store.inside(Path(results) / FOLDER / f"{board}.json", results)


def write(results: str | Path, board: str, runs: Iterable[ManifestEntry], jobs: int, *, part: bool = False) -> Path:
    """Write a manifest and return its path.

    Args:
        results: the results folder.
        board: name of the board.
        runs: runs of the sweep.
        jobs: number of parallel runs.
        part: `runs` is only a part of the board: keep the runs of an existing manifest.

    Raises:
        StoreError: the folder cannot be written.
    """
    if part:
        runs = dict.fromkeys([*_existing_runs(manifest_path(results, board)), *runs])
    content = {"schema": SCHEMA, "board": board, "jobs": jobs, "runs": [asdict(run) for run in runs]}
    return store.write_atomic(manifest_path(results, board), (json.dumps(content, indent=1) + "\n").encode())


def _existing_runs(path: Path) -> list[ManifestEntry]:
    try:
        return read(path)[2]
    except PruneboardError:
        return []


def read(path: Path) -> tuple[str, int, list[ManifestEntry]]:
    """Return the name of the board, the number of parallel runs, and the runs.

    Raises:
        NotFoundError: the file does not exist.
        StoreError: the file is not a valid manifest.
    """
    try:
        return _parse(store.parse_json(store.read_bytes(path, _MAX_BYTES)))
    except FileNotFoundError:
        raise NotFoundError(f"no sweep at {path}: start one with `pruneboard sweep BOARD.toml`") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise StoreError(f"{path} is not a valid sweep manifest: {str(error)[:300]}") from None


def _parse(content: Any) -> tuple[str, int, list[ManifestEntry]]:
    schema, jobs = content["schema"], content["jobs"]
    if schema != SCHEMA:
        raise StoreError(f"its schema is {schema!r}, but this pruneboard reads {SCHEMA}")
    if not (type(jobs) is int and 1 <= jobs <= _MAX_JOBS):
        raise StoreError(f"jobs must be a whole number of 1 or more; found {jobs!r:.50}")
    return str(content["board"]), jobs, [build_dataclass(ManifestEntry, run, "a run") for run in content["runs"]]


def find_manifests(results: str | Path) -> list[Path]:
    """Return the manifests in a results folder: the JSON files whose name is a valid board name."""
    found = store.inside(Path(results) / FOLDER, results).glob("*.json")
    return sorted(
        path for path in found if re.fullmatch(NAME_PATTERN, path.stem) and not store.leads_out(path, results)
    )


def run_status(results: str | Path, run: ManifestEntry) -> RunStatus:
    """Read the status of a run from its folder."""
    try:
        folder = store.run_folder(results, **asdict(run))
        store.check_links(folder)
        record = store.read(folder / store.RUN)
    except NotFoundError:
        record = {}
    except StoreError as error:
        return RunStatus(run, "unreadable", message=str(error))
    status = record.get("status", "missing")
    if status == "done":
        top1, seconds = lookup(record, "metrics.test.top1"), lookup(record, "cost.wall_seconds")
        return RunStatus(run, status, top1=top1, seconds=seconds)
    if runfolder.is_locked(folder):
        return RunStatus(run, "running", **_last_epoch(folder))
    if status == "missing" and runfolder.checkpoints(folder):
        return RunStatus(run, "stopped", **_last_epoch(folder))
    return RunStatus(run, status, message=str(lookup(record, "error.message") or ""))


def counts(statuses: Iterable[RunStatus]) -> dict[str, int]:
    """Return status -> number of runs."""
    return dict(sorted(Counter(item.status for item in statuses).items()))


def seconds_left(statuses: Iterable[RunStatus], jobs: int) -> float | None:
    """Estimate the remaining seconds with `jobs` parallel runs; None until one run is done.

    Every unfinished run counts with the mean time of the finished runs of its method and track, or of all finished runs
    if its method and track have none.
    """
    items = list(statuses)
    times: dict[tuple[str, str], list[float]] = {}
    for item in items:
        if item.seconds is not None:
            times.setdefault((item.run.method, item.run.track), []).append(item.seconds)
    all_times = [seconds for group in times.values() for seconds in group]
    if not all_times:
        return None
    left = [item.run for item in items if item.status in ("missing", "running", "stopped", "interrupted")]
    return sum(_mean(times.get((run.method, run.track), all_times)) for run in left) / max(1, jobs)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _last_epoch(folder: Path) -> dict[str, Any]:
    """Return `epoch` and `top1` from the last line of `metrics.jsonl`; empty if that line is missing or damaged."""
    try:
        data = store.read_bytes(folder / runfolder.METRICS, _MAX_BYTES)
        row = store.parse_json(data.rstrip().rpartition(b"\n")[2])
        epoch, top1 = row["epoch"], row["validation"]["top1"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    if not (type(epoch) is int and type(top1) in (int, float) and 0 <= top1 <= 1):
        return {}
    return {"epoch": epoch, "top1": float(top1)}


def as_json(board: str, statuses: Iterable[RunStatus], left: float | None) -> Mapping[str, Any]:
    """Return the document that `pruneboard status --json` prints for a board."""
    items = list(statuses)
    return {
        "board": board,
        "counts": counts(items),
        "seconds_left": left,
        "runs": [asdict(item.run) | {k: v for k, v in asdict(item).items() if k != "run"} for item in items],
    }
