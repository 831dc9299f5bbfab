"""What a command reports if the process that carries it out is lost; see `pruneboard.processes.guardian`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from pruneboard.errors import ConformanceError, PruneboardError, RunError
from pruneboard.processes.guardian import Loss
from pruneboard.records import provenance, runfolder, store


def lost_run(loss: Loss, arguments: Sequence[str]) -> int:
    """Store the record of the attempt that was under way, and return the exit code of a failed run."""
    attempts = [note for note in loss.notes if note["kind"].startswith("attempt")]
    message = f"the process {loss.reason} before the run was over: did the method end it, or the system?"
    click.echo(f"error: {message}", err=True)
    if attempts and attempts[-1]["kind"] == "attempt":
        record = attempts[-1]["record"]
        record["error"]["message"] = message
        record["lifecycle"]["ended"] = provenance.now()
        _store(Path(attempts[-1]["folder"]), record)
        if "--json" in arguments:
            click.echo(json.dumps(record, indent=2, sort_keys=True))
    return RunError.exit_code


def _store(folder: Path, record: dict[str, Any]) -> None:
    try:
        with runfolder.locked(folder):
            if store.status(folder / store.RUN) in (None, "interrupted"):
                store.put(folder, record)
    except PruneboardError as error:
        click.echo(f"error: the record of this failure could not be written either: {error}", err=True)


def lost_check(loss: Loss, arguments: Sequence[str]) -> int:
    """Report the check that was under way as failed, and return the exit code of a failed check."""
    started = [note["result"] for note in loss.notes if note["kind"] == "check started"]
    done = [note["result"] for note in loss.notes if note["kind"] == "check done"]
    message = f"the process {loss.reason}: a method may not end it; the remaining checks did not run"
    lost = {**started[-1], "outcome": "failed", "message": message} if len(started) > len(done) else None
    results = [*done, *([lost] if lost else [])]
    if "--json" in arguments:
        head: dict[str, Any] = next((note["head"] for note in loss.notes if note["kind"] == "check head"), {})
        counts = Counter(result["outcome"] for result in results)
        click.echo(json.dumps({**head, "counts": counts, "checks": results}, indent=2))
    elif lost:
        click.echo(f"{lost['tier']:7} {lost['check']:40} FAILED")
        click.echo(f"        found: {message}\n        rule:  {lost['rule']}")
    which = f"{lost['check']}: " if lost else ""
    click.echo(f"error: {which}{message}", err=True)
    return ConformanceError.exit_code


HANDLERS: dict[str, Callable[[Loss, Sequence[str]], int]] = {"run": lost_run, "check": lost_check}
"""Command that executes a method in its own process -> the function that reports the loss of that process."""
