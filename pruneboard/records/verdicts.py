"""What a verification found, and `verified.json`, the file that carries it to a leaderboard. No torch.

The file names a record by the SHA-256 of its `run.json`, byte for byte: a verdict holds for the file that was
looked at, and for no other. It holds no date and no path, so equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruneboard.errors import StoreError, why
from pruneboard.records import store

FILE = "verified.json"
SCHEMA = 1
LARGEST_FILE = 128 * 2**20
"""Bytes; a longer `verified.json` is not read. It takes about 1 KB a run."""

Verdict = Literal["certified", "spot-checked", "record-only", "disputed"]
VERDICTS: tuple[Verdict, ...] = ("certified", "spot-checked", "record-only", "disputed")
"""The best first; what each one says is in docs/verify.md."""

Status = Literal["ok", "failed", "skipped"]

SHOWN = 4
"""Problems that the note of one check names."""


@dataclass(frozen=True)
class RunCheck:
    """One thing that was looked at.

    Attributes:
        name: what it is about, `<level>.<check>`, such as `weights.hash`.
        status: whether it holds; `skipped` where it could not be looked at.
        note: if it failed, what was found and what the record says; if it was skipped, why. It may hold text from
            the record.
    """

    name: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class RunVerification:
    """What was found about one `run.json`.

    Attributes:
        path: of the file.
        sha256: of its bytes; None where it could not be read.
        verdict: one of `VERDICTS`.
        checks: in the order in which they were made.
    """

    path: Path
    sha256: str | None
    verdict: Verdict
    checks: tuple[RunCheck, ...]

    def of(self, status: Status) -> list[RunCheck]:
        """Return the checks of one status."""
        return [check for check in self.checks if check.status == status]

    def as_dict(self) -> dict[str, Any]:
        """Return what `verified.json` says of it, which the path is no part of."""
        return {
            "sha256": self.sha256,
            "verdict": self.verdict,
            "checks": {check.name: check.status for check in self.checks},
            "notes": {check.name: check.note for check in self.checks if check.note},
        }


def make_check(name: str, problems: Iterable[str]) -> RunCheck:
    """Return the check that holds if there is no problem; the first few become its note."""
    found = list(problems)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return RunCheck(name, "failed" if found else "ok", "; ".join(found[:SHOWN] + more))


def dumps(findings: Iterable[RunVerification]) -> str:
    """Return the text of `verified.json`, its runs in the order of their hashes.

    Of several copies of one file a disputed one counts, else the best: what lies beside a copy differs.
    """
    best: dict[str, RunVerification] = {}
    for finding in findings:
        if finding.sha256 is not None:
            other = best.get(finding.sha256, finding)
            best[finding.sha256] = min(finding, other, key=_rank)
    runs = [best[sha256].as_dict() for sha256 in sorted(best)]
    return json.dumps({"schema": SCHEMA, "runs": runs}, indent=1, sort_keys=True) + "\n"


def write(findings: Iterable[RunVerification], folder: Path) -> Path:
    """Write `verified.json` into `folder`, whole or not at all, and return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    return store.write_atomic(folder / FILE, dumps(findings).encode())


def read(path: Path) -> Mapping[str, Verdict]:
    """Return SHA-256 of a `run.json` -> verdict, from a file that anybody may have written.

    Args:
        path: of a `verified.json`; nothing is verified where there is none.

    Raises:
        StoreError: it cannot be read, is too large, or is not such a file.
    """
    try:
        data = json.loads(store.read_bytes(path, LARGEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {why(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {str(error)[:200]}; make it anew with `pruneboard verify`") from None
    runs = data.get("runs") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise StoreError(f"{path} is not a {FILE} of this version: make it anew with `pruneboard verify`")
    return {run["sha256"]: run["verdict"] for run in runs}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a `run.json`, in hexadecimal: what a verdict is kept under.

    Raises:
        OSError: it cannot be read, or is too large for a record.
    """
    return hashlib.sha256(store.read_bytes(path, store.LARGEST_FILE)).hexdigest()


def count_verdicts(findings: Sequence[RunVerification]) -> dict[Verdict, int]:
    """Return how many runs got each verdict."""
    return {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}


def _rank(finding: RunVerification) -> int:
    return -1 if finding.verdict == "disputed" else VERDICTS.index(finding.verdict)


def _is_run(run: object) -> bool:
    if not isinstance(run, dict) or run.get("verdict") not in VERDICTS:
        return False
    name = run.get("sha256")
    return isinstance(name, str) and len(name) == 64 and set(name) <= set("0123456789abcdef")
