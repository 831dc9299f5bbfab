"""Board files for tests: `write_board` writes a dictionary of values as TOML."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

BOARDS = sorted((Path(__file__).parents[2] / "benchmarks" / "boards").glob("*.toml"))
"""The board files of this repository."""

SMALL: dict[str, Any] = {
    "models": ["test_resnet"],
    "seeds": 2,
    "data": {"name": "digits", "train": 1442, "test": 355, "classes": 10, "side": 8},
    "tracks": {"prune": {"sparsities": [0.5, 0.9]}},
    "methods": [{"name": "dense"}, {"name": "magnitude", "options": {"prune_at": 0.25}, "tuning": {"trials": 3}}],
}

CIFAR10 = {"name": "cifar10", "train": 50_000, "test": 10_000, "classes": 10, "side": 32}
IMAGENET = {"name": "imagenet", "train": 1_281_167, "test": 50_000, "classes": 1000, "side": 224}

FEW: dict[str, Any] = {
    "title": "a few digits",
    "models": ["test_resnet"],
    "seeds": 2,
    "data": {"name": "digits", "train": 142, "test": 355, "classes": 10, "side": 8, "limit_train": 142},
    "training": {"epochs": 2, "batch_size": 32, "image_size": 16, "warmup_epochs": 0},
    "tracks": {"prune": {"sparsities": [0.5]}, "supermask": {"sparsities": [0.9]}},
    "methods": [{"name": "magnitude"}, {"name": "edge-popup", "options": {"lr": 1e30}}, {"name": "dense"}],
}
"""Runs of a second each: four succeed, and two fail because their learning rate is absurd."""

REMOVED = object()


def toml(value: Any) -> str:
    """Return a value in TOML, with inline tables. Strings, numbers and booleans are written as in JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def write_board(folder: Path | str, values: dict[str, Any], name: str = "small") -> Path:
    """Write a board file and return its path."""
    path = Path(folder, f"{name}.toml")
    path.write_text("".join(f"{toml(key)} = {toml(item)}\n" for key, item in values.items()), encoding="utf-8")
    return path


def small(path: str, value: Any = REMOVED) -> dict[str, Any]:
    """Return the values of SMALL with the value at a dotted path replaced or removed."""
    values = copy.deepcopy(SMALL)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    block: Any = values
    for key in parents:
        block = block[key] if isinstance(block, list) else block.setdefault(key, {})
    if value is not REMOVED:
        block[last] = value
    else:
        del block[last]
    return values
