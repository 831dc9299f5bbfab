"""What runs will take, from a few measured steps of each kind of run.

Every method and model is started as a run would start it, on images of noise of the right size and number of
classes, and takes a few steps of both phases; evaluation is measured on a few batches. Whole runs are then sums.
Measured on as many processes at once as the sweep will use, because they slow each other down.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruneboard import assemble, train
from pruneboard.data import Dataset, Split, calibration_batches, eval_batches, train_batches
from pruneboard.data.splits import Pixels
from pruneboard.errors import RunError
from pruneboard.evaluate import evaluate, reestimate
from pruneboard.experiment import Silent
from pruneboard.prepare import Job, pick_device, prepare
from pruneboard.spec import RunSpec
from pruneboard.sweeps.plan import Cell
from pruneboard.sweeps.workers import Workers
from pruneboard.training import Training

WARM_STEPS, STEPS = 2, 6
EVALUATED_BATCHES = 8
RECORD_BYTES = 64 * 1024
"""Record, metrics and log of a run, about."""


@dataclass(frozen=True)
class Row:
    """What one method takes.

    Attributes:
        label: method, options, model and track.
        runs: how many of it are to run.
        seconds: of one of them.
        disk_bytes: what one of them leaves.
    """

    label: str
    runs: int
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What some runs take.

    Attributes:
        rows: by method.
        seconds: of all, so many at once as was said.
        disk_bytes: that all leave.
    """

    rows: tuple[Row, ...]
    seconds: float
    disk_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return dataclasses.asdict(self)


def of_cells(cells: Sequence[Cell], *, jobs: int, threads: int) -> Estimate:
    """Measure each kind of run among `cells` once, `jobs` at a time, and add up.

    Args:
        cells: what is to run.
        jobs: runs at once.
        threads: of each process.

    Raises:
        RunError: a method cannot take a step.
    """
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        kinds.setdefault(_kind(cell.spec), []).append(cell)
    measured = _measured([members[len(members) // 2].spec for members in kinds.values()], jobs, threads)
    rows = tuple(
        Row(label, len(members), found["seconds"], found["disk_bytes"])
        for (label, members), found in zip(kinds.items(), measured, strict=True)
    )
    total = sum(row.runs * row.seconds for row in rows)
    return Estimate(rows, total / max(1, min(jobs, len(cells))), sum(row.runs * row.disk_bytes for row in rows))


def _kind(spec: RunSpec) -> str:
    options = "".join(f" {name}={value}" for name, value in sorted(spec.options.items()))
    return f"{spec.method}{options}, {spec.model}, {spec.track}"


def _measured(specs: Sequence[RunSpec], jobs: int, threads: int) -> list[Mapping[str, Any]]:
    workers = Workers(measure, jobs, threads)
    found: dict[int, Mapping[str, Any]] = {}
    waiting = list(enumerate(specs))
    try:
        running = 0
        while waiting or running:
            while waiting and running < jobs:
                workers.submit(*waiting.pop(0))
                running += 1
            for outcome in workers.wait(1.0):
                running -= 1
                if outcome.status != "done":
                    raise RunError(f"{_kind(specs[outcome.key])} cannot be measured: {outcome.message}")
                found[outcome.key] = outcome.value
    finally:
        workers.stop()
    return [found[key] for key in range(len(specs))]


def measure(spec: RunSpec, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Return the seconds and bytes that a run of `spec` takes, from a few of its steps. Leaves no file.

    Args:
        spec: a run.
        on_step: told nothing: a measurement is short.
    """
    del on_step
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        job, dataset = prepare(dataclasses.replace(spec, results=folder))
        opened = time.perf_counter() - began
        device = pick_device(spec)
        run = assemble.training(job, _noise(dataset, job), device, Silent(), time.perf_counter())
        try:
            train.prune_before_training(run)
            started = run.seconds
            search, tune = (_step_seconds(run, at) for at in (0, run.budget.harden_step))
            image, batch = _image_seconds(run), _calibration_seconds(run)
            disk = _disk_bytes(run)
        finally:
            run.engine.close()
    epochs = run.epochs
    per_epoch = len(dataset.train) // job.recipe.batch_size
    total = epochs * per_epoch
    searching = round(run.pruner.traits(job.track).harden_at * total)  # type: ignore[arg-type]
    looked_at = (epochs + 1) * len(dataset.validation) + len(dataset.test)
    steps = searching * search + (total - searching) * tune
    fixed = min(opened, 1.0) + started + 2 * batch
    return {"seconds": fixed + steps + looked_at * image, "disk_bytes": disk}


def _noise(dataset: Dataset, job: Job) -> Dataset:
    """Return images of noise like those of `dataset`, enough for the steps that are measured."""
    count = job.recipe.batch_size * (WARM_STEPS + STEPS)
    size = dataset.image_size
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % len(dataset.classes)
    split = Split.of_all(Pixels(stored), labels)
    return dataclasses.replace(dataset, train=split, validation=split, test=split)


def _step_seconds(run: Training, first: int) -> float:
    """Return the seconds of one step of the phase that `first` is in; 0 where that phase has none."""
    if first >= run.budget.total or not run.epochs:
        return 0.0
    batches = list(train_batches(run.dataset, run.plan, epoch=0, start=0))
    taken = []
    for index in range(WARM_STEPS + STEPS):
        began = time.perf_counter()
        train.train_step(run, min(first + index, run.budget.total - 1), batches[index % len(batches)])
        _wait_for(run)
        taken.append(time.perf_counter() - began)
    return sum(taken[WARM_STEPS:]) / STEPS


def _image_seconds(run: Training) -> float:
    """Return the seconds of evaluating one image."""
    batches = list(
        eval_batches(
            run.dataset.test, run.dataset, batch_size=run.plan.micro_batch, rank=0, world=1, device=run.plan.device
        )
    )[:EVALUATED_BATCHES]
    run.engine.model.eval()
    began = time.perf_counter()
    evaluate(run.engine.forward, batches, len(run.dataset.classes), run.engine.sum)
    return (time.perf_counter() - began) / sum(len(labels) for _, labels in batches)


def _calibration_seconds(run: Training) -> float:
    began = time.perf_counter()
    reestimate(run.engine, calibration_batches(run.dataset, run.plan))
    _wait_for(run)
    return time.perf_counter() - began


def _wait_for(run: Training) -> None:
    if run.engine.device.type == "cuda":
        torch.cuda.synchronize(run.engine.device)


def _disk_bytes(run: Training) -> int:
    """Return what a finished run leaves: the folded weights, a bit per prunable weight, and its texts."""
    values = sum(p.numel() for name, p in run.engine.model.named_parameters() if "parametrizations" not in name)
    prunable = sum(layer.dense.numel() for layer in run.layers)
    return 4 * (values + prunable) + prunable // 8 + RECORD_BYTES
