"""`pruneboard compare`: every record below some folders, as leaderboards."""

from __future__ import annotations

from pathlib import Path

import click

from pruneboard import boards, report


@click.command("compare")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for leaderboard.md, .csv and .json.  [default: leaderboard/ in the first DIR]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def command(folders: tuple[Path, ...], out: Path | None, *, as_json: bool) -> None:
    """Compare all records below one or more folders of results.

    Rows share a table only if they were trained alike: same model, data, split, recipe and budget. Prints the
    tables and writes them as Markdown, CSV and JSON.
    """
    tables, found = boards.load(folders)
    click.echo(report.json(tables) if as_json else report.terminal(tables), nl=not as_json)
    for path, reason in found.problems:
        click.echo(report.plain(f"skipped {path}: {reason}", 500), err=True)
    first = folders[0] if folders[0].is_dir() else folders[0].parent
    boards.write(tables, out or first / "leaderboard")
