"""`pruneboard new-plugin`: write the package of a new method, ready to install."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from pruneboard.cli import scaffold


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--path",
    "parent",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="An existing folder; the package is written to pruneboard-NAME in it.",
)
def command(name: str, parent: Path) -> None:
    """Write a small package with a new method, which works without changes.

    NAME is the name of the method, as used with --method. The package contains a module with the method, its entry
    point, a test of the rules of the board, a README, and a workflow for GitHub.
    """
    folder = scaffold.create(name, parent)
    place = shlex.quote(str(folder))
    click.echo(f"wrote {folder}; the method is src/{folder.name.replace('-', '_')}.py. Next:\n")
    click.echo(f"    pip install -e {shlex.quote(f'{folder}[test]')}")
    click.echo(f"    pruneboard check {name} && python -m pytest {place}")
    click.echo(f"    pruneboard run --method {name} --model resnet18 --sparsity 0.9")
