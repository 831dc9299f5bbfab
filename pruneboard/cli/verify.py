"""`pruneboard verify`: check records, masks, weights and scores, and write the verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruneboard.errors import ConformanceError, printable
from pruneboard.leaderboard import folders

if TYPE_CHECKING:
    from pruneboard.records.verdicts import RunVerification


@click.command("verify")
@click.argument("paths", metavar="RUN|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data-dir", type=click.Path(), help="Folder of the data set, unless it is digits. Nothing is downloaded."
)
@click.option("--no-data", is_flag=True, help="Check only record, masks and weights; do not measure the scores again.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for verified.json, from which your own `compare` makes badges.  "
    "[default: leaderboard/ in the first DIR]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(paths: tuple[Path, ...], data_dir: str | None, out: Path | None, *, no_data: bool, as_json: bool) -> None:
    """Verify one run, or every run below some folders.

    \b
    certified      the weights are present, and give the record's zeros and its scores
    spot-checked   the record is consistent, and its masks or weights agree with it
    record-only    the record is consistent; there is nothing else to check
    disputed       something does not agree, and is named

    Exits with 3 if a run is disputed.
    """
    from pruneboard.artifacts.verification.verify import verify
    from pruneboard.records import verdicts

    target = out or folders.default_output(paths)
    findings = []
    for finding in verify(paths, data_dir=data_dir, evaluate=not no_data):
        findings.append(finding)
        if not as_json:
            _print(finding)
    counts = verdicts.count_verdicts(findings)
    if as_json:
        runs = [{"path": str(finding.path), **finding.as_dict()} for finding in findings]
        click.echo(json.dumps({"runs": runs, "counts": counts}, indent=2, sort_keys=True))
    else:
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        click.echo(f"{len(findings)} run{'s' * (len(findings) != 1)}: {summary}")
    verdicts.write(findings, target)
    if verdicts.user_key() is None:
        click.echo(f"these verdicts cannot be marked as yours: {_no_key(verdicts.key_path())}", err=True)
    if counts["disputed"]:
        raise ConformanceError(
            f"{counts['disputed']} of {len(findings)} runs disputed; the failed checks are listed above"
        )


def _no_key(path: Path | None) -> str:
    reason = f"{path} cannot be written or is damaged" if path else "you have no home folder"
    return f"{reason}, so `compare` shows them as claimed; set XDG_STATE_HOME to a folder of yours, and verify again"


def _print(finding: RunVerification) -> None:
    """Print one line for the run, and one below it for each failed check."""
    reason = "" if finding.verdict in ("certified", "disputed") else _reason(finding)
    click.echo(printable(f"{finding.verdict:13}{finding.path.parent}{reason}", 500))
    for check in finding.of("failed"):
        click.echo("    " + printable(f"{check.name}: {check.note}", 1000))


def _reason(finding: RunVerification) -> str:
    notes = [check.note for check in finding.of("skipped") if check.note]
    return f" ({'; '.join(notes)})" if notes else ""
