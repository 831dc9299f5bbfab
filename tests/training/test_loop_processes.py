"""Training on several processes and at every ZeRO stage: equal masks, and writes that survive the next step."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from pruneboard import registry
from pruneboard.api import MaskPruner
from pruneboard.errors import AuditError
from pruneboard.experiment import lifecycle, listeners
from pruneboard.processes.launch import LocalProcesses
from pruneboard.scores import kept_of
from pruneboard.training import loop
from runs import TWO_PROCESSES, folder, ready_job, run


@dataclass(frozen=True, kw_only=True)
class Differs(MaskPruner):
    """Keeps the same number of positions on every process, at different places."""

    def before_step(self, layers, at):
        rank = int(os.environ.get("RANK", "0"))
        for layer in layers:
            keep = torch.arange(layer.dense.numel()).roll(rank).reshape(layer.dense.shape) < layer.keep
            layer.gate.set(keep)


@dataclass(frozen=True, kw_only=True)
class WritesInPlace(MaskPruner):
    """Changes weights in place, as is usual without DeepSpeed."""

    def before_step(self, layers, at):
        for layer in layers:
            layer.gate.set(torch.arange(layer.dense.numel()).reshape(layer.dense.shape) < layer.keep)

    def after_step(self, layers, at):
        with torch.no_grad():
            layers[0].dense.mul_(0.5)


def with_pruner(job, cls):
    """Carry out `job` with another pruner, of class `cls`."""
    registry.build = lambda *_: cls(sparsity=0.5)
    return lifecycle.execute_safely(job, listeners.NullListener())


@pytest.mark.slow
def test_masks_that_differ_between_processes_fail_the_run(tmp_path):
    """Masks with equal counts at different positions are found at the first evaluation, and the tensor is named."""
    with pytest.raises(AuditError, match=r"tensor conv1\.0/keep differs between processes at step 4"):
        LocalProcesses(with_pruner, (ready_job(tmp_path, sparsity=0.5, **TWO_PROCESSES), Differs), 2).result()


@pytest.mark.parametrize("zero", [1, 2])
def test_a_write_that_zero_would_undo_fails_the_run(tmp_path, monkeypatch, zero):
    """At ZeRO stages 1 and 2 a weight written without `assign` is named; at stage 0 such a write is correct."""
    monkeypatch.setattr(registry, "build", registry.build)
    with pytest.raises(AuditError, match=r"conv1\.0\..* was written in place, which ZeRO undoes .* Progress\.assign"):
        with_pruner(ready_job(tmp_path / "sharded", sparsity=0.5, zero=zero), WritesInPlace)
    assert with_pruner(ready_job(tmp_path / "plain", sparsity=0.5), WritesInPlace)["status"] == "done"


def probabilities(job):
    """Return sums and extremes of ProbMask's probabilities as the network sees them, over all steps of a run.

    They are read in the forward pass after the next optimizer step, where what a projection wrote must still be there.
    """
    sums, lowest, highest = [], [], []
    original = loop._forward_backward

    def watched(run, batches, passes):
        found = [layer.gate.probability.detach() for layer in run.layers]
        sums.append(sum(float(p.sum(dtype=torch.float64)) for p in found))
        lowest.append(min(float(p.min()) for p in found))
        highest.append(max(float(p.max()) for p in found))
        assert run.engine.first_unassigned(dict(run.engine.model.named_parameters())) is None
        return original(run, batches, passes)

    loop._forward_backward = watched
    lifecycle.execute_safely(job, listeners.NullListener())
    loop._forward_backward = original
    return max(sums[-2:]), min(lowest), max(highest), max(sums)


@pytest.mark.parametrize("procs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_probmask_is_within_its_budget_after_the_next_step(tmp_path, procs):
    """At each ZeRO stage, probabilities are in [0, 1] in every forward pass, and at the end they sum to the budget."""
    short = {"overrides": {"epochs": 2, "norm_batch": 16}}
    jobs = [ready_job(tmp_path / str(zero), "probmask", zero=zero, **short) for zero in (0, 1, 2)]
    n = sum(p.numel() for name, p in _plain(jobs[0]) if name.endswith("weight") and p.dim() > 1)
    found = each_in_turn(jobs) if procs == 1 else LocalProcesses(each_in_turn, (jobs,), procs).result()
    for end, lowest, highest, start in found:
        assert (lowest >= 0, highest <= 1) == (True, True)
        assert end <= kept_of(n, 0.9) * (1 + 1e-6)
        assert start > end


def each_in_turn(jobs):
    """Return what `probabilities` finds in one run after another."""
    return [probabilities(job) for job in jobs]


def _plain(job):
    from pruneboard import models

    return models.build_model(job.plan, init="random", seed=0).named_parameters()


@pytest.mark.parametrize(
    ("method", "zero"),
    [("probmask", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("probmask", 1), ("str", 1)))],
)
def test_zero_stages_train_alike(tmp_path, method, zero):
    """ZeRO 1 and 2 follow stage 0 step by step: what hooks assign is still there after the next optimizer step."""
    # Adam takes a full step for a gradient of any size, so at a high score rate rounding would show.
    options = {"travel": 0} if method == "probmask" else {}
    plain = run(tmp_path / "a", method, options=options)
    sharded = run(tmp_path / "b", method, options=options, zero=zero)
    assert sharded["sparsity"]["kept"] == plain["sparsity"]["kept"]
    a, b = ((folder(tmp_path / name) / "metrics.jsonl").read_text().splitlines() for name in "ab")
    for one, other in zip(map(json.loads, a), map(json.loads, b), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["sparsity"] == pytest.approx(one["sparsity"], abs=1e-3)
        assert other["diagnostics"] == pytest.approx(one["diagnostics"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_reach_what_one_process_reaches(tmp_path):
    """Two processes at each ZeRO stage end within the 99 % prediction interval of five seeds on one process."""
    options = {
        "method": "magnitude",
        "sparsity": 0.98,
        "limit_train": None,
        "overrides": {"epochs": 8, "norm_batch": 16},
    }
    alone = [run(tmp_path / f"seed{seed}", seed=seed, **options) for seed in range(5)]
    reached = np.array([record["metrics"]["test"]["top1"] for record in alone])
    # Rounding differs between stages and grows over a run, so one more run is one more draw of the same distribution.
    width = stats.t.ppf(0.995, len(reached) - 1) * reached.std(ddof=1) * np.sqrt(1 + 1 / len(reached))
    for zero in (0, 1, 2):
        together = run(tmp_path / f"zero{zero}", procs=2, zero=zero, **options)
        assert together["model"]["initial_sha256"] == alone[0]["model"]["initial_sha256"]
        assert together["data"] == alone[0]["data"]
        assert together["sparsity"]["kept"] == alone[0]["sparsity"]["kept"]
        assert first_loss(tmp_path / f"zero{zero}") == pytest.approx(first_loss(tmp_path / "seed0"), rel=0.02)
        assert together["metrics"]["test"]["top1"] == pytest.approx(reached.mean(), abs=width), (zero, reached)


def first_loss(results):
    """Return the mean training loss of the first epoch of the one run in a folder."""
    return json.loads((folder(results) / "metrics.jsonl").read_text().splitlines()[0])["loss"]
