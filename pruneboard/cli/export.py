"""`pruneboard export`: write a finished run's network to files that load without pruneboard."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pruneboard.artifacts import finished_run
from pruneboard.artifacts.exporting.options import FORMATS
from pruneboard.errors import printable


@click.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help=f"{', '.join(FORMATS.names)}; repeatable, or separated by commas.  [default: every format available here]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files.  [default: export/ in the run's folder]",
)
@click.option("--force", is_flag=True, help="Replace existing files whose content differs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(run: Path, formats: tuple[str, ...], out: Path | None, *, force: bool, as_json: bool) -> None:
    """Export a finished run: its folder, or its run.json.

    \b
    safetensors   the dense network, zeros in place
    csr           every prunable weight as a sparse matrix; loads with numpy and scipy
    onnx          the whole network; needs pip install 'pruneboard[onnx]'

    The weights are checked against the record first, and each file is read back before it gets its name. A README.md
    next to the files explains how to load them.
    """
    names = FORMATS.parse(formats)
    finished_run.find(run, "exported")  # before torch is imported, which takes seconds
    from pruneboard.artifacts.exporting.export import export

    results = export(run, out=out, formats=names, force=force)
    if as_json:
        rows = [{"format": r.name, "path": r.path and str(r.path), "bytes": r.size, "note": r.note} for r in results]
        click.echo(json.dumps({"forms": rows}, indent=2, sort_keys=True))
        return
    for result in results:
        text = f"{result.path} ({result.size} bytes; {result.note})" if result.path else result.note
        click.echo(f"{result.name:12} {printable(text, 1000)}")
