"""`pruneboard latency`: how long a finished run's network takes on this machine, dense and sparse."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pruneboard.artifacts.exporting.asked import finished
from pruneboard.artifacts.latency import asked
from pruneboard.records import store


@click.command("latency")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    multiple=True,
    metavar="NAME",
    help=f"{', '.join(asked.ENGINES)}; repeatable, or separated by commas.  [default: all that can be had here]",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    multiple=True,
    default=asked.Asked.batches,
    show_default=True,
    help="Images per call; repeatable.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of every engine.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=asked.Asked.seconds,
    show_default=True,
    help="Begin no new round of a batch after these, once there are 5.",
)
@click.option("--rounds", type=click.IntRange(1), help="Exactly so many rounds, however long they take.")
@click.option("--warmup", type=click.IntRange(0), default=2, show_default=True, help="Untimed calls before the rounds.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the JSON document to this new file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def command(
    run: Path,
    engine: tuple[str, ...],
    batch: tuple[int, ...],
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
    torch         the dense network, eager; the reference, always measured
    torch-csr     prunable weights as torch's CSR matrices
    scipy-csr     linear layers as scipy's CSR matrices
    onnxruntime   the exported graph; needs pip install 'pruneboard[onnx]'
    torch-2:4     weights with two zeros in every four, on a GPU that multiplies them so

    Every engine's logits are compared with torch's first. Nothing is written but --out.
    """
    names = asked.engines(engine) if engine else None
    for name in names or ():
        asked.check_packages(name)
    if out is not None:
        asked.check_free(out)
    finished(run, "measured")  # what can be refused without torch is
    from pruneboard.artifacts.latency import measuring, showing

    given = asked.Asked(names, tuple(dict.fromkeys(batch)), threads, seconds, rounds, warmup, device)
    document = measuring.measure(run, given)
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    if out is not None:
        store.write_atomic(out, (text + "\n").encode())
    click.echo(text if as_json else showing.text(document))
