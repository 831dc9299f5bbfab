"""Whole runs on simulated GPUs: every built-in method, ZeRO, several processes, resume, and evaluation."""

from __future__ import annotations

import pytest
import torch

from engine_cases import STAGES
from pruneboard.artifacts.verification.verify import verify
from pruneboard.errors import InterruptedRunError, OutOfMemoryError
from pruneboard.records import store
from pruneboard.training.engine import Engine
from pruneboard_magnitude import Magnitude
from rehearsal import isolated_rehearsal
from resume_cases import RUNS, assert_same_run, first_steps, signal_at
from runs import folder, run

SMALL = {"model": "resnet8_cifar", "overrides": {"epochs": 1}}
"""Four steps of a network for small images."""

SHARED = {"overrides": {"epochs": 1, "norm_batch": 16}}
"""The same, such that two processes can share a batch."""

ALL = {
    **RUNS,
    "supermask random": {"method": "random", "track": "supermask", "sparsity": 0.5},
}
"""Every built-in method on each of its tracks."""


def on_cuda(results, method="magnitude", **changes):
    """Carry out a small run on the simulated GPUs and return its record."""
    return run(results, method, device="cuda", **(SMALL | changes))


def values_of(record):
    """What a run on the CPU and one on CUDA have in common, although they draw other random numbers."""
    return {
        "initial weights": record["model"]["initial_sha256"],
        "order": record["data"]["order_sha256"],
        "prunable": record["sparsity"]["prunable"],
        "hash": record["hash"],
        "forward passes": record["cost"]["forward_passes"],
        "multiply-adds": record["cost"]["macs_dense"],
    }


@pytest.mark.parametrize("name", ALL)
def test_every_method_runs_on_each_track(rehearsed, tmp_path, name):
    """The run ends with the number of weights that it has to keep, on the device that its record names."""
    record = on_cuda(tmp_path, **ALL[name])
    assert record["status"] == "done"
    assert record["hardware"]["device"] == "cuda"
    assert record["hardware"]["gpu"] == "Simulated GPU 0"
    assert record["cost"]["peak_memory_bytes"] > 4 * record["cost"]["parameters"]
    if record["sparsity"]["keep"] is not None:
        assert record["sparsity"]["kept"] == record["sparsity"]["keep"]


@pytest.mark.parametrize("method", ["rigl", pytest.param("magnitude", marks=pytest.mark.slow)])
def test_a_run_without_draws_equals_the_one_on_the_cpu(rehearsed, tmp_path, method):
    """Same start, data and budget; the losses agree up to rounding, because the arithmetic is the same."""
    there, here = on_cuda(tmp_path / "cuda", method), run(tmp_path / "cpu", method, **SMALL)
    assert values_of(there) == values_of(here)
    assert there["metrics"]["test"]["loss"] == pytest.approx(here["metrics"]["test"]["loss"], rel=1e-3)


@pytest.mark.parametrize("method", ["probmask", pytest.param("rigl", marks=pytest.mark.slow)])
def test_zero_gives_the_same_result(rehearsed, tmp_path, method):
    """With ZeRO 1 and 2, learned and written masks end as at stage 0, up to rounding."""
    plain, *partitioned = (on_cuda(tmp_path / str(stage), method, zero=stage) for stage in STAGES)
    assert [record["engine"]["zero"] for record in partitioned] == [1, 2]
    for record in partitioned:
        assert record["sparsity"]["kept"] == plain["sparsity"]["kept"]
        assert record["metrics"]["test"]["loss"] == pytest.approx(plain["metrics"]["test"]["loss"], rel=1e-3)


@pytest.mark.parametrize("stage", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_two_processes_use_a_gpu_each(rehearsed, tmp_path, stage):
    """Two processes train one network, one per GPU; the process that started them holds no memory of a GPU."""
    record = on_cuda(tmp_path, "probmask", procs=2, zero=stage, **SHARED)
    assert record["hardware"]["gpu"] == "Simulated GPU 0"
    assert record["engine"]["world_size"] == 2
    assert record["sparsity"]["kept"] == record["sparsity"]["keep"]
    assert not rehearsed.gpus.initialized


def test_a_resumed_run_ends_with_the_same_bits(rehearsed, tmp_path, monkeypatch):
    """A run that is interrupted during the search and resumed ends as one that was not interrupted."""
    options = {"checkpoint_every": 2, "overrides": {"epochs": 2}}
    on_cuda(tmp_path / "whole", "probmask", **options)
    signal_at(monkeypatch, 5)
    with pytest.raises(InterruptedRunError):
        on_cuda(tmp_path / "stopped", "probmask", **options)
    monkeypatch.undo()
    on_cuda(tmp_path / "stopped", "probmask", **options)
    assert first_steps(tmp_path / "stopped") == [0, 5]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_files_of_a_run_on_cuda_are_verified_on_the_cpu(tmp_path):
    """Saved weights and masks are those of the record, and give its scores on the CPU: `verify` certifies the run."""
    with isolated_rehearsal():
        on_cuda(tmp_path, "probmask")
    (found,) = verify([folder(tmp_path)])
    assert found.verdict == "certified"


def test_float32_is_not_rounded_to_tf32(rehearsed, tmp_path):
    """Runs switch TF32 off, for convolutions and for matrix products, and record that it was off."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert on_cuda(tmp_path)["engine"]["tf32"] is False
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_probmask_draws_only_while_it_searches(rehearsed, tmp_path):
    """Half the steps of a search draw half as often: in fine-tuning the masks are constants."""
    draws = {}
    for share in (0.5, 1.0):
        rehearsed.counts.clear()
        on_cuda(tmp_path / str(share), "probmask", options={"harden_at": share})
        draws[share] = rehearsed.counts.operations["other", "uniform_"]
    assert 0 < 2 * draws[0.5] == draws[1.0]


@pytest.mark.parametrize("part", ["forward", "before_step"])
def test_a_failed_allocation_of_a_library_is_out_of_memory(rehearsed, tmp_path, monkeypatch, part):
    """When cuBLAS has no memory, in the network or in a hook, the run ends as `oom`, and its message has the reason."""

    def fail(*_):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(*{"forward": (Engine, "forward"), "before_step": (Magnitude, "before_step")}[part], fail)
    with pytest.raises(OutOfMemoryError, match=r"lower --batch-size .*CUBLAS_STATUS_ALLOC_FAILED"):
        on_cuda(tmp_path)
    assert store.read(folder(tmp_path) / "run.json")["status"] == "oom"
