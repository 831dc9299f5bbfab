"""`pruneboard check`: check a pruner against the rules of the board."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pruneboard import registry, report
from pruneboard.cli import flags
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.processes import guardian
from pruneboard.spec import check_sparsity

if TYPE_CHECKING:
    from pruneboard.api import Pruner
    from pruneboard.testing import Result

DEFAULT_SPARSITY = 0.9


@click.command("check")
@click.argument("name", metavar="NAME|MODULE:CLASS", shell_complete=flags.complete(flags.method_names))
@click.option("--sparsity", "-s", metavar="FRACTION", help=f"Also check at this.  [default: {DEFAULT_SPARSITY}]")
@click.option("--option", "-o", multiple=True, metavar="KEY=VALUE", help="An option of the method; repeatable.")
@click.option(
    "--expect",
    multiple=True,
    metavar="CHECK=REASON",
    help="Accept that a check fails, for a stated reason; if it passes, this is an error. Repeatable.",
)
@click.option("--rules", is_flag=True, help="Print every check with its rule, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    name: str, sparsity: str | None, option: tuple[str, ...], expect: tuple[str, ...], *, rules: bool, as_json: bool
) -> None:
    """Check a pruner against the rules of the board.

    NAME is an installed method. MODULE:CLASS is a class that need not be installed; its module may be in the current
    folder. Every check that applies to the method's traits runs on a small network, on each track of the method, in one
    process and in two, which takes half a minute. Core checks are required for a place on a board, advice is not.

    Exits with 3 if a core check fails.
    """
    given = check_sparsity(sparsity) if sparsity is not None else None
    expected = dict(_reason(text) for text in expect)
    info = registry.from_target(name) if ":" in name else registry.find(name)
    pruner = _build(info, given, flags.parse_options(option))
    if rules:
        _print_rules(pruner, as_json=as_json)
        return
    if not as_json:
        click.echo(f"{_line(info.origin)}\n{_line(repr(pruner))}\n")
    head = {"method": info.name, "distribution": info.distribution, "version": info.version, "object": info.target}
    guardian.note("check head", head=head)
    found = _run_checks(pruner, expected, as_json=as_json)
    counts = Counter(result.outcome for result in found)
    if as_json:
        results = [result.as_dict() for result in found]
        click.echo(json.dumps({**head, "counts": counts, "checks": results}, indent=2))
    else:
        click.echo(f"\n{len(found)} checks: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    broken = [result.check for result in found if result.tier == "core" and result.outcome == "failed"]
    if broken:
        raise ConformanceError(f"{info.name} breaks {len(broken)} core rules: {', '.join(broken)}")


def _build(info: registry.PrunerInfo, sparsity: float | None, options: dict[str, str]) -> Pruner[Any]:
    """Build the pruner at the given sparsity, or else at the default one if the method accepts it."""
    if sparsity is not None:
        return registry.build(info, sparsity, options)
    try:
        return registry.build(info, DEFAULT_SPARSITY, options)
    except UsageError:
        with suppress(UsageError):
            return registry.build(info, None, options)  # a control without a sparsity
        raise


def _run_checks(pruner: Pruner[Any], expected: dict[str, str], *, as_json: bool) -> list[Result]:
    from pruneboard.testing import check_pruner

    return check_pruner(pruner, expected, listener=(lambda _: None) if as_json else _print)


def _print(result: Result) -> None:
    """Print the line of a check and, if it failed, what was found and the rule below it."""
    outcome = result.outcome.upper() if result.outcome == "failed" else result.outcome
    note = f"  {_line(result.message)}" if result.outcome in ("skipped", "expected") else ""
    click.echo(f"{result.tier:7} {result.check:40} {outcome:8} {result.seconds:5.1f} s{note}")
    if result.outcome == "failed":
        click.echo(f"        found: {_line(result.message)}\n        rule:  {_line(result.rule)}")


def _print_rules(pruner: Pruner[Any], *, as_json: bool) -> None:
    from pruneboard.testing import pruner_checks

    rows = [{"check": c.name, "tier": c.check.tier, "rule": c.check.rule} for c in pruner_checks(pruner)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['tier']:7} {row['check']}\n        {_line(row['rule'])}")


def _reason(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not (name.strip() and equals and reason.strip()):
        raise UsageError(f"--expect takes CHECK=REASON, such as is-repeatable='draws from the system'; found {text!r}")
    return name.strip(), reason.strip()


def _line(text: str) -> str:
    return report.printable(text, 1000)
