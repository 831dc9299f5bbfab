"""Show a measurement as text: machine, table, notes and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruneboard.errors import printable
from pruneboard.report.tables import Table
from pruneboard.report.terminal import render, rich_table

LEGEND = (
    "ms: median over rounds in which the engines take turns; each turn starts with untimed calls",
    "x torch: speedup over the dense network in torch",
    "x zeros: speedup over the same engine with small numbers in place of the zeros; 1 means no gain from zeros",
)

_HEADERS = ("engine", "batch", "ms", "p10 to p90", "images/s", "x torch", "x zeros", "rounds")


def text(document: Mapping[str, Any]) -> str:
    """Return the run, the machine, the table, a note for each engine, and whether zeros pay at each batch size."""
    table = Table(_HEADERS, tuple(_cells(row) for row in document["timings"]))
    lines = [
        _network(document["run"]),
        _machine(document),
        "",
        render(rich_table(table)),
        "",
        *(f"{name}: {_note(engine)}" for name, engine in document["engines"].items()),
        "",
        *LEGEND,
        "",
        *map(verdict_sentence, document["verdicts"]),
    ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    gain = row["gain_from_zeros"]
    return (
        row["engine"],
        str(row["batch"]),
        milliseconds(row["median_seconds"]),
        f"{milliseconds(row['p10_seconds'])} to {milliseconds(row['p90_seconds'])}",
        f"{row['images_per_second']:,.0f}",
        f"{row['speedup']:.2f}",
        "-" if gain is None else f"{gain:.2f}",
        str(row["rounds"]),
    )


def _note(engine: Mapping[str, Any]) -> str:
    if not engine["available"]:
        return printable(f"not measured: {engine['note']}", 400)
    count, share = len(engine["sparse_layers"]), 100 * engine["sparse_share"]
    skips = f"; skips zeros in {count} layer{'s' * (count != 1)}, {share:.1f} % of the multiply-adds" if count else ""
    return printable(engine["note"] + skips, 400)


def milliseconds(seconds: float) -> str:
    """Format a time in milliseconds with at least three digits."""
    value = 1000 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _network(run: Mapping[str, Any]) -> str:
    macs = run["macs_remaining"] / run["macs_dense"]
    board = f"{run['data']} / {run['model']} / {run['track']}, {run['image_size']} px"
    left = f"{run['nonzero']:,} of {run['prunable']:,} prunable weights (sparsity {run['measured']:.4f})"
    return printable(
        f"{board}: {run['method']}, seed {run['seed']}; left: {left}, {100 * macs:.1f} % of multiply-adds", 500
    )


def _machine(document: Mapping[str, Any]) -> str:
    hardware, threads = document["hardware"], document["hardware"]["threads"]
    gpu = f"{hardware['gpu']}, " if hardware["gpu"] else ""
    processor = f"{hardware['processor']}, {hardware['cores']} cores, load {hardware['load']:.1f}"
    versions = ", ".join(f"{name} {version}" for name, version in document["software"].items() if version)
    return printable(f"{gpu}{processor}; {threads} thread{'s' * (threads != 1)}; {versions}", 500)


def verdict_sentence(verdict: Mapping[str, Any]) -> str:
    """Return one line on whether zeros pay at a batch size."""
    batch, sparse, dense = (verdict[name] for name in ("batch", "sparse", "dense"))
    if sparse is None:
        return f"batch {batch}: no engine here skips most zeros"
    if verdict["zeros"] == "open":
        return f"batch {batch}: open: the times of {sparse}, which skips zeros, and {dense}, which does not, overlap"
    does = "zeros pay" if verdict["zeros"] == "pay" else "zeros do not pay"
    return (
        f"batch {batch}: {does}: the fastest engine that skips them, {sparse}, is {verdict['speedup']:.2f} times "
        f"as fast as the fastest that does not, {dense}"
    )
