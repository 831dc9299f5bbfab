"""The results of verifying runs, and `verified.json`, the file that a leaderboard reads them from. Imports no torch.

The file identifies a record by the SHA-256 of its `run.json`, so a verdict applies only to the bytes that were
verified. It contains no dates and no paths: equal results give equal bytes.
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
"""Maximum size of a `verified.json` in bytes; a run takes about 1 KB."""

Verdict = Literal["certified", "spot-checked", "record-only", "disputed"]
VERDICTS: tuple[Verdict, ...] = ("certified", "spot-checked", "record-only", "disputed")
"""All verdicts, the best first; docs/verify.md defines them."""

Status = Literal["ok", "failed", "skipped"]

SHOWN = 4
"""Number of problems that the note of a check lists."""


@dataclass(frozen=True)
class RunCheck:
    """The result of one check of a run.

    Attributes:
        name: `<level>.<check>`, such as `weights.hash`.
        status: `ok` or `failed`; `skipped` if the check was not possible.
        note: for a failed check, what was found and what the record says; for a skipped one, the reason. It may
            contain text from the record.
    """

    name: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class RunVerification:
    """The result of verifying one `run.json`.

    Attributes:
        path: path of the file.
        sha256: SHA-256 of its bytes; None if it could not be read.
        verdict: one of `VERDICTS`.
        checks: all checks, in the order in which they were made.
    """

    path: Path
    sha256: str | None
    verdict: Verdict
    checks: tuple[RunCheck, ...]

    def of(self, status: Status) -> list[RunCheck]:
        """Return the checks with one status."""
        return [check for check in self.checks if check.status == status]

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of `verified.json`, which does not contain the path."""
        return {
            "sha256": self.sha256,
            "verdict": self.verdict,
            "checks": {check.name: check.status for check in self.checks},
            "notes": {check.name: check.note for check in self.checks if check.note},
        }


def make_check(name: str, problems: Iterable[str]) -> RunCheck:
    """Return a check that is `ok` if there is no problem, and otherwise has the first few problems as its note."""
    found = list(problems)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return RunCheck(name, "failed" if found else "ok", "; ".join(found[:SHOWN] + more))


def dumps(findings: Iterable[RunVerification]) -> str:
    """Return the text of `verified.json`, with the runs in the order of their hashes.

    Copies of a `run.json` may have different files next to them, and hence different verdicts. A disputed copy
    counts; otherwise the copy with the best verdict does.
    """
    best: dict[str, RunVerification] = {}
    for finding in findings:
        if finding.sha256 is not None:
            other = best.get(finding.sha256, finding)
            best[finding.sha256] = min(finding, other, key=_rank)
    runs = [best[sha256].as_dict() for sha256 in sorted(best)]
    return json.dumps({"schema": SCHEMA, "runs": runs}, indent=1, sort_keys=True) + "\n"


def write(findings: Iterable[RunVerification], folder: Path) -> Path:
    """Write `verified.json` atomically into `folder`, and return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    return store.write_atomic(folder / FILE, dumps(findings).encode())


def read(path: Path) -> Mapping[str, Verdict]:
    """Read a `verified.json`, which is untrusted, and return SHA-256 of a `run.json` -> verdict.

    Args:
        path: path of the file; if it does not exist, the result is empty.

    Raises:
        StoreError: the file cannot be read, is too large, or is not a `verified.json`.
    """
    try:
        data = json.loads(store.read_bytes(path, LARGEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {why(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {str(error)[:200]}; write it again with `pruneboard verify`") from None
    runs = data.get("runs") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise StoreError(f"{path} is not a {FILE} of this version: write it again with `pruneboard verify`")
    return {run["sha256"]: run["verdict"] for run in runs}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a `run.json` in hexadecimal; `verified.json` identifies the record by it.

    Raises:
        OSError: the file cannot be read, or is too large for a record.
    """
    return hashlib.sha256(store.read_bytes(path, store.LARGEST_FILE)).hexdigest()


def count_verdicts(findings: Sequence[RunVerification]) -> dict[Verdict, int]:
    """Return verdict -> number of runs."""
    return {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}


def _rank(finding: RunVerification) -> int:
    return -1 if finding.verdict == "disputed" else VERDICTS.index(finding.verdict)


def _is_run(run: object) -> bool:
    if not isinstance(run, dict) or run.get("verdict") not in VERDICTS:
        return False
    name = run.get("sha256")
    return isinstance(name, str) and len(name) == 64 and set(name) <= set("0123456789abcdef")
