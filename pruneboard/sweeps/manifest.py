"""What a sweep leaves for `pruneboard status`: the list of its runs, in `results/sweeps/<board>.json`.

The list names runs by what their folders are made of, never by a path. How far each is stands in its own folder,
so that a look needs no process to answer, works on another machine of a shared disk, and imports no torch.
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
from pruneboard.sweeps.board_file import NAME as BOARD_NAME

FOLDER = "sweeps"
SCHEMA = 1
_LARGEST = 64 * 2**20
_MOST_JOBS = 10**6


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One run of a sweep, by what its folder is made of (`store.run_folder`)."""

    dataset: str
    model: str
    track: str
    method: str
    sparsity: float | None
    seed: int
    hash: str

    def __post_init__(self) -> None:
        """Refuse null, which a list from elsewhere may have anywhere."""
        for name, value in vars(self).items():
            if value is None and name != "sparsity":
                raise UsageError(f"{name} of a run is null")


@dataclass(frozen=True)
class RunStatus:
    """How far one run is.

    Attributes:
        run: which.
        status: of its record; `running`, `stopped` (a checkpoint is there) or `missing` where there is none.
        epoch: epochs done of a run under way.
        top1: validation top-1 of that epoch, or test top-1 of a finished run.
        seconds: what a finished run took.
        message: why a run failed.
    """

    run: ManifestEntry
    status: str
    epoch: int | None = None
    top1: float | None = None
    seconds: float | None = None
    message: str = ""


def path_of(results: str | Path, board: str) -> Path:
    """Return where the list of a board's runs is."""
    return Path(results) / FOLDER / f"{board}.json"


def write(results: str | Path, board: str, runs: Iterable[ManifestEntry], jobs: int, *, part: bool = False) -> Path:
    """Write the list of a board's runs, and how many are carried out at once.

    Args:
        results: the results folder.
        board: the board's name.
        runs: those of the sweep.
        jobs: how many at once.
        part: they are some of the board's; those of a list that is there stay.

    Raises:
        StoreError: the folder cannot be written.
    """
    if part:
        runs = dict.fromkeys([*_known(path_of(results, board)), *runs])
    content = {"schema": SCHEMA, "board": board, "jobs": jobs, "runs": [asdict(run) for run in runs]}
    return store.write_atomic(path_of(results, board), (json.dumps(content, indent=1) + "\n").encode())


def _known(path: Path) -> list[ManifestEntry]:
    try:
        return read(path)[2]
    except PruneboardError:
        return []


def read(path: Path) -> tuple[str, int, list[ManifestEntry]]:
    """Return the board's name, how many runs are carried out at once, and the runs.

    Raises:
        NotFoundError: there is no such file.
        StoreError: it is no list of runs.
    """
    try:
        return _parsed(json.loads(store.read_bytes(path, _LARGEST).decode()))
    except FileNotFoundError:
        raise NotFoundError(f"no sweep at {path}: start one with `pruneboard sweep BOARD`") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {why(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise StoreError(f"{path} is no list of runs: {str(error)[:300]}") from None


def _parsed(content: Any) -> tuple[str, int, list[ManifestEntry]]:
    schema, jobs = content["schema"], content["jobs"]
    if schema != SCHEMA:
        raise StoreError(f"its schema is {schema!r}, and this pruneboard reads {SCHEMA}")
    if not (type(jobs) is int and 1 <= jobs <= _MOST_JOBS):
        raise StoreError(f"jobs is a number of 1 or more; found {jobs!r:.50}")
    return str(content["board"]), jobs, [build_dataclass(ManifestEntry, run, "a run") for run in content["runs"]]


def found_in(results: str | Path) -> list[Path]:
    """Return the lists of runs in a results folder: the files that have a board's name."""
    return sorted(path for path in (Path(results) / FOLDER).glob("*.json") if re.fullmatch(BOARD_NAME, path.stem))


def standing(results: str | Path, run: ManifestEntry) -> RunStatus:
    """Look into a run's folder."""
    folder = store.run_folder(results, **asdict(run))
    try:
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


def counts(standings: Iterable[RunStatus]) -> dict[str, int]:
    """Return status -> number of runs."""
    return dict(sorted(Counter(item.status for item in standings).items()))


def seconds_left(standings: Iterable[RunStatus], jobs: int) -> float | None:
    """Return about how long the rest takes with `jobs` runs at once; None before the first run is done.

    A run is taken to last as long as the finished ones of its method and track do, or of all where there is none.
    """
    items = list(standings)
    taken: dict[tuple[str, str], list[float]] = {}
    for item in items:
        if item.seconds is not None:
            taken.setdefault((item.run.method, item.run.track), []).append(item.seconds)
    every = [seconds for of_one in taken.values() for seconds in of_one]
    if not every:
        return None
    left = [item.run for item in items if item.status in ("missing", "running", "stopped", "interrupted")]
    return sum(_mean(taken.get((run.method, run.track), every)) for run in left) / max(1, jobs)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _last_epoch(folder: Path) -> dict[str, Any]:
    try:
        text = store.read_bytes(folder / runfolder.METRICS, _LARGEST).decode(errors="replace")
        row = json.loads(text.splitlines()[-1])
        epoch, top1 = row["epoch"], row["validation"]["top1"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    if not (type(epoch) is int and type(top1) in (int, float) and 0 <= top1 <= 1):
        return {}
    return {"epoch": epoch, "top1": float(top1)}


def as_json(board: str, standings: Iterable[RunStatus], left: float | None) -> Mapping[str, Any]:
    """Return a board's standing as plain JSON."""
    items = list(standings)
    return {
        "board": board,
        "counts": counts(items),
        "seconds_left": left,
        "runs": [asdict(item.run) | {k: v for k, v in asdict(item).items() if k != "run"} for item in items],
    }
