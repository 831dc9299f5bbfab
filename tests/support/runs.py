"""Small real runs for tests: from spec to record in about a second, on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruneboard import RunSpec
from pruneboard.errors import UsageError
from pruneboard.experiment import lifecycle
from pruneboard.experiment.prepare import Job, prepare
from pruneboard.records import runfolder

TINY = {"epochs": 2, "batch_size": 32, "warmup_epochs": 0.0}
"""130 of the 142 images are for training: four steps per epoch, eight in all."""

TWO_PROCESSES = {"overrides": {"epochs": 3, "norm_batch": 16}}
"""A tiny run that two processes can share."""

SHORT = {"probmask": {"samples": 2}, "synflow": {"rounds": 10}}
"""Default options of a tiny run, for methods that would otherwise take most of its time."""


def tiny(results: Path | str, method: str = "magnitude", sparsity: float | None = 0.9, **changes: Any) -> RunSpec:
    """Return a spec that trains eight steps; `overrides` extend those of TINY, `options` those of SHORT."""
    values: dict[str, Any] = {"model": "test_resnet", "limit_train": 142, "device": "cpu"} | changes
    values["options"] = SHORT.get(method, {}) | values.get("options", {})
    overrides = TINY | values.pop("overrides", {})
    return RunSpec(method=method, sparsity=sparsity, results=str(results), overrides=overrides, **values)


def run(results: Path | str, method: str = "magnitude", sparsity: float | None = 0.9, **changes: Any) -> dict[str, Any]:
    """Carry out a tiny run and return its record."""
    return lifecycle.run(tiny(results, method, sparsity, **changes))


def ready_job(results: Path | str, method: str = "magnitude", sparsity: float | None = 0.9, **changes: Any) -> Job:
    """Return the job of a tiny run, with its folder prepared, for tests that call `execute` themselves."""
    job, _ = prepare(tiny(results, method, sparsity, **changes))
    runfolder.begin(job.folder)
    return job


def refusal(place: Path, *arguments: Any, **changes: Any) -> str:
    """Return the message that refuses a tiny run before anything is written."""
    with pytest.raises(UsageError) as caught:
        prepare(tiny(place, *arguments, **changes))
    assert not any(place.iterdir())
    return str(caught.value)


def folder(results: Path | str) -> Path:
    """Return the only run folder below `results`."""
    (found,) = Path(results).rglob("run.json")
    return found.parent
