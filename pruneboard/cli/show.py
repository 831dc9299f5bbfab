"""`pruneboard show`: prints one record on one page."""

from __future__ import annotations

from pathlib import Path

import click

from pruneboard import report
from pruneboard.errors import NotFoundError, StoreError
from pruneboard.records import schema as records
from pruneboard.records import store


@click.command("show")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the record itself.")
def command(run: Path, *, as_json: bool) -> None:
    """Show one run, given by its folder or its run.json."""
    record = _read(run)
    if as_json:
        click.echo(records.dumps(record), nl=False)
    else:
        click.echo(report.render(report.summary(record)))


def _read(run: Path) -> records.Record:
    path = store.inside(run / store.RUN, run) if run.is_dir() else run
    try:
        return store.read(path)
    except NotFoundError as error:
        hint = f"; `pruneboard compare {run}` reads a folder of many runs" if run.is_dir() else ""
        raise NotFoundError(f"{error}{hint}") from None
    except StoreError as error:
        raise StoreError(report.printable(f"{path}: {error}", 500)) from None
