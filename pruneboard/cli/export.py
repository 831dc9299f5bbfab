"""`pruneboard export`: a finished run as files that load without pruneboard."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pruneboard import report
from pruneboard.artifacts.exporting import asked


@click.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    multiple=True,
    metavar="NAME",
    help=f"{', '.join(asked.FORMATS)}; repeatable, or separated by commas.  [default: all that can be made here]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files.  [default: export/ in the run's folder]",
)
@click.option("--force", is_flag=True, help="Replace files that are there with other content.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def command(run: Path, form: tuple[str, ...], out: Path | None, *, force: bool, as_json: bool) -> None:
    """Export a finished run: its folder, or its run.json.

    \b
    safetensors   the dense network, zeros in place
    csr           every prunable weight as a sparse matrix; loads with numpy and scipy
    onnx          the whole network; needs pip install 'pruneboard[onnx]'

    The weights are checked against the record first, and every file is read again before it is put in place. A
    README.md beside the files says how to load them.
    """
    formats = asked.formats(form) if form else None
    for name in formats or ():
        asked.check_packages(name)
    asked.finished(run)  # what can be refused without torch is
    from pruneboard.artifacts.exporting import making

    found = making.export(run, out=out, formats=formats, force=force)
    if as_json:
        rows = [{"format": f.name, "path": f.path and str(f.path), "bytes": f.size, "note": f.note} for f in found]
        click.echo(json.dumps({"forms": rows}, indent=2, sort_keys=True))
        return
    for made in found:
        where = f"{made.path} ({made.size} bytes; {made.note})" if made.path else made.note
        click.echo(f"{made.name:12} {report.printable(where, 1000)}")
