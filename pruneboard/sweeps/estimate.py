"""What runs will take, from a few measured steps of each kind of run.

Every method and model is started as a run would start it, on images of noise of the right size and number of
classes, and takes a few steps of both phases; evaluation is measured on a few batches. Whole runs are then sums.
Measured on as many processes at once as the sweep will use, because they slow each other down.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruneboard.api import Batch
from pruneboard.data import Dataset, calibration_batches, eval_batches, standing_in, train_batches
from pruneboard.data.batches import CALIBRATION
from pruneboard.data.noise import noise
from pruneboard.experiment import start
from pruneboard.experiment.listeners import NullListener
from pruneboard.experiment.prepare import pick_device, prepare, resolve_recipe
from pruneboard.spec import Recipe, RunSpec
from pruneboard.sweeps.board_file import Images
from pruneboard.sweeps.executors.workers import Outcome, Workers
from pruneboard.sweeps.plan import Cell
from pruneboard.training import loop
from pruneboard.training.evaluate import evaluate, reestimate_statistics
from pruneboard.training.state import Training

WARM_STEPS, STEPS = 2, 8
MOST_SECONDS = 4.0
"""After so long no further step is measured."""

NOISE_BATCHES, NOISE_BYTES = 16, 2**28
EVALUATED_BATCHES = 8
CALIBRATED = 4
"""Of the batches that statistics are re-estimated on; large networks take minutes for all."""

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
        problem: why it could not be measured; empty where it was.
    """

    label: str
    runs: int
    seconds: float
    disk_bytes: int
    problem: str = ""


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


