"""The results of verifying runs, and `verified.json`, the file that a leaderboard reads them from. Imports no torch.

The file identifies a record by the SHA-256 of its `run.json`, so a verdict applies only to the bytes that were
verified. It contains no dates and no paths: equal results of one user give equal bytes.

Anybody can write such a file. Therefore `write` adds a seal to each run, a keyed hash (HMAC-SHA256) of the record's
hash and the verdict. The key is random, one per user, and lies outside all results folders (`key_path`). `read_own`
accepts only verdicts with the seal of this user; all others are `CLAIMED`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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

CLAIMED = "claimed"
"""Shown instead of a verdict that this user's `pruneboard verify` did not write."""

KEY = "verification.key"
_KEY_BYTES = 32

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


def dumps(findings: Iterable[RunVerification], key: bytes | None = None) -> str:
    """Return the text of `verified.json`, with the runs in the order of their hashes.

    Copies of a `run.json` may have different files next to them, and hence different verdicts. A disputed copy
    counts; otherwise the copy with the best verdict does.

    Args:
        findings: the results.
        key: this user's key, with which the runs are sealed; None for no seals.
    """
    best: dict[str, RunVerification] = {}
    for finding in findings:
        if finding.sha256 is not None:
            other = best.get(finding.sha256, finding)
            best[finding.sha256] = min(finding, other, key=_rank)
    runs = [best[sha256].as_dict() for sha256 in sorted(best)]
    if key is not None:
        runs = [run | {"seal": _seal(key, run)} for run in runs]
    return json.dumps({"schema": SCHEMA, "runs": runs}, indent=1, sort_keys=True) + "\n"


def write(findings: Iterable[RunVerification], folder: Path) -> Path:
    """Write `verified.json` atomically into `folder`, with this user's seals if there is a key, and return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    return store.write_atomic(folder / FILE, dumps(findings, user_key(create=True)).encode())


def read(path: Path) -> Mapping[str, Verdict]:
    """Read a `verified.json`, which is untrusted, and return SHA-256 of a `run.json` -> verdict.

    Args:
        path: path of the file; if it does not exist, the result is empty.

    Raises:
        StoreError: the file cannot be read, is too large, or is not a `verified.json`.
    """
    return {run["sha256"]: run["verdict"] for run in _read_runs(path)}


def read_own(path: Path) -> Mapping[str, str]:
    """Read a `verified.json` like `read`, but return `CLAIMED` for every verdict without the seal of this user."""
    key = user_key()
    return {run["sha256"]: run["verdict"] if key and _is_sealed(key, run) else CLAIMED for run in _read_runs(path)}


def key_path() -> Path | None:
    """Return the path of this user's key, `verification.key` in `$XDG_STATE_HOME/pruneboard`.

    The default of `$XDG_STATE_HOME` is `~/.local/state`. None if there is neither this variable nor a home folder.
    Relative paths do not count, because they could lie in a folder from somebody else.
    """
    try:
        home = Path.home() if os.environ.get("HOME") != "" else Path()  # Path.home() would return the root folder
    except RuntimeError:  # neither $HOME nor an entry for this user
        home = Path()
    folders = (Path(os.environ.get("XDG_STATE_HOME", "")), home / ".local" / "state")
    return next((folder / "pruneboard" / KEY for folder in folders if folder.is_absolute()), None)


def user_key(*, create: bool = False) -> bytes | None:
    """Return this user's key; None if there is none, or if it cannot be read or is damaged.

    Args:
        create: create the key if it does not exist.
    """
    path = key_path()
    if path is None:
        return None
    try:
        if create and not os.path.lexists(path):
            _create_key(path)
        key = store.read_bytes(path, _KEY_BYTES)
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _create_key(path: Path) -> None:
    """Write a new key, which only this user can read; if another process was faster, keep its key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))


def _seal(key: bytes, run: Mapping[str, Any]) -> str:
    return hmac.new(key, f"{run['sha256']} {run['verdict']}".encode(), hashlib.sha256).hexdigest()


def _is_sealed(key: bytes, run: Mapping[str, Any]) -> bool:
    seal = run.get("seal")
    return isinstance(seal, str) and hmac.compare_digest(seal.encode("utf-8", "replace"), _seal(key, run).encode())


def _read_runs(path: Path) -> list[dict[str, Any]]:
    try:
        data = store.parse_json(store.read_bytes(path, LARGEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {why(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {str(error)[:200]}; write it again with `pruneboard verify`") from None
    runs = data.get("runs") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise StoreError(f"{path} is not a {FILE} of this version: write it again with `pruneboard verify`")
    return runs


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
