"""`pruneboard status`: how far the sweeps of a results folder are."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pruneboard import report
from pruneboard.errors import NotFoundError
from pruneboard.sweeps import manifest
from pruneboard.sweeps.manifest import RunStatus

UNDER_WAY = ("running", "stopped", "interrupted")
FINE = ("done", "missing", *UNDER_WAY)


@click.command("status")
@click.argument("results", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(results: Path, *, as_json: bool) -> None:
    """Say how far the sweeps into DIR are: what is done, what runs, what failed, and about how long is left.

    It looks at the files only, so it works while a sweep runs, from another terminal or another machine.
    """
    found = manifest.found_in(results)
    if not found:
        raise NotFoundError(f"no sweep in {results}: name the --results folder of `pruneboard sweep`")
    documents = []
    for path in found:
        board, jobs, runs = manifest.read(path)
        standings = [manifest.standing(results, run) for run in runs]
        left = manifest.seconds_left(standings, jobs)
        documents.append(manifest.as_json(board, standings, left))
        if not as_json:
            _print(board, standings, left)
    if as_json:
        click.echo(json.dumps(documents, indent=2, sort_keys=True))


def _print(board: str, standings: list[RunStatus], left: float | None) -> None:
    counts = manifest.counts(standings)
    click.echo(f"{report.printable(board, 100)}: {len(standings)} runs")
    for status, count in counts.items():
        click.echo(f"  {status:12}{count}")
    if counts.get("done") == len(standings):
        return
    if left is not None:
        click.echo(f"  about {int(left) // 3600} h {int(left) // 60 % 60} min left at the pace of the finished runs")
    for item in standings:
        if item.status in UNDER_WAY:
            far = "" if item.epoch is None else f": epoch {item.epoch}, validation top-1 {item.top1:.2%}"
            click.echo(f"  {item.status:12}{_name(item)}{far}")
        elif item.status not in FINE:
            click.echo(f"  {item.status:12}{_name(item)}: {report.printable(item.message, 300)}")


def _name(item: RunStatus) -> str:
    run = item.run
    point = "" if run.sparsity is None else f" at {run.sparsity:g}"
    return report.printable(f"{run.method}{point}, {run.model}, {run.track}, seed {run.seed}", 200)
