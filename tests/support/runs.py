"""Small real runs for tests: the whole walk in a few seconds, on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneboard import RunSpec
from pruneboard.experiment import lifecycle

TINY = {"epochs": 2, "batch_size": 32, "warmup_epochs": 0.0}
"""128 training images and 14 for validation make four steps an epoch, eight in all."""

SHORT = {"probmask": {"samples": 2}, "synflow": {"rounds": 10}}
"""Options that a run has unless it says otherwise: what they shorten took most of so small a run."""


def tiny(results: Path | str, method: str = "magnitude", sparsity: float | None = 0.9, **changes: Any) -> RunSpec:
    """A spec that trains eight steps; `overrides` are added to the tiny recipe's, `options` to those of SHORT."""
    values: dict[str, Any] = {"model": "test_resnet", "limit_train": 142, "device": "cpu"} | changes
    values["options"] = SHORT.get(method, {}) | values.get("options", {})
    overrides = TINY | values.pop("overrides", {})
    return RunSpec(method=method, sparsity=sparsity, results=str(results), overrides=overrides, **values)


def run(results: Path | str, method: str = "magnitude", sparsity: float | None = 0.9, **changes: Any) -> dict[str, Any]:
    """The record of a tiny run."""
    return lifecycle.run(tiny(results, method, sparsity, **changes))


def folder(results: Path | str) -> Path:
    """The one run folder below `results`."""
    (found,) = Path(results).rglob("run.json")
    return found.parent
