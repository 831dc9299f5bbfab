"""Synthetic records for tests: valid and complete, with any value set by its path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pruneboard.records import runfolder, store
from pruneboard.records.schema import Record, content_hash, fingerprint

LAYERS = {"conv1": 1000, "layer1.0.conv1": 8000, "fc": 1000}
IMAGES = 10_000
CONTROLS = {"dense": "dense", "random": "floor", "magnitude": "baseline"}

BOARD: Record = {
    "model": "resnet20_cifar",
    "stem": "stock",
    "create_args": {},
    "data": "digits",
    "data_sha256": "d" * 64,
    "recipe": {"epochs": 10, "lr": 0.1, "name": "digits"},
    "steps": 200,
    "norm_batch": 64,
    "global_batch": 64,
    "precision": "fp32",
    "scope": "conv+linear",
    "prunable": dict(LAYERS),
    "track": "prune",
    "init": "random",
    "rules": 1,
    "torch": "2.6",
}


def record(
    method: str = "probmask",
    sparsity: float | None = 0.9,
    seed: int = 0,
    top1: float = 0.9,
    status: str = "done",
    **changes: Any,
) -> Record:
    """Return a record that is valid unless `changes` makes it invalid.

    Args:
        method: name of the method; `dense`, `random` and `magnitude` are controls.
        sparsity: target sparsity, which the measured one equals.
        seed: seed of the run, which also determines the hashes of initial weights, split and order.
        top1: test top-1, rounded to whole images out of 10,000.
        status: with any other value than `done`, the record lacks the blocks that a failed run does not have.
        changes: path -> value, with `__` for the dot: `board__steps=300`. Fingerprint and hash are computed after it.
    """
    made = _record(method, sparsity, seed, top1)
    if status != "done":
        made |= {"status": status, "error": {"kind": "RunError", "message": f"the run is {status}"}}
        made["sparsity"] = {"target": sparsity}
        del made["metrics"], made["cost"], made["weights_sha256"]
    for path, value in changes.items():
        change(made, path.replace("__", "."), value)
    if "board__fingerprint" not in changes:
        made["board"]["fingerprint"] = fingerprint(made["board"])
    if "hash" not in changes:
        made["hash"] = content_hash({key: made[key] for key in ("board", "method", "seed")} | {"target": sparsity})
    return made


def change(made: Record, path: str, value: Any) -> Record:
    """Set the value at a dotted path, creating missing objects."""
    *parents, last = path.split(".")
    block = made
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = value
    return made


def put(results: Path, made: Record, *, force: bool = False) -> Path:
    """Write a record to the folder that `pruneboard run` would use, and return the folder."""
    folder = store.folder_of(results, made)
    runfolder.begin(folder, force=force)
    store.put(folder, made)
    return folder


def sparsity_block(target: float | None) -> Record:
    """Return an exact `sparsity` block over `LAYERS`: k = n - round(target * n), filled from the first layer."""
    n = sum(LAYERS.values())
    keep = left = n - round((target or 0) * n)
    layers = []
    for name, size in LAYERS.items():
        kept = min(left, size)
        left -= kept
        layers.append({"name": name, "n": size, "kept": kept, "nonzero": kept, "positions": 64})
    return {
        "target": target,
        "measured": (n - keep) / n,
        "prunable": n,
        "keep": keep,
        "kept": keep,
        "nonzero": keep,
        "kept_zero": 0,
        "whole_model": (n - keep) / (n + 500),
        "layers": layers,
        "collapsed": [layer["name"] for layer in layers if not layer["nonzero"]],
    }


def _metrics(top1: float) -> Record:
    correct = round(top1 * IMAGES)
    return {
        "top1": correct / IMAGES,
        "top5": None,
        "loss": 0.25,
        "correct": correct,
        "count": IMAGES,
        "worst_class_top1": 0.5,
    }


def _record(method: str, sparsity: float | None, seed: int, top1: float) -> Record:
    left = 1 - (sparsity or 0)
    return {
        "schema": 1,
        "rules": 1,
        "hash": "0" * 64,
        "status": "done",
        "error": None,
        "track": "prune",
        "board": copy.deepcopy(BOARD),
        "method": {
            "name": method,
            "distribution": "pruneboard",
            "version": "0.1.0",
            "options": {},
            "traits": {
                "hits_target": True,
                "forward_passes": 2 if method == "probmask" else 1,
                "harden_at": 1.0,
                "control": CONTROLS.get(method),
            },
        },
        "model": {
            "name": "resnet20_cifar",
            "load_as": "resnet20_cifar",
            "create_args": {},
            "stem": "stock",
            "init": "random",
            "parameters": 10_500,
            "initial_sha256": f"{seed:064x}",
        },
        "data": {
            "name": "digits",
            "classes": 10,
            "image_size": 32,
            "train": 1297,
            "validation": 140,
            "test": IMAGES,
            "sha256": "d" * 64,
            "split_sha256": f"{seed + 1:064x}",
            "order_sha256": {"first": f"{seed + 2:064x}", "last": f"{seed + 3:064x}"},
            "augment": "crop",
        },
        "recipe": {"name": "digits", "epochs": 10, "lr": 0.1},
        "budget": {
            "epochs": 10,
            "steps": 200,
            "steps_per_epoch": 20,
            "harden_step": 200,
            "global_batch": 64,
            "norm_batch": 64,
            "limit_train": None,
        },
        "tuning": {"trials": 0, "source": None},
        "seed": seed,
        "seeds": {"init": 1, "split": 2, "order": 3, "augmentation": 4, "pruner": 5},
        "engine": {
            "deepspeed": "0.17",
            "zero": 0,
            "world_size": 1,
            "micro_batch": 64,
            "accumulation": 1,
            "precision": "fp32",
            "compile": False,
            "deterministic": True,
        },
        "hardware": {"device": "cpu", "processor": "any", "cores": 2, "threads": 2},
        "software": {"python": "3.11", "torch": "2.6", "pruneboard": "0.1.0", "commit": "c" * 40, "dirty": False},
        "sparsity": sparsity_block(sparsity),
        "metrics": {
            "test": _metrics(top1),
            "validation": _metrics(top1),
            "best_validation": {"top1": round(top1 * IMAGES) / IMAGES, "epoch": 9},
        },
        "cost": {
            "forward_passes": 2 if method == "probmask" else 1,
            "train_macs": 6_000_000,
            "dense_train_macs": 3_000_000,
            "relative_train_macs": 2.0 if method == "probmask" else 1.0,
            "macs_dense": 1_000_000,
            "macs_remaining": round(1_000_000 * left),
            "macs_definition": "one multiply-add is one MAC",
            "parameters": 10_500,
            "bytes": {"dense": 42_000, "bitmask": 5250, "csr": 9000},
            "wall_seconds": 12.5,
            "hook_seconds": 0.5,
            "peak_memory_bytes": 2**28,
        },
        "weights_sha256": content_hash({"method": method, "sparsity": sparsity, "seed": seed}),
        "lifecycle": {"started": "2025-01-01T00:00:00Z", "ended": "2025-01-01T00:00:12Z", "resumes": 0},
    }
