"""Measure when unstructured sparsity pays: layers and networks, dense and sparse, for the tables in docs/latency.md.

    python benchmarks/latency/when.py            # ten minutes
    python benchmarks/latency/when.py --write
    python benchmarks/latency/when.py --part layers --write

Everything runs on one thread. All sparsities and engines of a layer are timed in the same rounds as the dense layer in
torch. The whole networks are runs with a random mask, created here and measured as `pruneboard latency` does.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneboard import RunSpec, draws
from pruneboard.artifacts.latency import report, sparse_layers, timing
from pruneboard.artifacts.latency.measure import measure
from pruneboard.artifacts.latency.options import LatencyOptions
from pruneboard.experiment import lifecycle
from pruneboard.records import provenance, store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "latency.md"

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
BATCHES = (1, 64)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, 768 to 3072": (lambda: nn.Linear(768, 3072), (768,)),
    "linear, 4096 to 4096": (lambda: nn.Linear(4096, 4096), (4096,)),
    "3x3 convolution, 256 to 256, at 14x14": (lambda: nn.Conv2d(256, 256, 3, padding=1), (256, 14, 14)),
}
"""Layer -> its constructor, and the shape of one input."""

NETWORKS = {"resnet32_cifar": 32, "deit_tiny_patch16_224": 224}
"""Network -> image size in pixels."""

NETWORK_SPARSITIES = (0.9, 0.98)
PACKAGES = ("torch", "scipy", "onnxruntime")


def pruned(make: Callable[[], nn.Module], sparsity: float) -> nn.Module:
    """Return a layer with this fraction of zeros at random positions."""
    generator = torch.Generator().manual_seed(draws.key(0, "when"))
    layer = make()
    weight = layer.get_parameter("weight").detach()
    weight.copy_(torch.randn(weight.shape, generator=generator))
    zeros = torch.rand(weight.numel(), generator=generator).argsort()[: round(sparsity * weight.numel())]
    weight.view(-1)[zeros] = 0
    return layer


def forms(layer: nn.Module) -> Iterator[tuple[str, sparse_layers.Forward]]:
    """Yield the sparse engines that support this layer: name and forward function."""
    for name, form in (("torch CSR", sparse_layers.torch_csr), ("scipy CSR", sparse_layers.scipy_csr)):
        apply = form(layer)
        if apply is not None:
            yield name, apply


def layer_times(
    make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, given: argparse.Namespace
) -> dict[tuple[str, float], timing.Times]:
    """Time one layer: return (engine, sparsity) -> times, with dense torch under ("torch", 0)."""
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(draws.key(0, "when", batch)))
    dense = pruned(make, 0.0)
    calls: dict[tuple[str, float], Callable[[], object]] = {("torch", 0.0): lambda: dense(x)}
    for sparsity in SPARSITIES:
        layer = pruned(make, sparsity)
        for engine, form in forms(layer):
            torch.testing.assert_close(form(x), layer(x), rtol=1e-4, atol=1e-3)
            calls[engine, sparsity] = bound(form, x)
    return timing.time_interleaved(calls, seconds=given.seconds, rounds=given.rounds, clock=time.process_time)


def bound(form: sparse_layers.Forward, x: Tensor) -> Callable[[], object]:
    """Return a function without arguments that applies `form` to `x`."""
    return lambda: form(x)


def speedups(times: dict[tuple[str, float], timing.Times], engine: str) -> list[float]:
    """Return the speedup of an engine over dense torch at each of `SPARSITIES`."""
    return [times["torch", 0.0].median / times[engine, sparsity].median for sparsity in SPARSITIES]


def breaks_even(found: list[float]) -> float | None:
    """Return the sparsity above which an engine is faster than dense torch.

    Between two measured sparsities, it is interpolated with a power law in the fraction of remaining weights.

    Args:
        found: speedup at each of `SPARSITIES`.

    Returns:
        None if the engine is slower at the highest sparsity; the lowest sparsity if it is faster at all of them.
    """
    slower = [index for index, speedup in enumerate(found) if speedup < 1]
    if not slower:
        return SPARSITIES[0]
    low = slower[-1]
    if low + 1 == len(found):
        return None
    below, above = math.log(found[low]), math.log(found[low + 1])
    left, right = (math.log(1 - SPARSITIES[index]) for index in (low, low + 1))
    return 1 - math.exp(left + (right - left) * below / (below - above))


def at(sparsity: float | None) -> str:
    """Format a break-even sparsity for the table."""
    if sparsity is None:
        return f"above {SPARSITIES[-1]:g}"
    return f"below {sparsity:g}" if sparsity == SPARSITIES[0] else f"{sparsity:.2f}"


def layer_section(given: argparse.Namespace) -> str:
    """Measure all layers; return their table and a summary line for each kind of layer and batch size."""
    head = ["layer", "batch", "engine", *(f"{s:g}" for s in SPARSITIES), "breaks even at", "dense, ms", "rounds"]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---|" + "---:|" * (len(head) - 3)]
    points: dict[tuple[str, int], list[float | None]] = {}
    for name, (make, shape) in LAYERS.items():
        for batch in BATCHES:
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            with torch.inference_mode():
                times = layer_times(make, shape, batch, given)
            dense = times["torch", 0.0]
            for engine in sorted({engine for engine, _ in times} - {"torch"}, reverse=True):
                found = speedups(times, engine)
                point = breaks_even(found)
                points.setdefault((name.partition(",")[0], batch), []).append(point)
                cells = [name, str(batch), engine, *(f"{value:.2f}" for value in found), at(point)]
                cells += [report.milliseconds(dense.median), str(dense.rounds)]
                lines.append(f"| {' | '.join(cells)} |")
    sentences = [
        f"* {kind}, batch {batch}: CSR breaks even {between(found)}." for (kind, batch), found in points.items()
    ]
    return "\n".join([*lines, "", *sentences])


def between(found: list[float | None]) -> str:
    """Return the range of break-even sparsities of one kind of layer, as text."""
    low, high = (at(pick(found, key=lambda point: 1.0 if point is None else point)) for pick in (min, max))
    return f"at a sparsity of {low}" if low == high else f"at sparsities from {low} to {high}"


def network_run(folder: Path, model: str, size: int, sparsity: float) -> Path:
    """Create a run with a random mask over frozen weights, which needs no training, and return its folder."""
    spec = RunSpec(
        method="random",
        track="supermask",
        model=model,
        sparsity=sparsity,
        overrides={"image_size": size},
        device="cpu",
        results=str(folder),
    )
    lifecycle.run(spec)
    (record,) = folder.rglob("run.json")
    return record.parent


def network_section(given: argparse.Namespace) -> str:
    """Measure whole networks; return their table, with one sentence on speed and one on storage for each."""
    lines = ["| network | sparsity | multiply-adds left | engine | ms | x torch | x zeros | rounds |"]
    lines += ["|---|---:|---:|---|---:|---:|---:|---:|"]
    sentences = []
    for model, size in NETWORKS.items():
        for sparsity in NETWORK_SPARSITIES:
            print(f"{model} at {sparsity:g}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as name:
                run = network_run(Path(name), model, size, sparsity)
                options = LatencyOptions(batches=(1,), seconds=given.seconds, rounds=given.rounds)
                found = measure(run, options, clock=time.process_time)
                stored = store.read(run / store.RUN)["cost"]["bytes"]
            lines += network_rows(found, model, sparsity)
            (verdict,) = found["verdicts"]
            sentence = report.verdict_sentence(verdict).partition(": ")[2]
            sentences += [f"* `{model}` at {sparsity:g}: {sentence}. {storage(stored)}"]
    return "\n".join([*lines, "", *sentences])


def network_rows(found: dict[str, Any], model: str, sparsity: float) -> Iterator[str]:
    """Yield the table rows of one network."""
    left = 100 * found["run"]["macs_remaining"] / found["run"]["macs_dense"]
    for row in found["timings"]:
        gain = "-" if row["gain_from_zeros"] is None else f"{row['gain_from_zeros']:.2f}"
        cells = [f"`{model}`", f"{sparsity:g}", f"{left:.1f} %", row["engine"]]
        cells += [report.milliseconds(row["median_seconds"]), f"{row['speedup']:.2f}", gain, str(row["rounds"])]
        yield f"| {' | '.join(cells)} |"


def storage(found: dict[str, int]) -> str:
    """Return a sentence on the size of the prunable weights."""
    dense, csr, mask = (found[name] / 2**20 for name in ("dense", "csr", "bitmask"))
    return (
        f"Its prunable weights take {dense:.2f} MiB dense, {csr:.2f} as CSR ({dense / csr:.1f} times smaller) and "
        f"{mask:.2f} as a bitmask with values ({dense / mask:.1f} times smaller)."
    )


def machine() -> str:
    """Return a sentence on the machine and the versions of the measurement."""
    versions = ", ".join(f"{name} {provenance.version_of(name)}" for name in PACKAGES)
    return (
        f"{provenance.processor()} with {os.cpu_count()} cores, one thread, float32; Python "
        f"{platform.python_version()}, {versions}. The times are medians over the rounds listed in the "
        f"table, in processor time. The load average before the measurement was {os.getloadavg()[0]:.1f}.\n"
    )


PARTS = {"layers": layer_section, "networks": network_section}


def put(part: str, section: str) -> None:
    """Replace a part of the page, between its markers."""
    start, end = f"<!-- {part}:start -->\n", f"<!-- {part}:end -->\n"
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition(start)
    PAGE.write_text(before + mark + section + end + rest.partition(end)[2], encoding="utf-8")


def main() -> None:
    """Print the parts; with `--write`, also update the page after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this part; repeatable")
    parser.add_argument("--seconds", type=float, default=20.0, help="time budget for each layer or network")
    parser.add_argument("--rounds", type=int, help="take exactly this number of rounds instead")
    parser.add_argument("--write", action="store_true", help="update the parts in docs/latency.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.part or PARTS:
        section = f"{machine()}\n{PARTS[part](given)}\n"
        print(section, flush=True)
        if given.write:
            put(part, section)


if __name__ == "__main__":
    main()
