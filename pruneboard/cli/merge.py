"""`pruneboard merge`: combine several results folders into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import click

from pruneboard import report
from pruneboard.errors import StoreError
from pruneboard.records import merging

SHOWN = 20
"""Number of conflicts that are printed. The rest is only counted; the JSON document contains all."""

_COUNTED = {
    "copied": "copied",
    "upgraded": "upgraded",
    "already_there": "already there",
    "completed": "missing files added",
    "failures_kept": "failures kept",
    "superseded_kept": "superseded kept",
    "cut_files": "files cut",
    "skipped_files": "files skipped",
}
_ALWAYS = ("copied", "upgraded", "already_there")


@click.command("merge")
@click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--into",
    metavar="DEST",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The results folder to copy all runs into; it is created if it does not exist.",
)
@click.option("--no-weights", is_flag=True, help="Do not copy model.safetensors.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(sources: tuple[Path, ...], into: Path, *, no_weights: bool, dry_run: bool, as_json: bool) -> None:
    """Copy the runs of other results folders into one.

    A finished record replaces an unfinished one, and failures are kept. Two finished records of one run with different
    measurements are a conflict: all conflicts are listed, and nothing is copied.
    """
    plan = merging.plan_merge(sources, into, weights=not no_weights)
    summary = plan.summary()
    for path, reason in plan.skipped:
        click.echo(report.printable(f"skipped {path}: {reason}", 500), err=True)
    for path, reason in plan.cut:
        click.echo(report.printable(f"cut {path}: {reason}", 500), err=True)
    if plan.conflicts:
        _refuse(plan, summary, as_json=as_json)
    if not dry_run:
        merging.execute(plan)
    elif not as_json:
        _print_plan(summary)
    click.echo(_json(summary) if as_json else _counts(summary, dry_run=dry_run))


def _refuse(plan: merging.MergePlan, summary: dict[str, list[Any]], *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(_json(summary))
    for conflict in () if as_json else plan.conflicts[:SHOWN]:
        click.echo(report.printable(f"conflict: {conflict.path}: {conflict.reason}", 1000), err=True)
    count = len(plan.conflicts)
    more = f" ({count - SHOWN} more than are shown; --json lists all)" if count > SHOWN and not as_json else ""
    raise StoreError(f"{count} conflict{'s' * (count != 1)}{more}: nothing was copied into {plan.into}")


def _print_plan(summary: dict[str, list[Any]]) -> None:
    for name in (name for name in _COUNTED if name not in ("already_there", "cut_files", "skipped_files")):
        for path in summary[name]:
            click.echo(report.printable(f"{_COUNTED[name]:20}{path}", 500))


def _counts(summary: dict[str, list[Any]], *, dry_run: bool) -> str:
    shown = [f"{len(summary[name])} {noun}" for name, noun in _COUNTED.items() if name in _ALWAYS or summary[name]]
    return f"{', '.join(shown)}{' (dry run: nothing was written)' if dry_run else ''}"


def _json(summary: dict[str, list[Any]]) -> str:
    return json.dumps(summary, indent=2, sort_keys=True)
