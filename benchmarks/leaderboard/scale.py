"""Measure how `pruneboard compare` scales with the number of records: a table of time and memory for the docs.

    python benchmarks/leaderboard/scale.py --sizes 1000,3000,10000,30000,100000
    python benchmarks/leaderboard/scale.py --shape boards --sizes 1250,2500,5000
    python benchmarks/leaderboard/scale.py --shape options --sizes 500,1000,2000

The records are synthetic. Each size is measured with all formats, in a new process on a new folder, whose files have
just been written and are in the page cache.

| shape | records |
|---|---|
| `grid` | those of a ResNet-50 (54 layers, about 11 KB each); a board has 8 methods, 6 operating points and 6 seeds |
| `boards` | small; each is a board of its own, and has three board fields that no other has |
| `options` | small; one board and one method, and each record has options of its own and a sparsity of its own |

The last two are what a stranger's folder could hold: time and memory must not grow faster than N log N.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruneboard.records import schema as records
from pruneboard.records.fields import SCHEMA

METHODS = ("random", "magnitude", "probmask", "gmp", "str", "snip", "grasp", "synflow")
CONTROLS = {"dense": "dense", "random": "floor", "magnitude": "baseline"}
POINTS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
SEEDS = range(6)
SHAPES = ("grid", "boards", "options")
LAYERS, WIDTH = 54, 10_000
RECIPE = {"epochs": 90, "lr": 0.4, "batch_size": 256, "momentum": 0.875, "weight_decay": 3e-5, "name": "imagenet"}


def runs() -> Iterator[tuple[int, str, float | None, int]]:
    """Yield (board, method, sparsity, seed) without end."""
    for board in itertools.count():
        for seed in SEEDS:
            yield board, "dense", None, seed
            yield from ((board, method, point, seed) for method in METHODS for point in POINTS)


def made(
    board: int, method: str, point: float | None, seed: int, draw: random.Random, layers: int = LAYERS
) -> dict[str, Any]:
    """Return one finished record."""
    n = layers * WIDTH
    kept = n - round((point or 0.0) * n)
    share, rest = divmod(kept, layers)
    counts = [share + (index < rest) for index in range(layers)]
    correct = round(50_000 * (0.76 - 0.3 * (point or 0.0) ** 8 * draw.uniform(0.8, 1.2)))
    scores = {"top1": correct / 50_000, "top5": 0.9, "loss": 1.0, "correct": correct, "count": 50_000}
    network = f"resnet{board}"
    fields = {"model": network, "data": "imagenet", "recipe": RECIPE, "steps": 450_000, "track": "prune", "prunable": n}
    start = f"{board}-{seed}"
    whole = {
        "schema": SCHEMA,
        "rules": 1,
        "status": "done",
        "error": None,
        "track": "prune",
        "board": fields | {"fingerprint": records.fingerprint(fields)},
        "method": {
            "name": method,
            "distribution": "pruneboard",
            "version": "0.1.0",
            "options": {"allocation": "global"},
            "traits": {"hits_target": True, "control": CONTROLS.get(method)},
        },
        "model": {"name": network, "initial_sha256": records.content_hash({"start": start})},
        "data": {"name": "imagenet", "split_sha256": "5" * 64, "order_sha256": {"first": start, "last": start}},
        "seed": seed,
        "sparsity": {
            "target": point,
            "measured": 1 - kept / n,
            "prunable": n,
            "keep": kept,
            "kept": kept,
            "nonzero": kept,
            "kept_zero": 0,
            "layers": [
                {"name": f"layer{i // 4}.{i % 4}.conv", "n": WIDTH, "kept": count, "nonzero": count, "positions": 196}
                for i, count in enumerate(counts)
            ],
        },
        "metrics": {"test": scores, "validation": scores},
        "cost": {
            "forward_passes": 1,
            "train_macs": 10**18,
            "relative_train_macs": 1.0,
            "macs_dense": 4 * 10**9,
            "macs_remaining": 4 * 10**9 * kept // n,
            "wall_seconds": 3600.0,
            "hook_seconds": 1.0,
            "peak_memory_bytes": 2**33,
        },
        "lifecycle": {"ended": f"2026-01-01T{seed:02d}:00:00Z"},
    }
    return whole | {"hash": records.content_hash({"board": board, "method": method, "point": point, "seed": seed})}


def write(folder: Path, size: int, shape: str) -> None:
    """Write `size` records below `folder`."""
    draw = random.Random(0)
    for number, run in enumerate(itertools.islice(runs(), size)):
        one = made(*run, draw) if shape == "grid" else small(number, shape)
        place = folder / f"{run[0]}" / f"{number}"
        place.mkdir(parents=True)
        (place / "run.json").write_text(records.dumps(one))


def small(number: int, shape: str) -> dict[str, Any]:
    """Return a finished record with three layers that shares as little as possible with those of other numbers."""
    options = {f"option{number}": number, "lr": number} if shape == "options" else {}
    own = {f"own{number}.{part}": number for part in range(3)} if shape == "boards" else {}
    point = (number + 1) / 10_000 if shape == "options" else 0.9
    record = made(0, "probmask", point, 0, random.Random(number), layers=3)
    fields = {key: value for key, value in record["board"].items() if key != "fingerprint"} | own
    record["board"] = fields | {"fingerprint": records.fingerprint(fields)}
    record["method"]["options"] = options
    record["hash"] = records.content_hash({"number": number, "shape": shape})
    return record


def measure(size: int, shape: str) -> tuple[float, float, float]:
    """Run `compare` on `size` records; return its seconds, memory in MiB and page size in MiB."""
    with tempfile.TemporaryDirectory(prefix="pruneboard-scale-") as name:
        folder = Path(name)
        write(folder / "results", size, shape)
        command = [sys.executable, __file__, "--measure", str(folder / "results")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, memory = json.loads(done.stdout.splitlines()[-1])
        page = (folder / "results" / "leaderboard" / "leaderboard.html").stat().st_size
        return seconds, memory, page / 2**20


def compare(folder: str) -> None:
    """Run `pruneboard compare` in its own process, and print its seconds and memory in MiB as JSON."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pruneboard", "compare", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - start, memory]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,3000,10000", help="numbers of records, separated by commas")
    parser.add_argument("--shape", choices=SHAPES, default="grid", help="what the records share; see above")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        compare(arguments.measure)
        return
    print("| records | seconds | seconds per 1,000 | memory, MiB | page, MiB |\n|---:|---:|---:|---:|---:|")
    for size in map(int, arguments.sizes.split(",")):
        seconds, memory, page = measure(size, arguments.shape)
        print(f"| {size:,} | {seconds:.1f} | {1000 * seconds / size:.2f} | {memory:.0f} | {page:.1f} |", flush=True)


if __name__ == "__main__":
    main()
