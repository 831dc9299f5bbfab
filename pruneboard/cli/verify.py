"""`pruneboard verify`: recompute, recount and re-evaluate what records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruneboard import report
from pruneboard.errors import ConformanceError
from pruneboard.leaderboard import folders

if TYPE_CHECKING:
    from pruneboard.records.verdicts import Finding


@click.command("verify")
@click.argument("paths", metavar="RUN|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(), help="Where the data set is, if it is not digits. Nothing is fetched.")
@click.option("--no-data", is_flag=True, help="Do not measure scores anew: record, masks and weights only.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for verified.json, which `compare` makes badges of.  [default: leaderboard/ in the first DIR]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(paths: tuple[Path, ...], data_dir: str | None, out: Path | None, *, no_data: bool, as_json: bool) -> None:
    """Verify one run, or every run below some folders.

    \b
    certified      the weights are there, and give the record's zeros and its scores
    spot-checked   the record agrees with itself and with its masks or weights
    record-only    the record agrees with itself; nothing else is there
    disputed       something does not hold, and is named

    Ends with 3 if any run is disputed.
    """
    from pruneboard.artifacts.verification import walk
    from pruneboard.records import verdicts

    findings = []
    for finding in walk.verify(paths, data_dir=data_dir, evaluate=not no_data):
        findings.append(finding)
        if not as_json:
            _print(finding)
    counts = verdicts.counted(findings)
    if as_json:
        runs = [{"path": str(finding.path), **finding.as_dict()} for finding in findings]
        click.echo(json.dumps({"runs": runs, "counts": counts}, indent=2, sort_keys=True))
    else:
        named = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        click.echo(f"{len(findings)} run{'s' * (len(findings) != 1)}: {named}")
    verdicts.write(findings, out or folders.default_output(paths))
    if counts["disputed"]:
        raise ConformanceError(
            f"{counts['disputed']} of {len(findings)} runs disputed; each says above what does not hold"
        )


def _print(finding: Finding) -> None:
    """Print a run's line, and below it every check that fails."""
    reason = "" if finding.verdict in ("certified", "disputed") else _reason(finding)
    click.echo(report.printable(f"{finding.verdict:13}{finding.path.parent}{reason}", 500))
    for check in finding.of("failed"):
        click.echo("    " + report.printable(f"{check.name}: {check.note}", 1000))


def _reason(finding: Finding) -> str:
    notes = [check.note for check in finding.of("skipped") if check.note]
    return f" ({'; '.join(notes)})" if notes else ""
