"""Launchers that show each process one GPU only, its own."""

from __future__ import annotations

import pytest
import torch

from cuda_tasks import runs_of_a_task
from pruneboard.errors import UsageError
from pruneboard.experiment.prepare import device_of
from pruneboard.processes.child import Child
from pruneboard.processes.world import free_port
from runs import tiny


def job_step(rank, port, gpu):
    """The variables that srun --gpus-per-task=1 sets for the first and the fourth task of a node."""
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_LOCALID": str(3 * rank),
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": str(gpu),
    }


def test_each_task_uses_the_only_gpu_that_it_sees(rehearsed, tmp_path):
    """Tasks that share a GPU are refused on both; the fourth task of a node uses the only GPU that it sees."""
    spec = tiny(tmp_path, device="cuda", model="resnet8_cifar", overrides={"epochs": 1, "norm_batch": 16})
    port = free_port()
    tasks = [[(job_step(rank, port, gpu), spec) for gpu in (0, rank)] for rank in (0, 1)]
    found = [child.pipe.recv() for child in [Child(runs_of_a_task, attempts) for attempts in tasks]]
    refusals, gpus = zip(*found, strict=True)
    assert [refusal.partition(":")[0] for refusal in refusals] == [
        "processes 0 and 1 use the same GPU, and each process needs its own"
    ] * 2
    assert gpus == ("Simulated GPU 0", "Simulated GPU 1")


def test_local_rank_selects_one_of_several_gpus(rehearsed, monkeypatch, tmp_path):
    """With two visible GPUs, LOCAL_RANK 1 uses the second, and LOCAL_RANK 3 is refused with both numbers."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of(tiny(tmp_path, device="cuda")) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UsageError, match=r"4 processes need one GPU each, and 2 are visible"):
        device_of(tiny(tmp_path, device="cuda"))
