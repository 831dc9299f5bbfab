"""A measurement as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruneboard.report.escaping import printable
from pruneboard.report.tables import Table
from pruneboard.report.terminal import render, rich_table

LEGEND = (
    "ms: median of the rounds, in which the engines take turns, each settling by untimed calls first",
    "x torch: times as fast as the dense network in torch",
    "x zeros: times as fast as the same engine is with small numbers in the place of zeros; 1 gains nothing from them",
)

_HEADERS = ("engine", "batch", "ms", "p10 to p90", "images/s", "x torch", "x zeros", "rounds")


def text(document: Mapping[str, Any]) -> str:
    """Return what was measured, where, the table, a note for each engine, and whether zeros pay."""
    table = Table(_HEADERS, tuple(_cells(row) for row in document["timings"]))
    lines = [
        _network(document["run"]),
        _machine(document),
        "",
        render(rich_table(table)),
        "",
        *(f"{name}: {_about(engine)}" for name, engine in document["engines"].items()),
        "",
        *LEGEND,
        "",
        *map(sentence, document["verdicts"]),
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


def _about(engine: Mapping[str, Any]) -> str:
    if not engine["available"]:
        return printable(f"not measured: {engine['note']}", 400)
    count, share = len(engine["sparse_layers"]), 100 * engine["sparse_share"]
    without = f"; without zeros: {count} layer{'s' * (count != 1)}, {share:.1f} % of the multiply-adds" if count else ""
    return printable(engine["note"] + without, 400)


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds, three digits and more."""
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


def sentence(verdict: Mapping[str, Any]) -> str:
    """Return in one line whether zeros pay at a batch size."""
    batch, sparse, dense = (verdict[name] for name in ("batch", "sparse", "dense"))
    if sparse is None:
        return f"batch {batch}: no engine here leaves most zeros out"
    if verdict["zeros"] == "open":
        return (
            f"batch {batch}: open: the times of {sparse}, which leaves zeros out, and {dense}, which does not, overlap"
        )
    does = "zeros pay" if verdict["zeros"] == "pay" else "zeros do not pay"
    return (
        f"batch {batch}: {does}: the fastest engine that leaves them out, {sparse}, is {verdict['speedup']:.2f} times "
        f"as fast as the fastest that does not, {dense}"
    )
