"""Estimate the time and disk space of runs from a few measured steps of each kind of run.

A measurement starts a run in the normal way, but on noise images of the right size and number of classes. It times a
few steps of the search phase and of the fine-tuning phase, and the evaluation of a few batches, and extrapolates to the
whole run. Each part has a time limit, so that a kind of run takes at most about a minute. As many measurements run in
parallel as the sweep will have runs, because parallel runs slow each other down.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruneboard.api import Batch
from pruneboard.data import Dataset, calibration_batches, eval_batches, override_dataset, train_batches
from pruneboard.data.batches import CALIBRATION_BATCHES
from pruneboard.data.noise import noise_dataset
from pruneboard.errors import PruneboardError
from pruneboard.experiment import start
from pruneboard.experiment.listeners import NullListener
from pruneboard.experiment.prepare import pick_device, prepare, resolve_recipe
from pruneboard.processes import phases
from pruneboard.spec import Recipe, RunSpec
from pruneboard.sweeps.board_file import BoardData
from pruneboard.sweeps.executors.workers import Outcome, Workers
from pruneboard.sweeps.plan import PlannedRun
from pruneboard.training import loop
from pruneboard.training.evaluate import evaluate, reestimate_statistics
from pruneboard.training.state import Training

WARMUP_STEPS, TIMED_STEPS = 2, 8
MAX_SECONDS = 4.0
"""Time limit for the steps or batches of one measurement; at least one is timed in any case."""

MAX_SCORING_SECONDS = 15.0
"""Time limit for scoring before training. The estimate of a method that takes longer is a lower bound."""

MAX_NOISE_BATCHES, MAX_NOISE_BYTES = 16, 2**28
EVALUATED_BATCHES = 8
CALIBRATED_BATCHES = 4
"""Number of the `CALIBRATION_BATCHES` batches that are measured: a large network would need minutes for all of them."""

TEXT_BYTES = 64 * 1024
"""Approximate size of the record, the metrics and the log of a run."""


@dataclass(frozen=True)
class CostRow:
    """Estimated cost of the runs of one kind: those with the same method, options, model and track.

    Attributes:
        label: method, options, model and track.
        runs: number of runs.
        seconds: time of one run.
        disk_bytes: disk space of one run.
        problem: why the measurement failed; empty if it succeeded.
        lower_bound: whether the run takes longer than `seconds`, because scoring reached its time limit.
    """

    label: str
    runs: int
    seconds: float
    disk_bytes: int
    problem: str = ""
    lower_bound: bool = False


@dataclass(frozen=True)
class SweepEstimate:
    """Estimated cost of a sweep.

    Attributes:
        rows: one row for each kind of run.
        seconds: time of all runs together, with the planned number of parallel runs.
        disk_bytes: disk space of all runs together.
    """

    rows: tuple[CostRow, ...]
    seconds: float
    disk_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return dataclasses.asdict(self)


def estimate_runs(runs: Sequence[PlannedRun], data: BoardData, *, jobs: int, threads: int) -> SweepEstimate:
    """Measure one run of each kind, `jobs` at a time, and add up the costs of all runs.

    Args:
        runs: the runs to estimate.
        data: counts and size of the images. Their files are not read, and the estimate does not include reading them.
        jobs: number of parallel runs.
        threads: threads of each process.
    """
    kinds: dict[str, list[PlannedRun]] = {}
    for run in runs:
        kinds.setdefault(_kind(run.spec), []).append(run)
    tasks = [MeasurementTask(members[len(members) // 2].spec, data) for members in kinds.values()]
    outcomes = _measure_all(tasks, jobs, threads)
    rows = tuple(
        _row(label, len(members), outcome) for (label, members), outcome in zip(kinds.items(), outcomes, strict=True)
    )
    total = sum(row.runs * row.seconds for row in rows)
    return SweepEstimate(rows, total / max(1, min(jobs, len(runs))), sum(row.runs * row.disk_bytes for row in rows))


def _row(label: str, runs: int, outcome: Outcome) -> CostRow:
    if outcome.status != "done":
        return CostRow(label, runs, 0.0, 0, f"{outcome.status}: {outcome.message}")
    return CostRow(label, runs, **outcome.value)


def _kind(spec: RunSpec) -> str:
    options = "".join(f" {name}={value}" for name, value in sorted(spec.options.items()))
    return f"{spec.method}{options}, {spec.model}, {spec.track}"


def _measure_all(tasks: Sequence[MeasurementTask], jobs: int, threads: int) -> list[Outcome]:
    """Return the outcomes of all tasks, in the order of the tasks."""
    workers = Workers(measure_run, jobs, threads)
    outcomes: dict[int, Outcome] = {}
    waiting = deque(enumerate(tasks))
    running: list[int] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting[0][0])
                workers.submit(*waiting.popleft())
            oldest = running[0]
            phases.report(f"measuring {_kind(tasks[oldest].spec)}: kind", oldest + 1, len(tasks))
            for outcome in workers.wait(1.0):
                running.remove(outcome.key)
                outcomes[outcome.key] = outcome
    finally:
        workers.stop()
    return [outcomes[key] for key in range(len(tasks))]


@dataclass(frozen=True)
class MeasurementTask:
    """A run to measure, and the data set that it would use."""

    spec: RunSpec
    data: BoardData


def measure_run(task: MeasurementTask, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Estimate the last fields of a `CostRow` from a few steps of a run on noise. Leaves no file.

    Args:
        task: the run and its data set.
        on_step: not called, because a measurement is short; every worker function has this parameter.
    """
    del on_step
    recipe = resolve_recipe(task.spec)
    with tempfile.TemporaryDirectory() as folder, override_dataset(_noise(task.data, recipe, Path(folder))):
        job, dataset = prepare(dataclasses.replace(task.spec, results=folder))
        run = start.build_from_job(job, dataset, pick_device(task.spec), NullListener(), time.perf_counter())
        try:
            scored = _scores_in_time(run)
            fixed_seconds = run.seconds + 2 * _calibration_seconds(run)
            search_seconds = _step_seconds(run, run.budget.harden_step // 2)
            finetune_seconds = _step_seconds(run, run.budget.harden_step)
            image_seconds = _image_seconds(run)
            disk_bytes = _disk_bytes(run)
        finally:
            run.engine.close()
    # The budget of `run` counts the steps on the noise images. Only its ratio of the phases applies to the real data,
    # so the number of steps follows from the counts of the board file.
    search_share = run.budget.harden_step / run.budget.total
    validation = round(recipe.val_fraction * task.data.train)
    steps = run.epochs * ((task.data.train - validation) // recipe.batch_size)
    evaluated = (run.epochs + 1) * validation + task.data.test  # after every epoch and at the end; then the test images
    step_seconds = search_share * search_seconds + (1 - search_share) * finetune_seconds
    seconds = fixed_seconds + steps * step_seconds + evaluated * image_seconds
    return {"seconds": seconds, "disk_bytes": disk_bytes, "lower_bound": not scored}


class _TimeOverError(PruneboardError):
    """A measurement took too long."""


def _scores_in_time(run: Training) -> bool:
    """Let a method score the weights, and return whether that ended within the time limit.

    If it did not, all weights are kept. Steps take as long with every mask.
    """
    deadline = time.perf_counter() + MAX_SCORING_SECONDS

    def stop(*_: object) -> None:
        if time.perf_counter() > deadline:
            raise _TimeOverError

    try:
        with phases.reported_to(stop):  # every pass through the network is reported
            loop.prune_before_training(run)
    except _TimeOverError:
        return False
    return True


def _noise(data: BoardData, recipe: Recipe, folder: Path) -> Dataset:
    """Return a data set of a few batches of noise with the image size and the classes of `data`."""
    size, batch = recipe.image_size, recipe.batch_size
    count = max(batch, min(MAX_NOISE_BATCHES * batch, MAX_NOISE_BYTES // (3 * size * size)))
    return noise_dataset(data.name, classes=data.classes, count=count, side=data.side, image_size=size, folder=folder)


def _step_seconds(run: Training, first: int) -> float:
    """Return the seconds of one step in the phase that contains step `first`; 0 if the phase has no steps.

    A step with many micro-batches is extrapolated from steps with one and with two micro-batches, because every further
    micro-batch takes as long as the second.
    """
    if first >= run.budget.total or not run.epochs:
        return 0.0
    batches = list(itertools.islice(train_batches(run.dataset, run.plan, epoch=0, start=0), MAX_NOISE_BATCHES))
    micro = len(batches[0])
    one = _timed_step(run, first, [batch[:1] for batch in batches])
    if one >= MAX_SECONDS:  # measuring two micro-batches as well would take too long
        return micro * one
    return one if micro == 1 else one + (micro - 1) * (_timed_step(run, first, [b[:2] for b in batches]) - one)


def _timed_step(run: Training, first: int, batches: Sequence[Sequence[Batch]]) -> float:
    """Return the mean seconds of the steps from `first` on, without warm-up steps unless they take all the time."""
    times: list[float] = []
    while not times or (len(times) < WARMUP_STEPS + TIMED_STEPS and sum(times) < MAX_SECONDS):
        step = min(first + len(times), run.budget.total - 1)
        began = time.perf_counter()
        loop.train_step(run, step, batches[len(times) % len(batches)])
        _synchronize(run)
        times.append(time.perf_counter() - began)
    timed = times[WARMUP_STEPS:] or times[-1:]
    return sum(timed) / len(timed)


def _image_seconds(run: Training) -> float:
    """Return the seconds for the evaluation of one image."""
    batches = list(itertools.islice(eval_batches(run.dataset.test, run.dataset, run.plan), EVALUATED_BATCHES))
    used: list[Batch] = []
    run.engine.model.eval()
    began = time.perf_counter()
    evaluate(run.engine.forward, _in_time(batches, used), len(run.dataset.classes), run.engine.sum)
    return (time.perf_counter() - began) / sum(len(labels) for _, labels in used)


def _calibration_seconds(run: Training) -> float:
    """Return the seconds for one re-estimation of the batch statistics."""
    used: list[Batch] = []
    began = time.perf_counter()
    reestimate_statistics(run.engine, _in_time(calibration_batches(run.dataset, run.plan, CALIBRATED_BATCHES), used))
    _synchronize(run)
    total = CALIBRATION_BATCHES * len(run.plan.chunks)
    return (time.perf_counter() - began) * total / max(1, len(used))


def _in_time(batches: Iterable[Batch], used: list[Batch]) -> Iterator[Batch]:
    """Yield `batches` until the time limit, and append them to `used`."""
    began = time.perf_counter()
    for batch in batches:
        used.append(batch)
        yield batch
        if time.perf_counter() - began > MAX_SECONDS:
            return


def _synchronize(run: Training) -> None:
    """Wait until the GPU has finished its work, so that the clock measures all of it."""
    if run.engine.device.type == "cuda":
        torch.cuda.synchronize(run.engine.device)


def _disk_bytes(run: Training) -> int:
    """Return the size of a finished run's files: float32 weights, one mask bit per prunable weight, and text files."""
    # A gated weight is stored as its dense weight; the parameters of its gate are not stored.
    values = sum(p.numel() for name, p in run.engine.model.named_parameters() if "parametrizations" not in name)
    prunable = sum(layer.dense.numel() for layer in run.layers)
    return 4 * (values + prunable) + prunable // 8 + TEXT_BYTES
