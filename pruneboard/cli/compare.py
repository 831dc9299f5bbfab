"""`pruneboard compare`: builds the leaderboard of all records below some folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pruneboard import report
from pruneboard.cli import limits
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.leaderboard import Leaderboard, Published, fail_if, literature, reproduction
from pruneboard.leaderboard.folders import default_output, load
from pruneboard.leaderboard.names import method_name
from pruneboard.records import store
from pruneboard.records.schema import format_sparsity
from pruneboard.report.files import FORMATS, write_leaderboard

CONDITION_HOLDS = 1
"""Exit code if a condition of --fail-if holds."""


@click.command("compare")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files. Records in it are ignored.  [default: leaderboard/ in the first DIR]",
)
@click.option(
    "--format",
    "formats",
    default=",".join(FORMATS),
    show_default=True,
    help="Formats to write, separated by commas; none writes no files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help='Exit with 1 if this holds for any row: "drop > 0.005 at 0.9", "top1 < 90% at 0.95 for METHOD". '
    "Can be repeated.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A published results folder. Exit with 3 unless all its runs were repeated and the rows agree.",
)
@click.option(
    "--published",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Draw published numbers of this CSV file, with the same columns as the included one. Can be repeated.",
)
@click.option("--no-published", is_flag=True, help="Leave out the published numbers that come with pruneboard.")
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
    """Compare all records below one or more results folders.

    Runs share a table only if they were trained in the same way: same model, data, split, recipe and budget. Prints
    the tables and writes the leaderboard to files.
    """
    parsed = [fail_if.parse(text) for text in conditions]
    chosen = _formats(formats)
    if set(chosen) & set(limits.DRAWN):
        limits.check_memory(limits.CHARTS, "raise it, or pass --format md,tex,csv,json")
    target = out or default_output(folders)
    leaderboard = load(folders, published=_published(files, included=not no_published), out=target)
    click.echo(report.json(leaderboard) if as_json else report.terminal(leaderboard), nl=not as_json)
    for path, reason in leaderboard.problems:
        click.echo(report.printable(f"skipped {path}: {reason}", 500), err=True)
    write_leaderboard(leaderboard, target, chosen)
    code = _check_conditions(parsed, leaderboard)
    if against is not None:
        _check_reproduction(against, folders)
    return code


def _check_reproduction(against: Path, folders: Sequence[Path]) -> None:
    """Compare the runs with a published results folder and print the result to standard error.

    Raises:
        ConformanceError: the published board was not reproduced.
    """
    published, repeated = (store.scan(paths).records for paths in ([against], folders))
    found = reproduction.compare_records((record for _, record in published), (record for _, record in repeated))
    for row in found.rows:
        if row.missing:
            click.echo(report.printable(f"not repeated: {row.label}: {row.missing} of {row.n} runs", 500), err=True)
        elif row.distance and row.difference is not None:
            off = f"{100 * row.difference:+.2f} points, {row.distance:.2f} interval widths outside its interval"
            click.echo(report.printable(f"differs: {row.label}: {off}", 500), err=True)
    verdict = (
        f"{found.identical} of {found.runs} published runs have the same weights; "
        f"{found.inside:.0%} of {len(found.rows)} rows are within their published intervals"
    )
    if not found.succeeded:
        raise ConformanceError(
            f"not reproduced: {verdict}; required are all runs, {reproduction.MIN_INSIDE:.0%} of the rows within, "
            f"and none more than {reproduction.MAX_DISTANCE:g} interval widths outside"
        )
    click.echo(f"reproduced: {verdict}", err=True)


def _formats(text: str) -> Sequence[str]:
    names = [name for name in text.replace(" ", "").split(",") if name]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(f"--format must be any of {', '.join(FORMATS)}, or none; found {text!r}")
    return [name for name in FORMATS if name in names]


def _published(files: Sequence[Path], *, included: bool) -> list[Published]:
    numbers = [*literature.included()] if included else []
    for file in files:
        numbers += literature.read(file)
    return numbers


def _check_conditions(conditions: Sequence[fail_if.FailCondition], leaderboard: Leaderboard) -> int:
    """Print the rows for which a condition of --fail-if holds, and return the exit code."""
    code = 0
    for condition in conditions:
        for board, row, reason in fail_if.failing_rows(condition, leaderboard.boards):
            code = CONDITION_HOLDS
            name = method_name(row.method, row.distribution)
            where = f"{name} at {format_sparsity(row.target)} on {board.dataset}, {board.model}, {board.track}"
            click.echo(report.printable(f"--fail-if: {where}: {reason}", 500), err=True)
    return code
