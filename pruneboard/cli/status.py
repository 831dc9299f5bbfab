"""`pruneboard status`: progress of the sweeps in a results folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pruneboard import report
from pruneboard.errors import NotFoundError
from pruneboard.sweeps import manifest
from pruneboard.sweeps.manifest import RunStatus

UNFINISHED = ("running", "stopped", "interrupted")
"""Statuses of runs that are listed with their last epoch."""

NOT_LISTED = ("done", "missing")
"""Statuses of runs that are only counted."""


@click.command("status")
@click.argument("results", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(results: Path, *, as_json: bool) -> None:
    """Show the progress of the sweeps in DIR: finished, active and failed runs, and the estimated remaining time.

    The command only reads files, so it works while a sweep runs, from another terminal or another machine.
    """
    paths = manifest.find_manifests(results)
    if not paths:
        raise NotFoundError(f"no sweep in {results}: pass the --results folder of `pruneboard sweep`")
    documents = []
    for path in paths:
        board, jobs, runs = manifest.read(path)
        statuses = [manifest.run_status(results, run) for run in runs]
        left = manifest.seconds_left(statuses, jobs)
        documents.append(manifest.as_json(board, statuses, left))
        if not as_json:
            _print(board, statuses, left)
    if as_json:
        click.echo(json.dumps(documents, indent=2, sort_keys=True))


def _print(board: str, statuses: list[RunStatus], left: float | None) -> None:
    counts = manifest.counts(statuses)
    click.echo(f"{report.printable(board, 100)}: {len(statuses)} runs")
    for status, count in counts.items():
        click.echo(f"  {status:12}{count}")
    if counts.get("done") == len(statuses):
        return
    if left is not None:
        click.echo(f"  about {int(left) // 3600} h {int(left) // 60 % 60} min left at the pace of the finished runs")
    for item in statuses:
        if item.status in UNFINISHED:
            epoch = "" if item.epoch is None else f": epoch {item.epoch}, validation top-1 {item.top1:.2%}"
            click.echo(f"  {item.status:12}{_label(item)}{epoch}")
        elif item.status not in NOT_LISTED:
            click.echo(f"  {item.status:12}{_label(item)}: {report.printable(item.message, 300)}")


def _label(item: RunStatus) -> str:
    run = item.run
    point = "" if run.sparsity is None else f" at {run.sparsity:g}"
    return report.printable(f"{run.method}{point}, {run.model}, {run.track}, seed {run.seed}", 200)