def of_cells(cells: Sequence[Cell], images: Images, *, jobs: int, threads: int) -> Estimate:
    """Measure each kind of run among `cells` once, `jobs` at a time, and add up.

    Args:
        cells: what is to run.
        images: on what; their files are not read, and what reading them from disk takes does not count.
        jobs: runs at once.
        threads: of each process.
    """
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        kinds.setdefault(_kind(cell.spec), []).append(cell)
    tasks = [Task(members[len(members) // 2].spec, images) for members in kinds.values()]
    measured = _measured(tasks, jobs, threads)
    rows = tuple(
        _row(label, len(members), outcome) for (label, members), outcome in zip(kinds.items(), measured, strict=True)
    )
    total = sum(row.runs * row.seconds for row in rows)
    return Estimate(rows, total / max(1, min(jobs, len(cells))), sum(row.runs * row.disk_bytes for row in rows))


def _row(label: str, runs: int, outcome: Outcome) -> Row:
    if outcome.status != "done":
        return Row(label, runs, 0.0, 0, f"{outcome.status}: {outcome.message}")
    return Row(label, runs, outcome.value["seconds"], outcome.value["disk_bytes"])


def _kind(spec: RunSpec) -> str:
    options = "".join(f" {name}={value}" for name, value in sorted(spec.options.items()))
    return f"{spec.method}{options}, {spec.model}, {spec.track}"


def _measured(tasks: Sequence[Task], jobs: int, threads: int) -> list[Outcome]:
    """Return what became of each task, in their order."""
    workers = Workers(measure, jobs, threads)
    found: dict[int, Outcome] = {}
    waiting = deque(enumerate(tasks))
    running = 0
    try:
        while waiting or running:
            while waiting and running < jobs:
                workers.submit(*waiting.popleft())
                running += 1
            for outcome in workers.wait(1.0):
                running -= 1
                found[outcome.key] = outcome
    finally:
        workers.stop()
    return [found[key] for key in range(len(tasks))]


@dataclass(frozen=True)
class Task:
    """What is measured: a run of one kind, on so many images."""

    spec: RunSpec
    images: Images


def measure(task: Task, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Return the seconds and bytes that a run takes, from a few of its steps on noise. Leaves no file.

    Args:
        task: the run, and its images.
        on_step: told nothing: a measurement is short.
    """
    del on_step
    recipe = resolve_recipe(task.spec)
    with tempfile.TemporaryDirectory() as folder, standing_in(_noise(task.images, recipe, Path(folder))):
        job, dataset = prepare(dataclasses.replace(task.spec, results=folder))
        run = start.build_from_job(job, dataset, pick_device(task.spec), NullListener(), time.perf_counter())
        try:
            loop.prune_before_training(run)
            fixed = run.seconds + 2 * _calibration_seconds(run)
            search, tune = (
                _step_seconds(run, first) for first in (run.budget.harden_step // 2, run.budget.harden_step)
            )
            image = _image_seconds(run)
            disk = _disk_bytes(run)
        finally:
            run.engine.close()
    share = run.budget.harden_step / run.budget.total
    held_out = round(recipe.val_fraction * task.images.train)
    steps = run.epochs * ((task.images.train - held_out) // recipe.batch_size)
    evaluated = (run.epochs + 1) * held_out + task.images.test
    seconds = fixed + steps * (share * search + (1 - share) * tune) + evaluated * image
    return {"seconds": seconds, "disk_bytes": disk}


def _noise(images: Images, recipe: Recipe, folder: Path) -> Dataset:
    """Return a data set of noise, of a few batches, that looks like the board's."""
    size, batch = recipe.image_size, recipe.batch_size
    count = max(batch, min(NOISE_BATCHES * batch, NOISE_BYTES // (3 * size * size)))
    return noise(images.name, classes=images.classes, count=count, side=images.side, image_size=size, folder=folder)


def _step_seconds(run: Training, first: int) -> float:
    """Return the seconds of one step of the phase that `first` is in; 0 where that phase has none.

    Of a step of many micro-batches two are carried out: each further one takes as long as the second.
    """
    if first >= run.budget.total or not run.epochs:
        return 0.0
    batches = list(itertools.islice(train_batches(run.dataset, run.plan, epoch=0, start=0), NOISE_BATCHES))
    micro = len(batches[0])
    one = _timed_step(run, first, [batch[:1] for batch in batches])
    return one if micro == 1 else one + (micro - 1) * (_timed_step(run, first, [b[:2] for b in batches]) - one)


def _timed_step(run: Training, first: int, batches: Sequence[Sequence[Batch]]) -> float:
    """Return the mean seconds of a step, of as many as fit the time for it."""
    taken: list[float] = []
    while len(taken) < WARM_STEPS + 1 or (len(taken) < WARM_STEPS + STEPS and sum(taken) < MOST_SECONDS):
        step = min(first + len(taken), run.budget.total - 1)
        began = time.perf_counter()
        loop.train_step(run, step, batches[len(taken) % len(batches)])
        _wait_for(run)
        taken.append(time.perf_counter() - began)
    timed = taken[WARM_STEPS:]
    return sum(timed) / len(timed)


def _image_seconds(run: Training) -> float:
    """Return the seconds of evaluating one image."""
    batches = list(itertools.islice(eval_batches(run.dataset.test, run.dataset, run.plan), EVALUATED_BATCHES))
    run.engine.model.eval()
    began = time.perf_counter()
    evaluate(run.engine.forward, batches, len(run.dataset.classes), run.engine.sum)
    return (time.perf_counter() - began) / sum(len(labels) for _, labels in batches)


def _calibration_seconds(run: Training) -> float:
    """Return the seconds of one re-estimation."""
    began = time.perf_counter()
    reestimate_statistics(run.engine, calibration_batches(run.dataset, run.plan, CALIBRATED))
    _wait_for(run)
    return (time.perf_counter() - began) * CALIBRATION / CALIBRATED


def _wait_for(run: Training) -> None:
    if run.engine.device.type == "cuda":
        torch.cuda.synchronize(run.engine.device)


def _disk_bytes(run: Training) -> int:
    """Return what a finished run leaves: the folded weights, a bit per prunable weight, and its texts."""
    values = sum(p.numel() for name, p in run.engine.model.named_parameters() if "parametrizations" not in name)
    prunable = sum(layer.dense.numel() for layer in run.layers)
    return 4 * (values + prunable) + prunable // 8 + RECORD_BYTES
