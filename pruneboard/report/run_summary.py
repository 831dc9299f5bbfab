"""The summary of one run for a terminal (`pruneboard show`): request, result, cost and provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pruneboard.leaderboard.names import method_name
from pruneboard.records.schema import Record, format_sparsity, lookup
from pruneboard.report.escaping import printable
from pruneboard.report.tables import Table, number, percent
from pruneboard.report.terminal import rich_table

Facts = Iterable[tuple[str, str]]


def summary(record: Record, *, layers: bool = True) -> RenderableType:
    """Return the summary of a record, for `terminal.render`.

    Args:
        record: a validated record of a finished or failed run. Fields that a failed run does not have are left out.
        layers: whether to list the sparsity of every layer.
    """
    parts: list[RenderableType] = [_heading(record)]
    if record["error"]:
        error = record["error"]
        parts.append(Text(printable(f"{error['kind']}: {error['message']}", 2000), style="red"))
    for title, facts in (
        ("Run", _run(record)),
        ("Result", _result(record)),
        ("Cost", _cost(record)),
        ("Provenance", _provenance(record)),
    ):
        parts += _block(title, facts)
    if layers and lookup(record, "sparsity.layers"):
        parts += [Text(""), rich_table(_layers(record["sparsity"]["layers"]))]
    return Group(*parts)


def _heading(record: Record) -> Text:
    point = format_sparsity(record["sparsity"]["target"])
    ablation = lookup(record, "method.ablation")
    method = method_name(record["method"]["name"], record["method"]["distribution"])
    method += f" ({ablation})" if ablation else ""
    name = method if point == "dense" else f"{method} at sparsity {point}"
    text = printable(f"{name} on {record['model']['name']}, {record['data']['name']}, {record['track']}: ", 400)
    style = "bold green" if record["status"] == "done" else "bold red"
    return Text.assemble((f"{text} ", "bold"), (record["status"], style))


def _block(title: str, facts: Facts) -> list[RenderableType]:
    rows = [(name, text) for name, text in facts if text]
    if not rows:
        return []
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=18)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(Text(f"  {name}"), Text(printable(text, 1000)))
    return [Text(""), Text(title, style="bold"), grid]


def _run(record: Record) -> Facts:
    method, seeds = record["method"], lookup(record, "seeds", {})
    yield "method", f"{method['name']} from {method['distribution']} {method['version']}"
    yield "options", _pairs(method["options"])
    yield "model", f"{record['model']['name']}{_count(record, 'model.parameters', ', {:,} parameters')}"
    yield "data", _data(record)
    yield "recipe", _pairs(lookup(record, "recipe"))
    yield "budget", _pairs(lookup(record, "budget"))
    yield "seed", f"{record['seed']}{f' ({_pairs(seeds)})' if seeds else ''}"


def _data(record: Record) -> str:
    sizes = [(split, lookup(record, f"data.{split}")) for split in ("train", "validation", "test")]
    known = ", ".join(f"{split} {size:,}" for split, size in sizes if size is not None)
    return f"{record['data']['name']}{f': {known}' if known else ''}"


def _result(record: Record) -> Facts:
    sparsity = record["sparsity"]
    yield "target sparsity", "" if sparsity["target"] is None else format_sparsity(sparsity["target"])
    yield "measured sparsity", _text(lookup(sparsity, "measured"), "{:.6g}")
    yield "whole model", _text(lookup(sparsity, "whole_model"), "{:.6g}")
    if None not in (nonzero := lookup(sparsity, "nonzero"), n := lookup(sparsity, "prunable")):
        zero = f", {sparsity['kept_zero']:,} kept with value 0.0" if lookup(sparsity, "kept_zero") else ""
        yield "remaining weights", f"{nonzero:,} of {n:,} prunable{zero}"
    yield "effective sparsity", _effective(sparsity)
    yield "collapsed layers", ", ".join(lookup(sparsity, "collapsed") or [])
    for split in ("test", "validation"):
        yield split, _measured(lookup(record, f"metrics.{split}") or {})
    if (best := lookup(record, "metrics.best_validation.top1")) is not None:
        yield "best validation", f"top-1 {percent(best)} % at epoch {lookup(record, 'metrics.best_validation.epoch')}"


def _effective(sparsity: Mapping[str, Any]) -> str:
    effective, alive = lookup(sparsity, "effective"), lookup(sparsity, "alive")
    if effective is None or alive is None:
        why = lookup(sparsity, "effective_unknown")
        return f"unknown: {why}" if why else ""
    return f"{effective:.6g}: {alive:,} weights connect the input to the output"


def _measured(metrics: Mapping[str, Any]) -> str:
    names = {"top1": "top-1", "top5": "top-5", "worst_class_top1": "worst class"}
    parts = [f"{name} {percent(metrics[key])} %" for key, name in names.items() if metrics.get(key) is not None]
    parts += [_text(metrics.get("loss"), "loss {:.4f}")]
    if None not in (correct := metrics.get("correct"), count := metrics.get("count")):
        parts.append(f"{correct:,} of {count:,} images")
    return ", ".join(part for part in parts if part)


def _cost(record: Record) -> Facts:
    yield "training", _count(record, "cost.train_macs", "{:.3e} multiply-adds")
    yield "relative to dense", _count(record, "cost.relative_train_macs", "{:.2f} times")
    yield "forward passes", _count(record, "cost.forward_passes", "{:,} per step, before hardening")
    yield "validations", _count(record, "cost.validations", "{:,} while hardening, charged as training")
    dense, left = lookup(record, "cost.macs_dense"), lookup(record, "cost.macs_remaining")
    if dense and left is not None:
        yield "remaining MACs", f"{left:,} of {dense:,} ({percent(left / dense)} %)"
    if attention := lookup(record, "cost.macs_attention"):
        yield "attention products", f"{attention:,} further multiply-adds, which pruning weights cannot remove"
    yield "MAC definition", lookup(record, "cost.macs_definition") or ""
    yield "bytes", _pairs(lookup(record, "cost.bytes"))
    yield "storage bits", _pairs(lookup(record, "cost.storage_bits"))
    yield (
        "seconds",
        _count(record, "cost.wall_seconds", "{:,.1f}")
        + _count(record, "cost.hook_seconds", " ({:,.1f} in method code)"),
    )
    peak = lookup(record, "cost.peak_memory_bytes")
    yield "peak memory", "" if peak is None else f"{number(peak / 2**20, 0)} MiB"


def _provenance(record: Record) -> Facts:
    yield "hash", record["hash"]
    yield "board", record["board"]["fingerprint"]
    yield "initial weights", lookup(record, "model.initial_sha256") or ""
    yield "final weights", lookup(record, "weights_sha256") or ""
    for block in ("engine", "software", "hardware", "lifecycle"):
        yield block, _pairs(lookup(record, block))


_LAYER_COLUMNS: dict[str, Callable[[Record], str]] = {
    "layer": lambda layer: printable(layer["name"], 60),
    "weights": lambda layer: f"{layer['n']:,}",
    "remaining": lambda layer: f"{layer['nonzero']:,}",
    "sparsity": lambda layer: f"{1 - layer['nonzero'] / layer['n']:.4f}",
    "connected": lambda layer: _count(layer, "alive", "{:,}"),
    "multiply-adds": lambda layer: _count(layer, "macs_dense", "{:,}"),
    "remaining MACs": lambda layer: _count(layer, "macs_remaining", "{:,}"),
}


def _layers(layers: list[dict[str, Any]]) -> Table:
    """Return one row per layer, without columns that are empty for all layers."""
    columns = {name: [text(layer) for layer in layers] for name, text in _LAYER_COLUMNS.items()}
    known = {name: cells for name, cells in columns.items() if any(cells)}
    return Table(tuple(known), tuple(zip(*known.values(), strict=True)))


def _pairs(block: object) -> str:
    if not isinstance(block, Mapping):
        return printable(block) if isinstance(block, str) else ""
    return ", ".join(f"{key} {value}" for key, value in sorted(block.items()) if value is not None)


def _count(record: Record, path: str, layout: str) -> str:
    return _text(lookup(record, path), layout)


def _text(value: object, layout: str) -> str:
    return "" if value is None else layout.format(value)
