"""Estimated costs: one measurement for each kind of run, extrapolated to all runs, and sizes of real files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from pruneboard.data import dataset_cache
from pruneboard.sweeps import estimate
from pruneboard.sweeps.board_file import BoardData
from pruneboard.sweeps.estimate import MeasurementTask, estimate_runs, measure_run
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.plan import PlannedRun
from runs import folder, run, tiny

DIGITS = BoardData(name="digits", train=142, test=355, classes=10, side=8, limit_train=142)


def planned(results, methods, seeds):
    """Return planned runs of some methods, seed by seed."""
    specs = [tiny(results, name, seed=seed, track="prune") for seed in range(seeds) for name in methods]
    return [PlannedRun(spec, "", results, "missing") for spec in specs]


@pytest.mark.parametrize("jobs", [1, 2, 100])
def test_the_estimate_adds_up_the_runs_of_every_kind(tmp_path, monkeypatch, jobs):
    """Each kind of run is measured once, counts as often as it occurs, and `jobs` runs share the time."""
    costs = {"magnitude": 10.0, "random": 1.0, "gmp": 0.0}

    def measure_all(tasks, jobs, threads):
        measured.extend(task.spec.method for task in tasks)
        found = [{"seconds": costs[task.spec.method], "disk_bytes": 100} for task in tasks]
        return [Outcome(key, "done" if value["seconds"] else "failed", value, "no") for key, value in enumerate(found)]

    measured: list = []
    monkeypatch.setattr(estimate, "_measure_all", measure_all)
    found = estimate_runs(planned(tmp_path, costs, seeds=3), DIGITS, jobs=jobs, threads=1)
    assert measured == list(costs)
    assert [(row.runs, row.seconds, row.problem) for row in found.rows] == [
        (3, 10.0, ""),
        (3, 1.0, ""),
        (3, 0.0, "failed: no"),
    ]
    assert found.seconds == pytest.approx(33 / min(jobs, 9))
    assert found.disk_bytes == 600
    assert found.as_dict()["rows"][0]["label"] == "magnitude, test_resnet, prune"


def test_nothing_to_run_costs_nothing(monkeypatch):
    """Without runs the estimate is zero."""
    monkeypatch.setattr(estimate, "_measure_all", lambda tasks, jobs, threads: [])
    found = estimate_runs([], DIGITS, jobs=2, threads=1)
    assert (found.rows, found.seconds, found.disk_bytes) == ((), 0.0, 0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure a tiny run, and execute it; return the measurement and the results folder."""
    results = tmp_path_factory.mktemp("results")
    spec = tiny(results)
    value = measure_run(MeasurementTask(spec, DIGITS), lambda step, total: pytest.fail("a measurement has no progress"))
    assert list(results.iterdir()) == [], "a measurement leaves no file"
    run(results)
    return value, results


def test_the_estimated_size_is_that_of_a_real_run(measured):
    """The estimated disk space of a run is the size of its real folder, apart from the text files."""
    value, results = measured
    files = [path for path in folder(results).rglob("*") if path.is_file()]
    assert value["disk_bytes"] == pytest.approx(sum(path.stat().st_size for path in files), abs=estimate.TEXT_BYTES)


@pytest.mark.parametrize("search_seconds", [1000.0, 3000.0])
def test_the_estimate_counts_the_steps_and_images_of_a_real_run(measured, tmp_path, monkeypatch, search_seconds):
    """The time adds up as many steps of both phases, and as many evaluated images, as a real run has."""
    made = json.loads((folder(measured[1]) / "run.json").read_text())
    budget, data = made["budget"], made["data"]
    first_steps = []

    def step_seconds(run, first):
        first_steps.append(first)
        return search_seconds if first < run.budget.harden_step else 1000.0

    monkeypatch.setattr(estimate, "_step_seconds", step_seconds)
    monkeypatch.setattr(estimate, "_image_seconds", lambda run: 10.0)
    value = measure_run(MeasurementTask(tiny(tmp_path), DIGITS), print)
    search = budget["harden_step"]
    evaluated = (budget["epochs"] + 1) * data["validation"] + data["test"]
    expected = search * search_seconds + (budget["steps"] - search) * 1000.0 + evaluated * 10.0
    # The rest is the measured time of start and re-estimation, and a few images: the stratified validation
    # split of a real run differs from the stated fraction.
    assert value["seconds"] == pytest.approx(expected, rel=0.01)
    assert len(first_steps) == 2


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_a_step_is_extrapolated_from_two_micro_batches(monkeypatch, micro):
    """The time of a step with many micro-batches is that of the first plus that of every further one."""
    monkeypatch.setattr(estimate, "train_batches", lambda *_, **__: iter([["batch"] * micro] * 3))
    monkeypatch.setattr(estimate, "_timed_step", lambda run, first, batches: 1.0 + 0.25 * len(batches[0]))
    run = SimpleNamespace(budget=SimpleNamespace(total=10), epochs=1, dataset=None, plan=None)
    assert estimate._step_seconds(run, 0) == pytest.approx(1.0 + 0.25 * micro)
    assert estimate._step_seconds(run, 10) == 0.0, "a phase without steps takes no time"


def test_an_invalid_run_is_refused_by_its_measurement(tmp_path):
    """A run that cannot start is reported by its error, and leaves no substitute data set behind."""
    with dataset_cache(), pytest.raises(Exception, match="prune_ta"):
        measure_run(MeasurementTask(tiny(tmp_path, options={"prune_ta": 0.5}), DIGITS), print)
    assert run(tmp_path)["data"]["name"] == "digits"
