"""`pruneboard compare`: every record below some folders, as leaderboards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pruneboard import report
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.leaderboard import Leaderboard, Published, fail_if, literature, reproduction
from pruneboard.leaderboard.folders import default_output, load
from pruneboard.records import store
from pruneboard.records.schema import format_sparsity
from pruneboard.report.files import FORMATS, write

BREACHED = 1


@click.command("compare")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files; no record in it is read.  [default: leaderboard/ in the first DIR]",
)
@click.option(
    "--format",
    "formats",
    default=",".join(FORMATS),
    show_default=True,
    help="What to write, separated by commas; none writes nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="BOUND",
    help='End with exit code 1 if a row breaches this: "drop > 0.005 at 0.9", "top1 < 90% at 0.95 for METHOD". '
    "May be given several times.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A published results folder: end with exit code 3 unless its rows were measured again and agree.",
)
@click.option(
    "--published",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Draw further published numbers, from a CSV file laid out as the one that comes with pruneboard.",
)
@click.option("--no-published", is_flag=True, help="Draw no published numbers but those of --published.")
def command(
    folders: tuple[Path, ...],
    out: Path | None,
    formats: str,
    *,
    as_json: bool,
    conditions: tuple[str, ...],
    against: Path | None,
    files: tuple[Path, ...],
    no_published: bool,
) -> int:
    """Compare all records below one or more folders of results.

    Rows share a table only if they were trained alike: same model, data, split, recipe and budget. Prints the
    tables and writes the leaderboard.
    """
    bounds = [fail_if.parse(text) for text in conditions]
    chosen = _formats(formats)
    place = out or default_output(folders)
    whole = load(folders, published=_published(files, shipped=not no_published), out=place)
    click.echo(report.json(whole) if as_json else report.terminal(whole), nl=not as_json)
    for path, reason in whole.problems:
        click.echo(report.plain(f"skipped {path}: {reason}", 500), err=True)
    write(whole, place, chosen)
    code = _judge(bounds, whole)
    if against is not None:
        _reproduced(against, folders)
    return code


def _reproduced(against: Path, folders: Sequence[Path]) -> None:
    """Say, on standard error, how far a published board was reproduced.

    Raises:
        ConformanceError: it was not.
    """
    published, again = (store.scan(paths).records for paths in ([against], folders))
    found = reproduction.compare((record for _, record in published), (record for _, record in again))
    for row in found.rows:
        if row.missing:
            click.echo(report.plain(f"not measured again: {row.label}: {row.missing} of {row.n} runs", 500), err=True)
        elif row.outside and row.difference is not None:
            off = f"{100 * row.difference:+.2f} points, {row.outside:.2f} widths outside of its interval"
            click.echo(report.plain(f"differs: {row.label}: {off}", 500), err=True)
    verdict = (
        f"{found.identical} of {found.runs} published runs have the same weights; "
        f"{found.inside:.0%} of {len(found.rows)} rows are within their published intervals"
    )
    if not found.holds:
        raise ConformanceError(
            f"not reproduced: {verdict}; asked are all runs, {reproduction.INSIDE:.0%} of the rows within, "
            f"and none more than {reproduction.FURTHEST:g} widths outside"
        )
    click.echo(f"reproduced: {verdict}", err=True)


def _formats(text: str) -> Sequence[str]:
    names = [name for name in text.replace(" ", "").split(",") if name]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(f"--format is any of {', '.join(FORMATS)}, or none; found {text!r}")
    return [name for name in FORMATS if name in names]


def _published(files: Sequence[Path], *, shipped: bool) -> list[Published]:
    numbers = [*literature.shipped()] if shipped else []
    for file in files:
        numbers += literature.read(file)
    return numbers


def _judge(bounds: Sequence[fail_if.Threshold], whole: Leaderboard) -> int:
    """Say which rows breach which bound, and return the exit code."""
    code = 0
    for bound in bounds:
        for board, row, how in fail_if.breaches(bound, whole.boards):
            code = BREACHED
            where = f"{row.method} at {format_sparsity(row.target)} on {board.dataset}, {board.model}, {board.track}"
            click.echo(report.plain(f"breached: {where}: {how}", 500), err=True)
    return code
