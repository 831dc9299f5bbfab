"""`pruneboard latency`: time a finished run's network on this machine, dense and sparse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from pruneboard.artifacts import finished_run
from pruneboard.artifacts.latency.options import ENGINES, LatencyOptions
from pruneboard.errors import UsageError
from pruneboard.records import store


@click.command("latency")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help=f"{', '.join(ENGINES.names)}; repeatable, or separated by commas.  [default: every engine available here]",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=LatencyOptions.batches,
    show_default=True,
    help="Images per call; repeatable.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of every engine.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=LatencyOptions.seconds,
    show_default=True,
    help="Time budget for the rounds of each batch size; at least 5 are taken.",
)
@click.option("--rounds", type=click.IntRange(1), help="Exact number of rounds, instead of --seconds.")
@click.option("--warmup", type=click.IntRange(0), default=2, show_default=True, help="Untimed calls before the rounds.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the JSON document to this new file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def command(
    run: Path,
    engines: tuple[str, ...],
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
    rounds: int | None,
    warmup: int,
    device: str,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Time a finished run's network on this machine: its folder, or its run.json.

    \b
    torch         the dense network in eager mode; the reference, always measured
    torch-csr     prunable weights as torch's CSR matrices
    scipy-csr     linear layers as scipy's CSR matrices
    onnxruntime   the exported graph; needs pip install 'pruneboard[onnx]'
    torch-2:4     weights with two zeros in every four, on a GPU that supports 2:4 sparsity

    Every engine's logits are compared with torch's first. Only the file given by --out is written.
    """
    names = ENGINES.parse(engines)
    if out is not None and os.path.lexists(out):
        raise UsageError(f"--out {out} already exists, and a measurement replaces no file: choose another")
    finished_run.find(run, "measured")  # before torch is imported, which takes seconds
    from pruneboard.artifacts.latency import report
    from pruneboard.artifacts.latency.measure import measure

    options = LatencyOptions(names, tuple(dict.fromkeys(batches)), threads, seconds, rounds, warmup, device)
    document = measure(run, options)
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    if out is not None:
        store.write_atomic(out, (text + "\n").encode())
    click.echo(text if as_json else report.text(document))
