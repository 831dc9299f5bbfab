"""Estimated costs: one measurement for each kind of run, extrapolated to all runs, and sizes of real files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from pruneboard.data import dataset_cache
from pruneboard.processes import phases
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
        found = [{"seconds": costs[task.spec.method], "disk_bytes": 100, "lower_bound": False} for task in tasks]
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


def test_slow_micro_batches_are_extrapolated_from_one(monkeypatch):
    """If one micro-batch takes longer than the time limit, two are not measured."""
    counts = []

    def timed_step(run, first, batches):
        counts.append(len(batches[0]))
        return 2 * estimate.MAX_SECONDS

    monkeypatch.setattr(estimate, "train_batches", lambda *_, **__: iter([["batch"] * 5] * 3))
    monkeypatch.setattr(estimate, "_timed_step", timed_step)
    run = SimpleNamespace(budget=SimpleNamespace(total=10), epochs=1, dataset=None, plan=None)
    assert estimate._step_seconds(run, 0) == 10 * estimate.MAX_SECONDS
    assert counts == [1]


def test_every_part_of_a_measurement_has_a_time_limit(tmp_path, monkeypatch):
    """Without any time, scoring is cut off and the estimate is a lower bound; of each other part one item is timed."""
    steps = []
    monkeypatch.setattr(estimate, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(estimate, "MAX_SCORING_SECONDS", 0.0)
    monkeypatch.setattr(estimate.loop, "train_step", lambda run, step, batches: steps.append(step))
    value = measure_run(MeasurementTask(tiny(tmp_path, "synflow", options={"rounds": 10**6}), DIGITS), print)
    assert value["lower_bound"]
    assert value["seconds"] > 0
    assert len(steps) == 2, "the phase is measured twice: SynFlow has no search"


def test_the_kind_that_is_measured_is_reported(tmp_path):
    """While a kind of run is measured, its name, number and the number of kinds are reported."""
    seen = []
    with phases.reported_to(lambda *report: seen.append(report)):
        found = estimate_runs(planned(tmp_path, ["magnitude", "random"], seeds=2), DIGITS, jobs=1, threads=1)
    assert [row.problem for row in found.rows] == ["", ""]
    assert list(dict.fromkeys(seen)) == [
        ("measuring magnitude, test_resnet, prune: kind", 1, 2),
        ("measuring random, test_resnet, prune: kind", 2, 2),
    ]


def test_an_invalid_run_is_refused_by_its_measurement(tmp_path):
    """A run that cannot start is reported by its error, and leaves no substitute data set behind."""
    with dataset_cache(), pytest.raises(Exception, match="prune_ta"):
        measure_run(MeasurementTask(tiny(tmp_path, options={"prune_ta": 0.5}), DIGITS), print)
    assert run(tmp_path)["data"]["name"] == "digits"
